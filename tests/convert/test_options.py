"""What users write for times, shifts and ranges of packets."""

from __future__ import annotations

import pytest

from wirecap.config.convert import MAX_NUMBER, parse_ranges, parse_shift_ns, parse_time_ns
from wirecap.errors import UsageError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1700000000", 1_700_000_000_000_000_000),
        ("1700000000.000000001", 1_700_000_000_000_000_001),
        ("1700000000,5", 1_700_000_000_500_000_000),
        ("2023-11-14T22:13:20Z", 1_700_000_000_000_000_000),
        ("2023-11-14 22:13:20.25Z", 1_700_000_000_250_000_000),
        ("2023-11-14T23:13:20.25+01:00", 1_700_000_000_250_000_000),
        ("1969-12-31T23:59:59.9Z", -100_000_000),
    ],
)
def test_times(text: str, expected: int) -> None:
    """ISO 8601 or seconds since 1970, to the nanosecond."""
    assert parse_time_ns(text) == expected


@pytest.mark.parametrize("text", ["", "now", "2023-13-01", "2023-11-14T22:13:20.1.2Z", "1e99999999"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(UsageError, match="is not a time"):
        parse_time_ns(text)


@pytest.mark.parametrize(("text", "ns"), [("-0.5", -500_000_000), ("+1h", 3600 * 10**9), ("20ms", 20_000_000)])
def test_shifts(text: str, ns: int) -> None:
    """Seconds, or another unit, with a sign."""
    assert parse_shift_ns(text) == ns


@pytest.mark.parametrize(
    ("text", "ranges"),
    [
        ("5", ((5, 5),)),
        ("1-3,7", ((1, 3), (7, 7))),
        ("7 1-3,2-4", ((1, 4), (7, 7))),
        ("10-", ((10, MAX_NUMBER),)),
        ("1-2,3-4", ((1, 4),)),
        ("99999999999999999999", ((MAX_NUMBER, MAX_NUMBER),)),
        ("", ()),
    ],
)
def test_ranges(text: str, ranges: tuple[tuple[int, int], ...]) -> None:
    """Ranges come in order, and those that touch are one."""
    assert parse_ranges(text) == ranges
