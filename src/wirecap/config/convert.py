"""What ``wirecap convert`` is to do, checked for what contradicts itself."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from wirecap.errors import UsageError
from wirecap.units import parse_count, parse_duration_ns, parse_size, whole_number

FORMATS = ("pcap", "nsecpcap", "pcapng", "parquet")
MOST_DUPLICATES = 1_000_000
"""How many packets back a packet can be compared with: editcap's limit."""
FOREVER_NS = (1 << 63) - 1
MAX_NUMBER = 1 << 62
SECOND_NS = 1_000_000_000
_TIME_FORMS = "2026-01-31T12:00:00.5Z or seconds since 1970"


def parse_time_ns(text: str) -> int:
    """ns since 1970 of an ISO 8601 time, local if it names no zone, or of seconds since 1970."""
    if re.fullmatch(r"-?\d{1,12}([.,]\d+)?", text):
        return int(Decimal(text.replace(",", ".")) * SECOND_NS)
    match = re.fullmatch(r"([^.,]*)(?:[.,](\d{1,9}))?([^.,]*)", text)
    try:
        moment = datetime.fromisoformat(match[1] + match[3] if match else text)
        fraction = (match and match[2]) or ""
        return int(moment.timestamp()) * SECOND_NS + int(fraction.ljust(9, "0"))
    except (ValueError, OverflowError):
        raise UsageError(f"{text!r} is not a time", f"write it as {_TIME_FORMS}") from None


def parse_shift_ns(text: str) -> int:
    """Signed: ``-0.5`` seconds, ``+1h``."""
    sign = -1 if text.startswith("-") else 1
    return sign * parse_duration_ns(text.removeprefix("-").removeprefix("+"))


Ranges = tuple[tuple[int, int], ...]


def parse_ranges(text: str) -> Ranges:
    """Packet numbers from 1 and ranges of them: ``1-10,15,100-``; (first, last) of each, in order, without overlaps."""
    found = []
    for part in text.replace(",", " ").split():
        match = re.fullmatch(r"([0-9]+)(-([0-9]*))?", part)
        if not match:
            raise UsageError(f"{part!r} is not a range of packets", "write it as 1-10,15,100-")
        first = whole_number(match[1])
        last = first if match[2] is None else whole_number(match[3]) if match[3] else 0
        if first < 1 or (last and last < first):
            raise UsageError(f"{part!r} is not a range of packets", "the first packet is 1, and a range goes upwards")
        found.append((min(first, MAX_NUMBER), min(last or MAX_NUMBER, MAX_NUMBER)))
    merged: list[tuple[int, int]] = []
    for first, last in sorted(found):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(last, merged[-1][1])
        else:
            merged.append((first, last))
    return tuple(merged)


def same_file(one: str, other: str) -> bool:
    """Whether two names, of files that need not be there yet, are those of one file."""
    try:
        return os.path.samefile(one, other)  # noqa: PTH121 - either may be missing
    except OSError:
        return os.path.realpath(one) == os.path.realpath(other)


@dataclass(frozen=True, slots=True)
class Split:
    """When the next output file begins: after an amount of ``packets``, ``time`` (ns) or ``size`` (bytes).

    Or there is a file for each ``flow`` or ``interface``."""

    by: str
    amount: int = 0

    @property
    def keyed(self) -> bool:
        return self.by in ("flow", "interface")


_SPLITS = {"packets": parse_count, "time": parse_duration_ns, "size": parse_size}
_SPLIT_FORMS = "packets:N, time:SECONDS, size:BYTES, flow or interface"


def parse_split(text: str) -> Split:
    by, colon, amount = text.partition(":")
    if by in ("flow", "interface") and not colon:
        return Split(by)
    if by not in _SPLITS or not amount:
        raise UsageError(f"{text!r} does not say how to split", f"write it as {_SPLIT_FORMS}")
    found = _SPLITS[by](amount)
    if found < 1:
        raise UsageError(f"{text!r}: {amount} is less than 1", "use a positive number")
    return Split(by, found)


@dataclass(frozen=True, slots=True)
class Duplicates:
    """A packet is left out if it repeats one of the ``window - 1`` before it that is, with ``window_ns``, not older.

    The first ``ignored`` bytes do not matter."""

    window: int = 0
    window_ns: int = -1
    ignored: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertConfig:
    """One run of ``wirecap convert``.  Sizes in bytes, times in ns."""

    inputs: Sequence[str]
    output: str
    format: str = "pcapng"
    comments: tuple[str, ...] = ()
    concatenate: bool = False
    """Take the inputs one after the other, not in order of time."""
    filter: str = ""
    where_it_fits: bool = False
    """Whether no packet matches where a link type refuses the filter, or excludes all; else that is an error."""
    keep: Ranges = ()
    omit: Ranges = ()
    since_ns: int = -FOREVER_NS
    until_ns: int = FOREVER_NS
    snaplen: int = 0
    """0: packets are not cut."""
    count: int = 0
    """After so many packets it ends; 0: it does not."""
    shift_ns: int = 0
    duplicates: Duplicates = Duplicates()
    split: Split | None = None
    key_file: str | None = None
    """The key to anonymise with; None: addresses stay as they are."""

    def __post_init__(self) -> None:
        if not self.inputs:
            raise UsageError("no file to convert", "use 'wirecap convert FILE -w FILE'")
        if not self.output:
            raise UsageError("the output file has no name", "give -w FILE, or -w - for standard output")
        if self.format not in FORMATS:
            raise UsageError(f"unknown format {self.format!r}", f"use one of {', '.join(FORMATS)}")
        if list(self.inputs).count("-") > 1:
            raise UsageError("standard input is given twice", "it can be read only once")
        if len(self.inputs) > 1 and (self.keep or self.omit):
            raise UsageError(
                "packets are numbered in one file, but there are several",
                "merge them first: wirecap convert FILES -w - | wirecap convert - --packets 1-10 -w FILE",
            )
        if self.keep and self.omit:
            raise UsageError("--packets and --without-packets both choose packets", "use only one of them")
        if self.key_file is not None and same_file(self.key_file, self.output):
            raise UsageError(f"{self.key_file}: the key would be overwritten by the packets", "use another name")
        if self.since_ns >= self.until_ns:
            raise UsageError("no packet can be at or after -A and before -B", "the time of -A comes first")
        if self.comments and self.format != "pcapng":
            raise UsageError(f"a {self.format} file has no comments", "write pcapng")
        if self.output == "-" and (self.split or self.format == "parquet"):
            what = "several files" if self.split else "a Parquet file"
            raise UsageError(f"{what} cannot go to standard output", "name a file with -w FILE")
        if self.split and self.format == "parquet":
            raise UsageError("a Parquet file cannot be split", "split first, then convert each file")
