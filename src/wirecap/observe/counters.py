"""What others can see of a running capture: its counters and gauges at one moment, as plain values and as JSON.

Counts are since the start of the capture, in packets unless a name says otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

STATES = ("free", "filling", "captured", "recycled")
"""Of a slot, in the order of kernels/pool/pool.py."""


@dataclass
class QueueCounters:
    """A receive queue.  consumer: the number of the one that its chunks go to, if nobody helps.

    free_chunks: of R, by packets that its pool can still take.  slots: how many are in each state.
    offloaded_to: packets that other consumers took, by their number.
    """

    interface: str
    queue: int
    consumer: int
    received: int
    received_bytes: int
    delivered: int
    filtered_out: int
    forwarded: int
    offloaded: int
    pending: int
    free_chunks: int
    slots: dict[str, int]
    drops: dict[str, int]
    offloaded_to: dict[str, int]

    @property
    def dropped(self) -> int:
        return sum(self.drops.values())


@dataclass
class ConsumerCounters:
    """A handler thread or a writer.  depth: chunks that wait in its queue.  seconds: processor time.

    fed: whether capture threads hand it chunks, so that T applies to its depth.
    """

    name: str
    depth: int
    seconds: float
    fed: bool


@dataclass
class DiskCounters:
    """What is written, and the disk that it goes to; sizes in bytes, -1 where there is none or it is unknown.

    held: what all files within the bounds take together.  min_free: what the bounds leave free.
    """

    path: str
    packets: int
    bytes: int
    files: int
    free: int = -1
    size: int = -1
    limit: int = -1
    held: int = -1
    min_free: int = -1
    max_age_ns: int = -1
    removed_files: int = 0


@dataclass
class OutputCounters:
    """A transmit queue of a forwarder."""

    interface: str
    queue: int
    forwarded: int
    drops: dict[str, int]


@dataclass
class ClientCounters:
    """A client of ``wirecap serve``: offered = filtered_out + sent + waiting + drops.  bytes: that were sent to it."""

    address: str
    filter: str
    offered: int
    filtered_out: int
    sent: int
    waiting: int
    bytes: int
    drops: dict[str, int]


@dataclass
class ServingCounters:
    """What ``wirecap serve`` has for its clients.  served: how many there were so far; refused: of others, by reason.

    sent, drops: of all clients, those that are gone included.  clients: those that are there.
    """

    listen: str
    served: int
    refused: dict[str, int]
    sent: int
    bytes: int
    drops: dict[str, int]
    clients: list[ClientCounters]


@dataclass
class Counters:
    """A capture at ``time_ns`` of the monotonic clock.

    started_ns: since the epoch, UTC.  capture_seconds: processor time of each capture thread.
    """

    release: str
    pid: int
    command: str
    started_ns: int
    time_ns: int
    elapsed_s: float
    ending: bool
    interfaces: list[str]
    engine: str
    mode: str
    M: int
    R: int
    T: int
    queues: list[QueueCounters]
    consumers: list[ConsumerCounters]
    capture_seconds: dict[str, float]
    outputs: list[OutputCounters] = field(default_factory=list)
    disk: DiskCounters | None = None
    serving: ServingCounters | None = None

    def to_json(self) -> bytes:
        return json.dumps(self, default=vars, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Counters:
        """Raises ValueError for anything but what ``to_json`` makes."""
        try:
            counters: Counters = _typed(cls, json.loads(data))
            return counters
        except (TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(str(error)) from None

    @property
    def place(self) -> str:
        """How a line names the capture."""
        return f"{self.command} {self.pid} on {', '.join(self.interfaces)}"


Kind = TypeVar("Kind")


def _typed(kind: type[Kind] | Any, value: Any) -> Any:
    """The value as a field's type; whoever wrote it may have written anything."""
    if is_dataclass(kind):
        return kind(**{name: _typed(inner, value[name]) for name, inner in _fields(kind).items()})
    origin, inner = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return None if value is None else _typed(next(each for each in inner if each is not NoneType), value)
    if origin is list:
        return [_typed(inner[0], each) for each in _checked(list, value)]
    if origin is dict:
        return {_typed(str, name): _typed(inner[1], each) for name, each in _checked(dict, value).items()}
    return _PLAIN[kind](value)


@cache
def _fields(kind: Any) -> dict[str, Any]:
    """The fields of a dataclass and their types."""
    hints = get_type_hints(kind)
    return {each.name: hints[each.name] for each in fields(kind)}


def _checked(kind: type, value: Any) -> Any:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise TypeError(f"not of type {kind.__name__}: {value!r:.40}")
    return value


def _text(value: Any) -> str:
    """What a terminal can show: no control characters."""
    return "".join(one if one.isprintable() else "?" for one in _checked(str, value))


_PLAIN: dict[Any, Callable[[Any], Any]] = {
    str: _text,
    int: lambda value: _checked(int, value),
    bool: lambda value: _checked(bool, value),
    float: lambda value: float(_checked(float if isinstance(value, float) else int, value)),
}
