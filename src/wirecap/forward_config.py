"""What a forwarder is asked to do, beside what a capture is: plain values, checked."""

from __future__ import annotations

from dataclasses import dataclass

from wirecap.errors import UsageError
from wirecap.specs import QueueSpec

QUEUES_BY = ("same", "hash", "least")
OUTPUTS_BY = ("flow", "hosts", "packet")


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardConfig:
    """From where to where: ``pairs`` of (in, out) interfaces, or one interface to several (``fan_out``).

    both: each pair in both directions.  queue_by: how a transmit queue of the outgoing NIC is chosen; output_by:
    which of a fan-out's interfaces.  patience_ns: how long a chunk waits for a full TX ring.
    """

    pairs: tuple[tuple[QueueSpec, QueueSpec], ...] = ()
    fan_out: tuple[QueueSpec, tuple[QueueSpec, ...]] | None = None
    both: bool = False
    queue_by: str = "same"
    output_by: str = "flow"
    patience_ns: int = 10_000_000

    def __post_init__(self) -> None:
        for what, value, allowed in (("choice", self.queue_by, QUEUES_BY), ("balance", self.output_by, OUTPUTS_BY)):
            if value not in allowed:
                raise UsageError(f"there is no {what} {value!r}", f"choose one of {', '.join(allowed)}")
        if not self.directions:
            raise UsageError("nowhere to forward to", "write wirecap forward eth1 eth2, or eth1 --to v0,v1")
        for source, targets in self.directions:
            if source.interface in {target.interface for target in targets}:
                raise UsageError(f"{source.interface} would be sent its own packets", "name two interfaces")
        outgoing = [spec.interface for pair in self.pairs for spec in pair] if self.both else [
            target.interface for _, targets in self.directions for target in targets
        ]  # fmt: skip
        for name in outgoing:
            if outgoing.count(name) > 1 and (self.both or self.fan_out):
                raise UsageError(f"{name} is named twice", "name each interface once")
        if not 0 <= self.patience_ns <= 10**12:
            raise UsageError(f"a wait of {self.patience_ns} ns", "write it as 10ms")

    @property
    def directions(self) -> list[tuple[QueueSpec, tuple[QueueSpec, ...]]]:
        """Each interface that is received on, and those that its packets go to."""
        if self.fan_out is not None:
            return [self.fan_out] if self.fan_out[1] else []
        found: list[tuple[QueueSpec, tuple[QueueSpec, ...]]] = [(source, (target,)) for source, target in self.pairs]
        return found + [(target, (source,)) for source, target in self.pairs if self.both]

    @property
    def sources(self) -> tuple[QueueSpec, ...]:
        return tuple(source for source, _ in self.directions)
