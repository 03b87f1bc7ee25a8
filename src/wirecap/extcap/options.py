"""What can be set in Wireshark's dialog for an interface: one table, for the dialog and for the command line."""

from __future__ import annotations

from typing import NamedTuple

from wirecap.config import sources
from wirecap.config.capture import TIME_STAMPS

CAPTURE, ENGINE = "Capture", "Engine"
HERE = "(here)"
"""In place of a network namespace: the one in which Wireshark runs. Wireshark passes no empty values on."""


class Option(NamedTuple):
    """One field. Wireshark keeps it as the preference ``extcap.INTERFACE.NAME``, without dashes in the name."""

    name: str
    """What is passed is ``--NAME VALUE``, in lower case, as Wireshark's preferences are."""
    display: str
    tooltip: str
    kind: str
    """Wireshark's type: string, unsigned, selector; boolflag has no value. (Wireshark 4.0 knows no
    editselector.)"""
    default: str = ""
    group: str = CAPTURE
    values: tuple[str, ...] = ()
    """What a selector offers."""
    range: str = ""
    """Least and most, of a number."""
    chosen: bool = False
    """Only for the interface that is named in the dialog, which cannot do without it."""
    reload: bool = False
    """The values may change while the dialog is open: it has a button to ask for them again."""


OPTIONS = (
    Option("netns", "Network namespace", "Where the interface is, if not where Wireshark runs", "selector", HERE,
           reload=True),
    Option("interface", "Interface", "Its name in the network namespace", "selector", chosen=True, reload=True),
    Option("queues", "Queues", "Only these receive queues: 0-3 or 0,2; all if empty", "string"),
    Option("filter", "Filter", "Another capture filter, beside that of Wireshark's own field: both must match",
           "string"),
    Option("snaplen", "Snap length", "Bytes of a packet to keep", "unsigned", "262144", range="1,262144"),
    Option("engine", "Engine", "xdp: AF_XDP, for capture ports; packet: AF_PACKET, for the host's own traffic",
           "selector", sources.AUTO, ENGINE, sources.engine_names()),
    Option("mode", "Mode", "advanced: overloaded queues hand chunks to idle ones", "selector", "basic", ENGINE,
           ("basic", "advanced")),
    Option("m", "M", "Packets per chunk", "unsigned", "256", ENGINE, range="1,65536"),
    Option("r", "R", "Chunks per queue: M x R packets of each queue wait for Wireshark", "unsigned", "100", ENGINE,
           range="2,1000000"),
    Option("t", "T", "Capture queue length that calls for a buddy, in % of R (advanced mode)", "unsigned", "60", ENGINE,
           range="1,100"),
    Option("cell", "Cell", "Bytes of memory for a packet", "selector", "2048", ENGINE, ("2048", "4096")),
    Option("time-stamp-type", "Timestamps", "host_hiprec: exact for each packet with AF_XDP too, for a look at the gaps"
           " inside bursts; adapter_unsynced: by the NIC", "selector", TIME_STAMPS[0], ENGINE, TIME_STAMPS),
    Option("no-promiscuous-mode", "No promiscuous mode", "Only packets to this host, as the NIC sees it", "boolflag",
           "false", ENGINE),
    Option("take-over", "Take over", "Use AF_XDP also on an interface in use: the host loses its packets", "boolflag",
           "false", ENGINE),
)  # fmt: skip
