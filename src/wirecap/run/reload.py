"""New settings for a running capture: the threshold, the filter, bounds on files, and what has kept packets saved."""

from __future__ import annotations

from collections.abc import Callable

from wirecap.config.capture import CaptureConfig, WriteConfig
from wirecap.engine.engine import Engine
from wirecap.errors import UsageError
from wirecap.handlers.exchange import Exchange
from wirecap.handlers.pipeline import Pipeline
from wirecap.kernels.base.jit import PURE

Apply = Callable[[CaptureConfig, WriteConfig | None], None]
Reload = Callable[[Apply], None]
"""Gets what applies new settings, or raises WirecapError and leaves the old ones."""
Change = Callable[[], None]


class Reloading:
    """Applies what may change of configurations whose other fields are those that the capture has."""

    def __init__(
        self, engine: Engine, application: Pipeline, config: CaptureConfig, write: WriteConfig | None
    ) -> None:  # fmt: skip
        self._engine, self._config, self._write = engine, config, write
        self._selection, self._writer = application.selection, application.writer
        self._exchange = Exchange(self._selection.states) if self._selection.changeable else None

    def __call__(self, config: CaptureConfig, write: WriteConfig | None) -> None:
        """All or nothing: raises UsageError if something is wrong, or cannot be changed here."""
        changes: list[Change] = []
        if config.filter != self._config.filter:
            changes.append(self._filter_by(config))
        if self._writer and write and self._write:
            if write.bounds != self._write.bounds:
                changes.append(self._writer.bound_by(write.bounds))
            if write.keep and self._writer.keeping and write.keep != self._write.keep:
                changes.append(self._writer.keeping.change(write.keep))
        for change in changes:
            change()
        self._engine.set_threshold(config.T)
        self._config, self._write = config, write

    def _filter_by(self, config: CaptureConfig) -> Change:
        if config.kernel_filter or self._engine.source.filters_in_kernel or PURE:
            raise UsageError("the filter runs in the kernel and cannot change while packets are captured",
                             "restart the capture; with --engine xdp and no --kernel-filter it can change")  # fmt: skip
        if self._exchange is None:
            raise UsageError("the capture began without a filter and cannot get one now", "restart the capture")
        from wirecap.filters.native import LinkFilters

        exchange, links = self._exchange, self._engine.source.links()
        filters = LinkFilters(config.filter, links, config.optimise)
        return lambda: exchange.put(filters, links)
