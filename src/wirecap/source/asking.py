"""What is asked of each NIC's driver about packets (linux/metadata.py): what it tells, and what a capture needs."""

from __future__ import annotations

from wirecap.errors import UsageError
from wirecap.linux import ethtool, metadata
from wirecap.linux.metadata import NOTHING, Metadata
from wirecap.source.nics import Nic


def asked(nic: Nic, mode: str, time: bool, hash: bool) -> Metadata:
    """What a NIC's native program asks for: VLAN tags that were taken out, always; its time and hash, if wanted.

    In the NIC's namespace.  Nothing is asked of a NIC that leaves tags where they are, so that it costs nothing there.
    """
    strips = mode != "generic" and ethtool.strips_tags(nic.name)
    if not (strips or time or hash):
        return NOTHING
    return metadata.metadata(strips and metadata.TAG in metadata.offered(nic.index), time, hash)


def check_clock(nic: Nic, mode: str) -> None:
    """Raises UsageError where the NIC's time does not reach an XDP program."""
    _check(nic, mode, metadata.TIME, "-j adapter_unsynced", "time", "use --engine packet")


def check_hash(nic: Nic, mode: str, option: str) -> None:
    """Raises UsageError where the NIC's hash does not reach an XDP program."""
    _check(nic, mode, metadata.HASH, option, "hash", f"leave {option} out")


def _check(nic: Nic, mode: str, name: str, option: str, what: str, way_out: str) -> None:
    if mode == "generic":
        raise UsageError(f"{option}: in generic mode nothing tells the NIC's {what}", "leave --xdp-mode out")
    asks = metadata.metadata(time=name == metadata.TIME, hash=name == metadata.HASH)
    if name not in metadata.offered(nic.index) or not asks:
        raise UsageError(
            f"{option}: {nic.name}'s driver does not tell XDP programs its {what} (Linux 6.7, some drivers)", way_out
        )
