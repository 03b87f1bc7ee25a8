"""Say in words what a scan found wrong."""

from __future__ import annotations

from wirecap.files.feed import Words
from wirecap.kernels import scan_state as at


def describe(state: Words) -> tuple[str, str]:
    """(message, hint or "") for the error in a scan's state."""
    code, wanted, got = int(state[at.ERROR]), int(state[at.WANTED]), int(state[at.GOT])
    what = "block" if state[at.FORMAT] == at.PCAPNG else "packet header"
    if code == at.CUT_HEADER:
        return f"truncated dump file; tried to read a {what} of {wanted} bytes, only got {got}", ""
    if code == at.CUT_PACKET and state[at.FORMAT] == at.PCAP:
        header = int(state[at.HEADER])
        return f"truncated dump file; tried to read {wanted - header} captured bytes, only got {got - header}", ""
    if code == at.CUT_PACKET:
        return f"truncated dump file; tried to read a block of {wanted} bytes, only got {got}", ""
    damaged = "the file is damaged from here on; the packets before it are whole"
    return {
        at.ABSURD_LENGTH: f"invalid captured length {wanted}, more than the maximum of {got}",
        at.BLOCK_LENGTH: f"invalid block length {wanted}",
        at.TRAILER: f"block lengths differ: {wanted} before and {got} after the block",
        at.NO_INTERFACE: f"packet of interface {wanted}, which the section does not describe",
        at.PACKET_IN_BLOCK: f"packet of {wanted} captured bytes in a block of {got}",
    }[code], damaged
