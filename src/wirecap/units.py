"""Sizes, rates, durations, counts and percentages as people write them: ``64MiB``, ``2.5Mpps``, ``10Gbps``, ``1ms``.

Parsers return integers in the unit that their name states, and raise UsageError with the forms they accept;
formatters are for people, and round.  Decimal prefixes are powers of 1000, ``Ki Mi Gi Ti`` powers of 1024.
"""

from __future__ import annotations

import re
from decimal import Decimal

from wirecap.errors import UsageError

_DECIMAL = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY = {"ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}
_SECONDS_NS = {
    "ns": 1,
    "us": 10**3,
    "µs": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "": 10**9,
    "m": 60 * 10**9,
    "min": 60 * 10**9,
    "h": 3600 * 10**9,
    "d": 86400 * 10**9,
}
_NUMBER = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([^\W\d_]*(?:/s)?%?)\s*")
_MOST = 2**63 - 1024
"""The largest integer below 2**63 that a float can represent exactly."""


_MOST_DIGITS = 20


def whole_number(digits: str) -> int:
    """The number that decimal digits say; of more than 20 digits some number that is too large for anything."""
    return int(digits.lstrip("0")[:_MOST_DIGITS] or "0")


def _split(text: str, what: str, forms: str) -> tuple[Decimal, str]:
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise UsageError(f"{text!r} is not a {what}", f"write it as {forms}")
    return Decimal(match[1]), match[2]


def _value(text: str, what: str, forms: str, scales: dict[str, int], whole: bool) -> Decimal:
    number, unit = _split(text, what, forms)
    scale = scales.get(unit.lower())
    if scale is None:
        raise UsageError(f"{text!r} is not a {what}: unknown unit {unit!r}", f"write it as {forms}")
    if whole and scale == 1 and number != number.to_integral_value():
        raise UsageError(f"the {what} must be a whole number, not {text!r}", f"write it as {forms}")
    value = number * scale
    if value > _MOST:
        raise UsageError(f"the {what} is too large: {text!r}", f"write it as {forms}")
    return value


def _scaled(text: str, what: str, forms: str, scales: dict[str, int]) -> int:
    return int(_value(text, what, forms, scales, whole=True).to_integral_value())  # 1.3GiB means the nearest byte


_SIZES = {prefix + ending: scale for prefix, scale in (_DECIMAL | _BINARY).items() for ending in ("", "b")}


def parse_size(text: str) -> int:
    """The bytes that ``1500``, ``2KB`` (2000) or ``64MiB`` (64 * 2**20) stands for."""
    return _scaled(text, "size", "1500, 2KB or 64MiB", _SIZES)


def parse_count(text: str) -> int:
    """The number that ``10``, ``10k`` or ``1M`` stands for."""
    return _scaled(text, "count", "1000, 10k or 1M", _DECIMAL)


_PACKET_RATES = {
    prefix + ending: scale for prefix, scale in _DECIMAL.items() for ending in ("", "pps", "p/s", "packets/s")
}
_BIT_RATES = {prefix + ending: scale for prefix, scale in _DECIMAL.items() for ending in ("", "bps", "bit/s", "b/s")}


def parse_packet_rate(text: str) -> int:
    """The packets per second that ``38844``, ``500k``, ``2.5Mpps`` or ``1Mp/s`` stands for."""
    return _scaled(text, "packet rate", "38844, 500kpps or 2.5Mp/s", _PACKET_RATES)


def parse_mean_rate(text: str) -> float:
    """Packets per second, written as for ``parse_packet_rate`` or as a fraction: ``0.25`` is one every 4 s."""
    return float(_value(text, "packet rate", "0.25, 38844, 500kpps or 2.5Mp/s", _PACKET_RATES, whole=False))


def parse_bit_rate(text: str) -> int:
    """The bits per second that ``1000000``, ``100M`` or ``10Gbps`` stands for."""
    return _scaled(text, "bit rate", "100Mbps, 2.5Gbit/s or 10G", _BIT_RATES)


LINKS = {
    "100M": 10**8, "1GbE": 10**9, "2.5GbE": 25 * 10**8, "5GbE": 5 * 10**9, "10GbE": 10**10, "25GbE": 25 * 10**9,
    "40GbE": 4 * 10**10, "50GbE": 5 * 10**10, "100GbE": 10**11, "200GbE": 2 * 10**11, "400GbE": 4 * 10**11,
}  # fmt: skip


def parse_link(text: str) -> int:
    """Bits per second of a link: ``10GbE``, or a rate."""
    for name, rate in LINKS.items():
        if text.lower() in (name.lower(), name.lower().removesuffix("be")):
            return rate
    try:
        return parse_bit_rate(text)
    except UsageError:
        raise UsageError(f"unknown link: {text!r}", f"use a rate, or one of {', '.join(LINKS)}") from None


def parse_duration_ns(text: str) -> int:
    """Nanoseconds that ``250us``, ``1ms``, ``30s`` or ``5m`` stands for; plain numbers are seconds, as in dumpcap."""
    return _scaled(text, "duration", "500us, 1ms, 30s, 5m, 2h or 7d", _SECONDS_NS)


def parse_percent(text: str) -> int:
    """A whole percentage, 1 to 100, written ``60`` or ``60%``."""
    number, unit = _split(text, "percentage", "60 or 60%")
    if unit not in ("", "%") or number != number.to_integral_value() or not 1 <= number <= 100:
        raise UsageError(f"{text!r} is not a whole percentage from 1 to 100", "write it as 60 or 60%")
    return int(number)


def _short(value: float) -> str:
    """Three significant digits, without trailing zeros."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _prefixed(value: float, step: int, prefixes: tuple[str, ...]) -> tuple[str, str]:
    position = 0
    # 999.5 would round to 1000, which belongs to the next prefix.
    while abs(value) >= step - 0.5 and position < len(prefixes) - 1:
        value /= step
        position += 1
    return _short(value), prefixes[position]


def format_size(size: int) -> str:
    """Bytes for people, in powers of 1024: ``50 MiB``."""
    number, prefix = _prefixed(size, 1024, ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"))
    return f"{number} {'byte' if size == 1 else prefix}"


def format_count(count: int) -> str:
    """A whole number with thousands separators: ``20,000,000``."""
    return f"{count:,}"


def format_packet_rate(rate_pps: float) -> str:
    """Packets per second for people: ``2.45 Mp/s``."""
    number, prefix = _prefixed(rate_pps, 1000, ("", "k", "M", "G", "T"))
    return f"{number} {prefix}p/s"


def format_bit_rate(rate_bps: float) -> str:
    """Bits per second for people: ``9.87 Gbit/s``."""
    number, prefix = _prefixed(rate_bps, 1000, ("", "k", "M", "G", "T"))
    return f"{number} {prefix}bit/s"


def format_duration_ns(duration_ns: int) -> str:
    """Nanoseconds for people: ``850 us``, ``1.5 s``, and from one minute up ``2:05`` or ``1:00:03``."""
    if duration_ns >= 60 * 10**9 - 5 * 10**7:
        minutes, seconds = divmod(round(duration_ns / 10**9), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
    number, unit = _prefixed(duration_ns, 1000, ("ns", "us", "ms", "s"))
    return f"{number} {unit}"
