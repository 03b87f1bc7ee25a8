"""tcpdump's filter language, compiled to classic BPF by the libpcap inside pcapy-ng; no device is opened."""

from __future__ import annotations

import pcapy

from wirecap.errors import UsageError
from wirecap.filters.place import locate
from wirecap.filters.program import Program

ETHERNET = 1
_DLT = {100: 11, 101: 12, 106: 19}
"""The LINKTYPE_ values of capture files whose DLT_ number on Linux is another: ATM, raw IP, classical IP on ATM."""


def compile_filter(
    text: str,
    linktype: int = ETHERNET,
    snaplen: int = 262144,
    optimize: bool = True,
    netmask: int = 0,
) -> Program:
    """The classic BPF program of a filter expression; the empty expression accepts every packet.

    ``netmask`` is the IPv4 netmask (an integer) that ``ip broadcast`` needs; 0 as tcpdump takes it for a
    file.  ``linktype`` is the LINKTYPE_ value of a capture file (or a DLT_ number).  Raises UsageError with
    libpcap's message, the expression and the place when it does not parse, and when it asks for packet metadata.
    """
    if not 0 < snaplen < 1 << 31:
        raise UsageError(f"filter '{text}': snap length {snaplen} is not a positive 31-bit number")
    dlt = _DLT.get(linktype, linktype)
    instructions, message = _compile(text, dlt, snaplen, optimize, netmask)
    if message:
        # Not optimised: the optimiser refuses a sound prefix such as "tcp and udp" for what it means.
        place = locate(text, message, lambda part: _compile(part, dlt, snaplen, False, netmask)[1])
        raise UsageError(f"filter '{text}': {message}{place}", "see pcap-filter(7) for the language")
    return Program.of(instructions, text, linktype, snaplen)


def _compile(
    text: str, dlt: int, snaplen: int, optimize: bool, netmask: int
) -> tuple[list[tuple[int, int, int, int]], str]:
    """(instructions, "") or ([], libpcap's message)."""
    # pcapy takes C ints: the netmask's top bit is its sign.
    mask = netmask - (1 << 32) if netmask & 0x80000000 else netmask
    try:
        return pcapy.compile(dlt, snaplen, text, int(optimize), mask).get_bpf(), ""
    except pcapy.PcapError as error:
        return [], str(error).removeprefix("can't parse filter expression: ") or "not a filter expression"
    except (ValueError, UnicodeError):
        return [], "a character that no filter holds"
