"""What drivers make of a cell in zero-copy mode: Intel's older NICs know buffers of whole KiB only.

They take the cell less the headroom, 1,792 bytes of 2 KiB, and round it down for SRRCTL.BSIZEPKT (igb_setup_srrctl,
igc_configure_rx_ring, ixgbe_configure_srrctl).  A longer frame goes on in the next buffers.  The zero-copy loops of igb
and igc do not look whether a buffer is a frame's last one, and hand each to XDP as a packet; that of ixgbe drops such
frames.  In copy mode these drivers' buffers are 2 or 3 KiB, whatever the cell.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wirecap.linux import ethtool, netlink, probes

STEP_BYTES = 1024
STAMP_BYTES = 16
"""What igb and igc have the NIC put before a packet when it timestamps what it receives (IGB_TS_HDR_LEN)."""
SINCE = {"igb": (6, 14), "igc": (5, 14), "ixgbe": (4, 20)}
"""Drivers that round, and the first kernel in which they have zero-copy; distributions have it in older ones."""
SPLITTING = ("igb", "igc")
_82599 = frozenset(
    "10f7 10f8 10f9 10fb 10fc 1507 1514 1517 151c 1529 152a 154a 154d 154f 1557 1558".split()
)  # PCI devices: ixgbe's others have another register for the length (RXDCTL.RLPML)


@dataclass(frozen=True)
class Buffer:
    """One of the NIC's buffers: its bytes; whether a longer frame comes in pieces, each as a packet."""

    driver: str
    size: int
    splits: bool

    @property
    def whole(self) -> int:
        """Bytes of the longest packet that is certainly not a piece of a longer one."""
        return self.size - STAMP_BYTES - 1 if self.splits else self.size

    @property
    def remedy(self) -> str:
        """What helps where longer ones have come."""
        return (
            f"{self.driver} breaks frames of more than {self.whole:,} bytes in zero-copy mode, and each piece counts;"
            " lower the senders' MTU, or use --xdp-mode generic, which takes them whole"
        )


def buffer_of(name: str, room: int, root: Path = Path("/")) -> Buffer | None:
    """The buffers of an interface in zero-copy mode, if they are smaller than the room in a cell, or split frames.

    In its network namespace.
    """
    driver = netlink.interface(name).driver
    if driver not in SINCE or (driver == "ixgbe" and _device(ethtool.bus(name), root) not in _82599):
        return None
    return Buffer(driver, room // STEP_BYTES * STEP_BYTES, driver in SPLITTING)


def is_there(driver: str) -> bool:
    """Whether such a driver of this kernel should have zero-copy."""
    return probes.release() >= SINCE[driver]


def _device(address: str, root: Path) -> str:
    """The id of a PCI device: '10fb'."""
    try:
        return (root / "sys/bus/pci/devices" / address / "device").read_text().strip().removeprefix("0x")
    except OSError:
        return ""
