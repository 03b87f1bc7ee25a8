"""The arguments of the Python interface: values of the wrong type are usage errors, as those out of range are."""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Iterable, Mapping
from typing import Any

from wirecap.config.specs import QueueSpec
from wirecap.errors import UsageError

WHOLE, NUMBER, TEXT, TRUTH = "a whole number", "a number", "text", "True or False"

KINDS = {
    **dict.fromkeys(
        ("M", "R", "T", "cell", "count", "snaplen", "ring", "capture_threads", "timeout_ns", "link_type",
         "spool_limit"), WHOLE,
    ),
    **dict.fromkeys(("duration_s", "file_s"), NUMBER),
    **dict.fromkeys(
        ("mode", "filter", "netns", "engine", "xdp_mode", "kernel_filter", "time_stamps", "fanout", "direction",
         "format", "spool"), TEXT,
    ),
    **dict.fromkeys(("take_over", "optimise", "promiscuous", "defrag", "keep_going", "nanoseconds"), TRUTH),
    **dict.fromkeys(("busy_poll", "nic_hash"), TRUTH),
}  # fmt: skip
"""What ``wirecap.open``, ``wirecap.capture`` and ``wirecap.write`` take, apart from sources, paths and lists."""

OPTIONAL = {
    "count", "ring", "capture_threads", "duration_s", "netns", "kernel_filter", "fanout", "direction", "link_type",
    "file_s", "spool", "spool_limit",
}  # fmt: skip
"""Those that may be None."""


def checked(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments, with numbers as Python's own.  Raises UsageError for the first of the wrong type."""
    return {name: _checked(name, value) for name, value in given.items()}


def _checked(name: str, value: Any) -> Any:
    kind = KINDS.get(name)
    if kind is None or (value is None and name in OPTIONAL):
        return value
    if not _is(kind, value):
        raise UsageError(f"{name} must be {kind}, not {value!r}", _way_out(kind, name))
    return int(value) if kind == WHOLE else value


def _is(kind: str, value: Any) -> bool:
    if kind == TRUTH:
        return isinstance(value, (bool, int)) or type(value).__name__ == "bool"  # NumPy's, too
    if kind == TEXT:
        return isinstance(value, str)
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return False
    return isinstance(value, numbers.Integral) if kind == WHOLE else math.isfinite(value)


def _way_out(kind: str, name: str) -> str:
    if name in OPTIONAL:
        return f"leave {name} out if it is not wanted"
    return {WHOLE: f"write {name}=100", TEXT: f'write {name}="..."', TRUTH: f"write {name}=True"}.get(kind, "")


def _listed(value: Any) -> list[Any]:
    """What a list holds; [None] for what is none, which no list may hold."""
    return list(value) if isinstance(value, Iterable) and not isinstance(value, (str, bytes, bytearray)) else [None]


def path_of(name: str, value: Any) -> str:
    """A path as text.  Raises UsageError for what is none."""
    try:
        path = os.fspath(value)
    except TypeError:
        path = b""
    if not isinstance(path, str):
        raise UsageError(f"{name} must be a path, not {value!r}", 'write it as "x.pcapng"')
    return path


def names_of(source: Any) -> list[str]:
    """What to capture from, as text.  Raises UsageError for what is neither an interface nor a file."""
    given = [source] if isinstance(source, (str, os.PathLike)) else _listed(source)
    for one in given:
        if not isinstance(one, (str, os.PathLike)) or not isinstance(os.fspath(one), str):
            raise UsageError(
                f"{source!r} is neither an interface nor a file", 'write "eth1", ["eth1", "eth2"] or "x.pcapng"'
            )
    return [os.fspath(one) for one in given]


def buddies_of(value: Any) -> tuple[tuple[QueueSpec, ...], ...]:
    """Buddy groups, whose members are QueueSpec or text.  Raises UsageError for what is no group."""
    groups = [_listed(group) for group in _listed(value)]
    if not all(isinstance(one, (str, QueueSpec)) for group in groups for one in group):
        raise UsageError(f"buddies must be groups of interfaces, not {value!r}", 'write buddies=[["eth1@0-3", "eth2"]]')
    return tuple(tuple(QueueSpec.parse(one) if isinstance(one, str) else one for one in group) for group in groups)


def are_texts(value: Any) -> bool:
    """Whether it is a list of texts."""
    return all(isinstance(one, str) for one in _listed(value))


def texts_of(value: Any) -> tuple[str, ...]:
    """Targets of flow records: a text, or a list of texts.  Raises UsageError for others."""
    listed = [value] if isinstance(value, str) else _listed(value)
    if not are_texts(listed):
        raise UsageError(f"to must be a list of targets, not {value!r}", 'write to=["file:flows.jsonl"]')
    return tuple(listed)


def numbers_of(name: str, value: Any) -> tuple[int, ...]:
    """A list of whole numbers.  Raises UsageError for others."""
    listed = _listed(value)
    if not all(_is(WHOLE, one) for one in listed):
        raise UsageError(f"{name} must be a list of whole numbers, not {value!r}", f"write {name}=(0, 1)")
    return tuple(int(one) for one in listed)
