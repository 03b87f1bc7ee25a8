"""The libpcap that cypcap brings, called through ctypes: its compiler and its interpreter; no device is opened.

cypcap's own ``compile`` holds the GIL, and an expression can take libpcap minutes: its optimiser takes time with the
cube of the expression's length.  ctypes lets go of the GIL, and a thread of its own lets signals be heard meanwhile.
"""

from __future__ import annotations

import ctypes
from functools import cache

import cypcap._cypcap

from wirecap.filters.apart import apart

PATIENCE_S = 2.0
"""What the optimiser gets; then the expression is compiled as it is written."""

_DLT = {100: 11, 101: 12, 106: 19}
"""The LINKTYPE_ values of capture files whose DLT_ number on Linux is another: ATM, raw IP, classical IP on ATM."""

Rows = list[tuple[int, int, int, int]]


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint), ("instructions", ctypes.POINTER(_Instruction)))


@cache
def library() -> ctypes.CDLL:
    """libpcap, with the types of the functions that are called here."""
    # A look-up in the extension module finds its own libpcap, the wheel's or the system's.
    library = ctypes.CDLL(cypcap._cypcap.__file__)
    program = ctypes.POINTER(_Program)
    for name, returns, takes in (
        ("pcap_open_dead", ctypes.c_void_p, [ctypes.c_int, ctypes.c_int]),
        ("pcap_compile", ctypes.c_int, [ctypes.c_void_p, program, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint]),
        ("pcap_geterr", ctypes.c_char_p, [ctypes.c_void_p]),
        ("pcap_freecode", None, [program]),
        ("pcap_close", None, [ctypes.c_void_p]),
        ("pcap_lib_version", ctypes.c_char_p, []),
        ("pcap_datalink_val_to_name", ctypes.c_char_p, [ctypes.c_int]),
        ("pcap_datalink_val_to_description", ctypes.c_char_p, [ctypes.c_int]),
        ("bpf_filter", ctypes.c_uint, [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = returns, takes
    return library


def version() -> str:
    """What libpcap calls itself."""
    return str(library().pcap_lib_version().decode())


def dlt_of(linktype: int) -> int:
    """The DLT_ number of a capture file's LINKTYPE_ value (or of itself)."""
    return _DLT.get(linktype, linktype)


def link_name(linktype: int) -> str:
    """``link type RAW (Raw IP)``, as tcpdump names it; by its number where libpcap has no name for it."""
    dlt = dlt_of(linktype)
    name, description = library().pcap_datalink_val_to_name(dlt), library().pcap_datalink_val_to_description(dlt)
    return f"link type {name.decode()} ({description.decode()})" if name else f"link type {linktype}"


def compile(text: str, dlt: int, snaplen: int, optimize: bool, netmask: int) -> tuple[Rows, str, bool]:
    """(instructions, libpcap's message or "", whether the optimiser was given up); there is no row with a message.

    A signal's handler runs, and may raise, while this waits.
    """
    answer = apart(lambda: _compile(text, dlt, snaplen, True, netmask), PATIENCE_S, idle=True) if optimize else None
    if answer:
        return *answer, False
    answer = apart(lambda: _compile(text, dlt, snaplen, False, netmask), idle=True)
    assert answer
    return *answer, optimize


def _compile(text: str, dlt: int, snaplen: int, optimize: bool, netmask: int) -> tuple[Rows, str]:
    try:
        encoded = text.encode()
    except UnicodeError:
        encoded = b"\0"
    if 0 in encoded:  # C would take it for the end
        return [], "a character that no filter holds"
    pcap, program = library(), _Program()
    handle = pcap.pcap_open_dead(dlt, snaplen)
    try:
        if pcap.pcap_compile(handle, program, encoded, optimize, netmask):
            return [], pcap.pcap_geterr(handle).decode(errors="replace") or "not a filter expression"
        rows = [(row.code, row.jt, row.jf, row.k) for row in program.instructions[: program.length]]
        pcap.pcap_freecode(program)
        return rows, ""
    finally:
        pcap.pcap_close(handle)
