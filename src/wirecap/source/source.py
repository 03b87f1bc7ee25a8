"""What a source is: something that fills an arena and yields descriptors, for one or more receive queues."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from wirecap.config.capture import CaptureConfig
from wirecap.config.forward import ForwardConfig
from wirecap.files.headers import LINKTYPE_ETHERNET, Interface
from wirecap.files.reader import CaptureFile
from wirecap.filters.metadata import Link
from wirecap.kernels.pool.pool import Pool, Rings

if TYPE_CHECKING:
    from wirecap.filters.native import LinkFilters
    from wirecap.linux.af_xdp import Piece, SharedMemory
    from wirecap.linux.nic_losses import NicLosses
    from wirecap.source.wires import WireTable


@dataclass(frozen=True)
class SourceQueue:
    """A receive queue."""

    interface: str
    queue: int
    interface_id: int = 0


@dataclass
class HookCounts:
    """The source's own counters of one queue, in packets and bytes."""

    received: int = 0
    received_bytes: int = 0
    in_ring: int = 0
    """Packets captured by the kernel and not yet taken by the capture thread."""
    drops: dict[str, int] = field(default_factory=dict)
    filtered: int = 0
    """Packets rejected by a filter in the kernel."""


@dataclass(frozen=True)
class CaptureSettings:
    """How capture threads behave."""

    timeout_ns: int = 1_000_000
    coalesce_ns: int = 100_000
    busy_poll: bool = False
    lazy: bool = False
    """Nobody waits for a single packet, as a forwarder does: a few may lie for half a millisecond, so that threads are
    woken less often."""


class Source(ABC):
    """A kind of place that packets come from; ``config/sources.py`` has the table of those with a name.

    The engine calls, in this order: ``equip`` (put cells on the free stacks, and the positions of the rings into the
    queues' words), ``claim``, ``run`` in each capture thread, ``start``, later ``stop``, and ``close`` once everything
    has been read.
    """

    name: ClassVar[str]
    """Its name in the summary, and in ``--engine`` if it can be asked for."""
    live: ClassVar[bool] = True
    """False for a recording: its packets do not go away while nobody takes them."""
    truncates: ClassVar[bool] = False
    """True if a captured length can be less than the original."""
    direct: ClassVar[bool] = False
    """True if handler threads receive packets themselves, from ``descriptor``'s sockets, without capture threads."""
    filters_in_kernel: ClassVar[bool] = False
    """True if the kernel applies the filter before the handler threads do."""

    cells_circulate: ClassVar[bool] = False
    """True if packets come in cells of the free stacks, by way of a fill ring."""

    arena: NDArray[np.uint8]
    large_units: int = 0
    """Units of a queue's large-packet memory (kernels/pool/large.py)."""
    queues: list[SourceQueue]
    interfaces: list[Interface]
    """Where packets come from; a slot's INTERFACE word is an index.  A file's list may grow while it is read."""
    rings: Rings
    filtered: bool = False
    """Whether what the filter rejects does not get here, because it was applied elsewhere."""
    recording: CaptureFile | None = None
    """The pcapng file that is read: it holds more than packets.  None for anything else."""
    wires: WireTable | None = None
    """Where packets are forwarded to."""
    shared: SharedMemory | None = None
    """The arena as other processes can map it, with ``pieces`` over it; None if they cannot."""
    pieces: Sequence[Piece] = ()

    @classmethod
    def from_config(cls, config: CaptureConfig, forward: ForwardConfig | None) -> Self:
        """Open what the configuration names, in the network namespace of the interfaces; no packets are let in yet.

        Raises UsageError or SystemCallError.  Only sources that ``--engine`` names need it.
        """
        raise NotImplementedError

    @abstractmethod
    def equip(self, pool: Pool, cells_per_queue: int) -> None: ...

    @abstractmethod
    def kernels(self) -> list[Any]:
        """The entry points that ``run`` calls, to be compiled ahead."""

    @abstractmethod
    def run(self, pool: Pool, mine: list[int], settings: CaptureSettings) -> None:
        """The life of a capture thread: serve the home queues ``mine`` until the phase is DRAIN or ABORT."""

    @abstractmethod
    def counts(self, pool: Pool, queue: int) -> HookCounts:
        """What it counts now.  ``received`` is read last: it is never behind the drops, whoever counts meanwhile."""

    @abstractmethod
    def start(self) -> None:
        """Let packets in."""

    @abstractmethod
    def stop(self) -> None:
        """Let no more packets in; returns once none is on its way."""

    @abstractmethod
    def close(self) -> None: ...

    def claim(self) -> None:
        """Take what others may hold; raises SystemCallError.  Output files are not touched before this."""
        return

    def mark_directions(self, pool: Pool) -> bool:
        """From now on put each packet's epb_flags into the byte before it; False if direction is not known.

        Before any packet is let in.
        """
        return False

    def keep_apart(self) -> None:
        """From now on no chunk holds packets of several interfaces.  Before any packet is let in."""
        return

    def notes(self) -> list[str]:
        """What handlers should know about the packets that they got, a sentence for each."""
        return []

    losses: NicLosses | None = None
    """What its NICs lose by themselves, from ``start`` on."""

    def report(self, summary: dict[str, Any]) -> None:
        """Add what it alone knows to the summary object."""
        if self.losses and (lost := self.losses.so_far()):
            summary["nic_drops"] = lost

    def check(self) -> None:
        """Raise WirecapError if no more packets can arrive (the interface is gone)."""
        return

    def news(self) -> list[str]:
        """What has been changed under the capture since the last call, and what is lost by it, a line for each."""
        return []

    def away(self) -> list[str]:
        """Interfaces that are gone and waited for, where ``check`` would otherwise raise."""
        return []

    def returned(self) -> list[str]:
        """Those of them that are there again, and can be captured.  In their network namespace.

        Raises WirecapError if one is there that cannot.
        """
        return []

    rejoins_at_work: ClassVar[bool] = False
    """True if capture threads may run during ``rejoin``."""

    def rejoin(self, names: list[str]) -> None:
        """Go on capturing on these.  In their namespace, while no capture thread runs.  Raises WirecapError."""
        raise NotImplementedError

    def links(self) -> list[Link]:
        """What a filter can know of each interface's packets."""
        return [Link(interface.dlt) for interface in self.interfaces] or [Link(LINKTYPE_ETHERNET)]

    def filter_by(self, filters: LinkFilters) -> bool:
        """Hand over only what the filter selects; False where the handler threads have to do it."""
        return False

    unsampled: ClassVar[str] = ""
    """Why it has no samples of lost packets, in words, where another source has them."""

    def lost_samples(self, queue: int) -> NDArray[np.int64] | None:
        """Rows about lost packets, as linux/xdp_program.py describes them, written meanwhile; None: none are kept.

        int64 (SAMPLES, SAMPLE_WORDS); add ``lost_clock_ns`` to their times for ns since the epoch.
        """
        return None

    def lost_clock_ns(self) -> int:
        return 0

    def descriptor(self, queue: int) -> int:
        """The socket of a home queue, to wait on; only ``direct`` sources need it."""
        raise NotImplementedError

    def warnings(self) -> list[str]:
        """What the source is known to drop or miss, before the first packet.  Call it in the NICs' namespace."""
        return []

    def describe(self) -> dict[str, Any]:
        """``xdp_mode`` and ``zero_copy`` for the summary, and ``how`` if a live capture has its own word for that.

        ``time_stamps``: what ``stamps.described`` says of them, where they are taken here.
        ``remedies``: what helps against a drop by this name, where ``warnings`` found out.
        """
        return {"xdp_mode": None, "zero_copy": False}
