"""What ``wirecap find`` is to look for."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from wirecap.config.convert import FOREVER_NS, parse_time_ns
from wirecap.errors import UsageError
from wirecap.units import parse_duration_ns

TIME_FORMS = "14:00, 2026-11-30T14:00, seconds since 1970, or -5m"
_CLOCK = re.compile(r"(\d{1,2}):(\d\d)(?::(\d\d)(?:[.,](\d{1,9}))?)?")


class _UnclearError(UsageError):
    """Digits that are more likely a time of day than the first hours of 1970."""


def _unclear(text: str) -> _UnclearError:
    return _UnclearError(f"{text!r} is not clear", f"write 14:00 for a time of day, {text}.0 for seconds since 1970")


def parse_when_ns(text: str) -> int:
    """``parse_time_ns``, and a time of today, or one so long ago: ``14:00``, ``14:00:05.5``, ``-5m``."""
    clock = _CLOCK.fullmatch(text)
    try:
        if clock:
            hour, minute, second, fraction = clock.groups(default="")
            today = datetime.now().replace(hour=int(hour), minute=int(minute), second=int(second or 0), microsecond=0)
            return int(today.timestamp()) * 1_000_000_000 + int(fraction.ljust(9, "0"))
        if re.fullmatch(r"-[\d.,]+\s*[a-z]+", text):
            return time.time_ns() - parse_duration_ns(text[1:])
        if re.fullmatch(r"\d{1,4}", text) and int(text):
            raise _unclear(text)
        return parse_time_ns(text)
    except _UnclearError:
        raise
    except (ValueError, UsageError):
        raise UsageError(f"{text!r} is not a time", f"write it as {TIME_FORMS}") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class FindConfig:
    """One run of ``wirecap find``.  Times in ns: from ``since_ns`` on, and before ``until_ns``."""

    paths: Sequence[str]
    """Capture files, and folders of them."""
    filter: str = ""
    since_ns: int = -FOREVER_NS
    until_ns: int = FOREVER_NS
    count: int = 0
    """After so many packets it ends; 0: it does not."""
    output: str = ""
    """"": packets are counted, not written."""
    format: str = "pcapng"
    indexes: bool = True
    """Whether indexes are used."""

    def __post_init__(self) -> None:
        if not self.paths:
            raise UsageError("no folder or file to search", "use 'wirecap find FILTER FOLDER...'")
        if self.since_ns >= self.until_ns:
            raise UsageError("--since is not before --until", "give the earlier time to --since")
