"""tcpdump's and dumpcap's ways to say when the next file starts and when to stop, as values for WriteConfig."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from wirecap import units
from wirecap.errors import UsageError


def parse_tcpdump_size(text: str) -> int:
    """Bytes of tcpdump's ``-C``: a plain number is in millions of bytes; k, m and g are KiB, MiB and GiB."""
    if text.isdecimal():
        return _positive(int(text) * 10**6, text)
    if text[:-1].isdecimal() and text[-1:] in "kKmMgG":
        return _positive(units.parse_size(text + "iB"), text)
    return _positive(units.parse_size(text), text)


def _kilobytes(text: str) -> int:
    """Bytes of dumpcap's ``filesize:``: a plain number is in kB of 1000 bytes."""
    return int(text) * 1000 if text.isdecimal() else units.parse_size(text)


def _time_order(text: str) -> bool:
    if text not in ("1", "2"):
        raise UsageError(f"{text!r} is neither 1 nor 2", "1 puts the time before the number, 2 after it")
    return text == "1"


def _positive(value: int, text: str) -> int:
    if value < 1:
        raise UsageError(f"{text!r} is less than 1", "take a positive number")
    return value


def _some(parse: Callable[[str], int]) -> Callable[[str], int]:
    return lambda text: _positive(parse(text), text)


_SIZE, _TIME, _COUNT = _some(_kilobytes), _some(units.parse_duration_ns), _some(units.parse_count)

_AUTOSTOP: dict[str, tuple[str, Callable[[str], Any]]] = {
    "duration": ("ns", _TIME),
    "filesize": ("bytes", _SIZE),
    "files": ("files", _COUNT),
    "packets": ("packets", _COUNT),
}
_RING: dict[str, tuple[str, Callable[[str], Any]]] = {
    "duration": ("ring_ns", _TIME),
    "interval": ("ring_interval_ns", _TIME),
    "filesize": ("ring_bytes", _SIZE),
    "files": ("ring_files", _COUNT),
    "packets": ("ring_packets", _COUNT),
    "printname": ("ring_print", str),
    "nametimenum": ("ring_name_time_first", _time_order),
}


def parse_autostop(conditions: Iterable[str]) -> dict[str, int]:
    """dumpcap's ``-a duration:30 -a filesize:1000`` as ns, bytes, files and packets."""
    return _parse("-a", conditions, _AUTOSTOP, "duration:SECONDS, filesize:KB, files:N or packets:N")


def parse_ring(conditions: Iterable[str]) -> dict[str, Any]:
    """dumpcap's ``-b filesize:1000 -b files:10``: WriteConfig's ring_* fields."""
    return _parse(
        "-b", conditions, _RING, "duration:SECONDS, interval:SECONDS, filesize:KB, files:N, packets:N or printname:FILE"
    )


def _parse(
    option: str, conditions: Iterable[str], table: dict[str, tuple[str, Callable[[str], Any]]], forms: str
) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for condition in conditions:
        name, colon, text = condition.partition(":")
        if name not in table or not colon or not text:
            raise UsageError(f"{option} {condition!r} is not understood", f"write it as {forms}")
        key, parse = table[name]
        if key in values:
            raise UsageError(f"{option} {name} is given twice", "leave one of them out")
        try:
            values[key] = parse(text)
        except UsageError as error:
            raise UsageError(f"{option} {name}: {error.message}", error.hint) from None
    return values
