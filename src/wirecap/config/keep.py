"""``--keep`` and what goes with it: how much is kept in memory, what has it saved, and for how long after that."""

from __future__ import annotations

from dataclasses import dataclass

from wirecap.errors import UsageError
from wirecap.units import (
    format_bit_rate,
    format_packet_rate,
    format_size,
    parse_bit_rate,
    parse_duration_ns,
    parse_packet_rate,
    parse_size,
)

AFTER_NS = 10_000_000_000
"""What follows a trigger is saved for so long, unless --keep-after says otherwise."""
LEAST_BYTES = 1 << 20
MOST_BYTES = 1 << 30
"""What is kept for a time takes at most so much memory, unless --keep-memory says otherwise."""


_MOST_NAME = 200


def trigger_name(name: str) -> str:
    """The name of a trigger, as a comment and a line can hold it.  Raises UsageError."""
    if not name.strip() or len(name) > _MOST_NAME or not name.isprintable():
        raise UsageError(f"a trigger cannot be called {name[:40]!r}", f"use 1 to {_MOST_NAME} printable characters")
    return name.strip()


@dataclass(frozen=True, slots=True)
class Span:
    """How much is kept: ``ns`` of packets' time, or ``bytes`` of memory; one of them is None."""

    ns: int | None = None
    bytes: int | None = None

    @classmethod
    def parse(cls, text: str) -> Span:
        """``60s``, ``5m`` or ``500MB``, ``1GiB``; a plain number is seconds.  Raises UsageError."""
        try:
            span = cls(ns=parse_duration_ns(text))
        except UsageError:
            try:
                span = cls(bytes=parse_size(text))
            except UsageError:
                raise UsageError(
                    f"{text!r} is neither a time nor a size", "write it as 60s, 5m, 500MB or 1GiB"
                ) from None
        if span.ns == 0 or (span.bytes is not None and span.bytes < LEAST_BYTES):
            raise UsageError(f"{text} is too little to keep", "keep 1s or 1MiB at least")
        return span


@dataclass(frozen=True, slots=True)
class Rate:
    """A rate that is exceeded: packets, or with ``bits`` bits, per second."""

    limit: int
    bits: bool = False

    @classmethod
    def parse(cls, text: str) -> Rate:
        """``100kpps``, ``50000`` or ``1Gbps``.  Raises UsageError."""
        try:
            rate = cls(parse_packet_rate(text))
        except UsageError:
            try:
                rate = cls(parse_bit_rate(text), bits=True)
            except UsageError:
                raise UsageError(f"{text!r} is not a rate", "write it as 100kpps or 1Gbps") from None
        if not rate.limit:
            raise UsageError(f"a rate of {text} is exceeded by every packet", "write it as 100kpps or 1Gbps")
        return rate

    def __str__(self) -> str:
        return format_bit_rate(self.limit) if self.bits else format_packet_rate(self.limit)


@dataclass(frozen=True, slots=True)
class KeepConfig:
    """What is kept until its memory is needed, and what has it saved.

    after_ns: how long what follows is saved.  memory: bytes for what is kept, None for what the host can spare.
    on_filter: an expression; on_drops: so many packets lost.
    """

    span: Span
    memory: int | None = None
    after_ns: int = AFTER_NS
    on_filter: str = ""
    on_rate: Rate | None = None
    on_drops: int | None = None

    def __post_init__(self) -> None:
        if self.memory is not None and self.span.bytes is not None:
            raise UsageError("--keep already says how much memory to use", "leave --keep-memory out")
        if self.memory is not None and self.memory < LEAST_BYTES:
            raise UsageError("the memory for kept packets must be 1 MiB or more", "write it as --keep-memory 256MiB")

    def room(self, available_bytes: int) -> int:
        """Bytes of memory for what is kept.  Raises UsageError if the host does not have them."""
        wanted = self.span.bytes or self.memory
        if wanted is None:
            return max(LEAST_BYTES, min(MOST_BYTES, available_bytes // 4))
        if wanted > available_bytes:
            raise UsageError(
                f"{format_size(wanted)} for kept packets are more than this host has free:"
                f" {format_size(available_bytes)}",
                f"keep at most {available_bytes >> 20}MiB",
            )
        return wanted


def keep(
    span: str, *, after: str = "10s", memory: str | None = None, save_on: str = "", save_on_rate: str | None = None,
    save_on_drops: int | None = None,
) -> KeepConfig:  # fmt: skip
    """What ``wirecap.capture(..., write=FILE, keep=wirecap.keep("60s", save_on="tcp port 23"))`` keeps.

    The arguments are those of the command's options --keep, --keep-after, --keep-memory and --save-on..., as they are
    written there.  Raises UsageError.
    """
    given = {"span": span, "after": after, "save_on": save_on}
    given |= {name: text for name, text in {"memory": memory, "save_on_rate": save_on_rate}.items() if text is not None}
    for name, text in given.items():
        if not isinstance(text, str):
            raise UsageError(f"{name} must be text, not {text!r}", 'write it as keep("60s", memory="1GiB")')
    if save_on_drops is not None and (not isinstance(save_on_drops, int) or save_on_drops < 1):
        raise UsageError(f"save_on_drops must be a number of packets, not {save_on_drops!r}", "write save_on_drops=1")
    return KeepConfig(
        Span.parse(span), None if memory is None else parse_size(memory), parse_duration_ns(after), save_on.strip(),
        None if save_on_rate is None else Rate.parse(save_on_rate), save_on_drops,
    )  # fmt: skip
