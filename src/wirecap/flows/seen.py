"""Which messages of each sensor a dataset has: duplicates, gaps, and whether all records are accounted for."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import asdict, dataclass, field, fields
from typing import Any


@dataclass
class Seen:
    """The messages of one spool of one sensor.

    ranges: sequence numbers, [first, last] each, in order and apart.  records: in these.  last, sent, made, spooled and
    dropped: what the headers of the message with the highest number say (flows/nats.py).
    """

    sensor: str
    spool: str
    ranges: list[list[int]] = field(default_factory=list)
    messages: int = 0
    records: int = 0
    duplicates: int = 0
    last: int = 0
    sent: int = 0
    made: int = 0
    spooled: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    told: list[list[int]] = field(default_factory=list)
    """Gaps that have been reported."""

    def add(self, number: int) -> bool:
        """Whether this message is a new one."""
        at = bisect_right(self.ranges, [number, 1 << 63])
        if at and self.ranges[at - 1][1] >= number:
            self.duplicates += 1
            return False
        behind = at > 0 and self.ranges[at - 1][1] == number - 1
        before = at < len(self.ranges) and self.ranges[at][0] == number + 1
        if behind and before:
            self.ranges[at - 1][1] = self.ranges.pop(at)[1]
        elif behind:
            self.ranges[at - 1][1] = number
        elif before:
            self.ranges[at][0] = number
        else:
            self.ranges.insert(at, [number, number])
        self.messages += 1
        return True

    def gaps(self) -> list[list[int]]:
        """The numbers that are missing below the highest one: [first, last] each."""
        found, expected = [], 1
        for first, last in self.ranges:
            if first > expected:
                found.append([expected, first - 1])
            expected = last + 1
        return found

    @property
    def missing_records(self) -> int:
        """In the gaps, exactly: each message says how many there were before it."""
        return self.sent - self.records - self.dropped.get("too_large", 0)

    def as_dict(self) -> dict[str, Any]:
        """made = records + missing_records + spooled + dropped, always."""
        gaps = self.gaps()
        return {
            "sensor": self.sensor, "spool": self.spool, "messages": self.messages, "records": self.records,
            "duplicates": self.duplicates, "gaps": gaps, "missing_messages": sum(b - a + 1 for a, b in gaps),
            "missing_records": self.missing_records, "made": self.made,
            "spooled": self.spooled, "dropped": self.dropped,
        }  # fmt: skip

    @classmethod
    def restored(cls, saved: dict[str, Any]) -> Seen:
        """What ``saved`` gave.  Raises TypeError or ValueError for anything else."""
        found, plain = cls(**saved), cls("", "")
        for each in fields(cls):
            if type(getattr(found, each.name)) is not type(getattr(plain, each.name)):
                raise TypeError(each.name)
        for first, last in [*found.ranges, *found.told]:
            if not isinstance(first, int) or not isinstance(last, int) or first > last:
                raise ValueError("ranges")
        return found

    def saved(self) -> dict[str, Any]:
        return asdict(self)
