"""What ``--keep`` adds to the handler ``write``: triggers, the filter of ``--save-on``, writers that keep packets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from wirecap.config.capture import WriteConfig
from wirecap.config.keep import KeepConfig
from wirecap.engine.engine import Engine
from wirecap.handlers import watch
from wirecap.handlers.handler import Selection
from wirecap.handlers.keep import KeepWriter
from wirecap.handlers.triggers import Triggers
from wirecap.handlers.write import Writer
from wirecap.kernels.base import jit
from wirecap.linux.probes import available_memory_bytes
from wirecap.source.source import Source
from wirecap.units import format_duration_ns, format_size


class Keeping(Writer):
    """All files of a capture that keeps packets."""

    def __init__(self, config: WriteConfig, filter: str = "", application: str = "wirecap") -> None:
        super().__init__(config, filter, application)
        assert config.keep
        self.keep, self.triggers = config.keep, Triggers(config.keep)
        self.save_on: Selection | None = None
        """The filter of --save-on."""
        self.keeping = self
        self._writers: list[KeepWriter] = []

    def kernels(self) -> list[Any]:
        return [*super().kernels(), *watch.kernels(self.save_on)]

    def check(self, source: Source) -> None:
        self._source = source
        self.keep.room(available_memory_bytes())  # refused now, not once everything is compiled
        self.save_on = self._selection(self.keep)
        super().check(source)

    def warnings(self) -> list[str]:
        own = [f"--save-on: {self.save_on.note}"] if self.save_on and self.save_on.note else []
        return super().warnings() + own

    def _selection(self, keep: KeepConfig) -> Selection | None:
        return watch.selection_of(keep.on_filter, self._source) if keep.on_filter else None

    def close(self) -> None:
        super().close()
        self.triggers.close()

    def _writer_of(self, engine: Engine, mine: list[int], path: str) -> KeepWriter:
        self.triggers.attach(engine)
        number = self.triggers.add_writer()
        self._writers.append(KeepWriter(self, engine, mine, path, number, self.triggers, self.save_on))
        return self._writers[-1]

    def change(self, keep: KeepConfig) -> Callable[[], None]:
        """What lets other triggers save what is kept.  Raises UsageError for a filter that is wrong."""
        save_on = self.save_on
        if keep.on_filter != self.keep.on_filter:
            save_on = self._selection(keep)
            jit.prepare(watch.kernels(save_on))  # not in a writer's thread

        def change() -> None:
            self.keep = self.triggers.config = keep
            self.save_on = save_on
            for writer in self._writers:
                writer.watch.set(keep, save_on)

        return change

    @property
    def announcement(self) -> str:
        """A line at the beginning of a run."""
        memory, span = format_size(self.held()["memory"]), self.keep.span
        if span.ns is None:
            return f"wirecap: keeping the last packets in {memory} of memory"
        return f"wirecap: keeping the last {format_duration_ns(span.ns)} of packets, in at most {memory} of memory"

    def held(self) -> dict[str, Any]:
        """What is kept and what had it saved, for the summary."""
        held = [writer.held() for writer in self._writers]
        return {name: sum(one[name] for one in held) for name in ("packets", "let_go", "bytes", "memory")} | {
            "triggered": self.triggers.count, "triggers": list(self.triggers.listed),
        }  # fmt: skip
