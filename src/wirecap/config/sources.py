"""The sources that ``--engine`` names: what each can do, and where its class is.

A new source is a file (source/source.py says what it must have), a line here, and a test.  Classes are named as text,
so that nothing heavy is imported before it is used.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SourceKind:
    """What a capture may ask of a source; ``home`` is its class, as ``package.module:Class``."""

    home: str
    runs_xdp: bool = False
    """It attaches an XDP program: --xdp-mode and --kernel-filter apply."""
    forwards: bool = False
    """Packets can be sent from the cells that they were received in."""
    shares: bool = True
    """Its chunks can be handed to a buddy: advanced mode."""
    bare_ring: bool = False
    """A receive ring of whole chunks is its only buffer."""
    fans_out: bool = False
    """It spreads an interface's packets over queues of its own: --fanout."""
    sees_outgoing: bool = False
    """It also sees what the host sends: -Q out, -Q inout."""
    captures_any: bool = False
    """It captures on all interfaces at once: -i any."""
    nic_clock: bool = False
    """It can give the NIC's own timestamps: -j adapter_unsynced."""
    busy_polls: bool = False
    """Its capture threads can take packets from the NIC without its interrupts: --busy-poll."""
    ring_is_pool: bool = False
    """--ring says how many packets a queue has room for, in place of -R."""


SOURCES: dict[str, SourceKind] = {
    "xdp": SourceKind("wirecap.source.xdp:XdpSource", runs_xdp=True, forwards=True, nic_clock=True, busy_polls=True),
    "packet": SourceKind(
        "wirecap.source.af_packet:PacketSource",
        fans_out=True,
        sees_outgoing=True,
        captures_any=True,
        nic_clock=True,
        ring_is_pool=True,
    ),
    "direct": SourceKind(
        "wirecap.source.direct:DirectSource", runs_xdp=True, forwards=True, shares=False, bare_ring=True, nic_clock=True
    ),
}

AUTO = "auto"
"""Choose by the interface (source/choose.py)."""


def engine_names() -> tuple[str, ...]:
    """The values of ``--engine``."""
    return (AUTO, *SOURCES)


def may_run_xdp(engine: str) -> bool:
    """Whether a capture with this ``--engine`` may attach an XDP program; with ``auto`` it may."""
    return engine == AUTO or SOURCES[engine].runs_xdp


MODELS = ("pf_ring", "dna", "netmap", "wirecap")
"""The engines that ``simulate --engine`` has models of."""
