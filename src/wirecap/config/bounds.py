"""How much of a disk, and for how long, the files of a capture may take."""

from __future__ import annotations

from dataclasses import dataclass

from wirecap.errors import UsageError
from wirecap.units import format_duration_ns, format_size, parse_percent, parse_size


@dataclass(frozen=True, slots=True)
class Amount:
    """Bytes, or a percentage of the disk that the files are on."""

    text: str
    bytes: int = 0
    percent: int = 0

    @classmethod
    def parse(cls, text: str) -> Amount:
        """``10GiB`` or ``80%``; raises UsageError."""
        if text.strip().endswith("%"):
            try:
                return cls(text, percent=parse_percent(text))
            except UsageError as error:  # a number without a unit is bytes here
                raise UsageError(error.message, "write it as 80%, or as an amount: 10GiB") from None
        size = parse_size(text)
        if size < 1:
            raise UsageError(f"{text!r} leaves no room for a file", "write it as 10GiB or 80%")
        return cls(text, size)

    def of(self, disk_bytes: int) -> int:
        """In bytes, on a disk of this size."""
        return disk_bytes * self.percent // 100 if self.percent else self.bytes


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the files of a capture are held within; ``None`` means no bound."""

    limit: Amount | None = None
    """All of them together."""
    min_free: Amount | None = None
    """What is left free on their disk."""
    max_age_ns: int | None = None
    """Since their last packet was written."""

    def __bool__(self) -> bool:
        return any(bound is not None for bound in (self.limit, self.min_free, self.max_age_ns))


NO_BOUNDS = Bounds()

SHARE = 16
"""Where nothing else starts the next file, a file is this part of the bound, so that little goes with the oldest."""
LARGEST_FILE = 1 << 30
SMALLEST_FILE = 1 << 16
LEAST_AGE_NS = 10**9


def file_bytes(limit: int, outputs: int) -> int:
    """How large each file of ``outputs`` written at once is under a limit in bytes.  Raises UsageError."""
    size = min(limit // (SHARE * outputs), LARGEST_FILE)
    if size < SMALLEST_FILE:
        least = format_size(SHARE * outputs * SMALLEST_FILE)
        raise UsageError(f"--limit: {format_size(limit)} is too little for useful files", f"give {least} or more")
    return size


def check_age(age_ns: int | None) -> None:
    """Raise UsageError for files that would be removed before anybody can read them."""
    if age_ns is not None and age_ns < LEAST_AGE_NS:
        raise UsageError(f"--max-age: {format_duration_ns(age_ns)} is too little for useful files", "give 1s or more")


def check_limit(limit: int, size: int, outputs: int) -> None:
    """Raise UsageError if files of ``size`` bytes do not fit: one that is ending and its successor exist at once."""
    least = 2 * size * outputs
    if limit < least:
        each = f"{outputs} files at a time of {format_size(size)}" if outputs > 1 else f"files of {format_size(size)}"
        raise UsageError(
            f"--limit: {format_size(limit)} is too little for {each}, of which the last is never removed",
            f"give {format_size(least)} or more, or a smaller file size with -C or -b filesize:",
        )
