"""The settings that a forwarder adds to those of a capture, as validated plain values."""

from __future__ import annotations

from dataclasses import dataclass

from wirecap.config.specs import QueueSpec
from wirecap.errors import UsageError

QUEUES_BY = ("same", "hash", "least")
OUTPUTS_BY = ("flow", "hosts", "packet", "nic")
CHECKSUMS = ("auto", "finish", "leave")


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardConfig:
    """Where packets go: ``pairs`` of (in, out) interfaces, or one interface to several (``fan_out``).

    both: each pair in both directions.  queue_by: how to choose the outgoing NIC's transmit queue; output_by: how
    to choose among the interfaces of a fan-out.  patience_ns: how long a chunk waits while the TX ring is full.
    checksums: whether to finish those that a local stack left to its device; auto: of packets from virtual interfaces.
    """

    pairs: tuple[tuple[QueueSpec, QueueSpec], ...] = ()
    fan_out: tuple[QueueSpec, tuple[QueueSpec, ...]] | None = None
    both: bool = False
    queue_by: str = "same"
    output_by: str = "flow"
    patience_ns: int = 10_000_000
    checksums: str = "auto"

    def __post_init__(self) -> None:
        for what, value, allowed in (
            ("queue choice", self.queue_by, QUEUES_BY),
            ("balance", self.output_by, OUTPUTS_BY),
            ("treatment of checksums", self.checksums, CHECKSUMS),
        ):
            if value not in allowed:
                raise UsageError(f"unknown {what}: {value!r}", f"use one of {', '.join(allowed)}")
        if not self.directions:
            raise UsageError(
                "no interface to forward to", "use 'wirecap forward eth1 eth2' or 'wirecap forward eth1 --to v0,v1'"
            )
        for source, targets in self.directions:
            if source.interface in {target.interface for target in targets}:
                raise UsageError(f"{source.interface} cannot forward to itself", "name two different interfaces")
        outgoing = [spec.interface for pair in self.pairs for spec in pair] if self.both else [
            target.interface for _, targets in self.directions for target in targets
        ]  # fmt: skip
        for name in outgoing:
            if outgoing.count(name) > 1 and (self.both or self.fan_out):
                raise UsageError(f"{name} is named twice", "name each interface once")
        if not 0 <= self.patience_ns <= 10**12:
            raise UsageError(
                f"the wait for a TX ring must be 0 to 1000 s, not {self.patience_ns} ns", "write it as 10ms"
            )

    @property
    def directions(self) -> list[tuple[QueueSpec, tuple[QueueSpec, ...]]]:
        """Each receiving interface, with the interfaces that its packets go to."""
        if self.fan_out is not None:
            return [self.fan_out] if self.fan_out[1] else []
        found: list[tuple[QueueSpec, tuple[QueueSpec, ...]]] = [(source, (target,)) for source, target in self.pairs]
        return found + [(target, (source,)) for source, target in self.pairs if self.both]

    @property
    def sources(self) -> tuple[QueueSpec, ...]:
        return tuple(source for source, _ in self.directions)
