"""``--keep`` and what has kept packets saved, as options."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from wirecap.cli.options import COUNT, DURATION, SIZE, Parsed, section
from wirecap.config.keep import AFTER_NS, KeepConfig, Rate, Span
from wirecap.errors import UsageError

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

_keep = section("Before the alarm")
_OPTIONS = (
    _keep("--keep", "keep_span", metavar="TIME|SIZE", type=Parsed("TIME|SIZE", Span.parse), help="Keep the last packets"
          " in memory; they go to -w only when a trigger saves them."),
    _keep("--keep-after", "keep_after_ns", type=DURATION, help="Write what follows for this long [10s]."),
    _keep("--keep-memory", type=SIZE, help="Memory for --keep TIME [a quarter of what is free, at most 1GiB]."),
    _keep("--save-on", metavar="FILTER", help="Save when a packet matches."),
    _keep("--save-on-rate", type=Parsed("RATE", Rate.parse), help="Save when more packets or bits than this arrive"
          " within a second: 100kpps, 1Gbps."),
    _keep("--save-on-drops", type=COUNT, help="Save when this many packets have been dropped."),
)  # fmt: skip
_OTHERS = ("keep_after_ns", "keep_memory", "save_on", "save_on_rate", "save_on_drops")
CHANGEABLE = {"keep_after_ns", "save_on", "save_on_rate", "save_on_drops"}
"""Parameters that SIGHUP may change."""


def options(function: Decorated) -> Decorated:
    """The options, in a section of their own."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def is_asked(given: Mapping[str, Any]) -> bool:
    """Whether any of them was given."""
    return any(given[name] is not None for name in ("keep_span", *_OTHERS))


def config_of(given: Mapping[str, Any]) -> KeepConfig | None:
    """What they say.  Raises UsageError."""
    if given["keep_span"] is None:
        for name in _OTHERS:
            if given[name] is not None:
                option = f"--{name.removesuffix('_ns').replace('_', '-')}"
                raise UsageError(f"{option} has no effect without --keep", "add --keep 60s")
        return None
    if given["save_on_drops"] == 0:
        raise UsageError("--save-on-drops 0 would save all the time", "write it as --save-on-drops 1")
    if given["save_on"] is not None and not given["save_on"].strip():
        raise UsageError("--save-on: the filter is empty", "write it as --save-on 'tcp[tcpflags] & tcp-rst != 0'")
    after_ns = given["keep_after_ns"]
    return KeepConfig(
        given["keep_span"], given["keep_memory"], AFTER_NS if after_ns is None else after_ns, given["save_on"] or "",
        given["save_on_rate"], given["save_on_drops"],
    )  # fmt: skip
