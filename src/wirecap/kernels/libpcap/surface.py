"""libpcap's functions, as a program calls them: for a handle that is served here, for any other real libpcap's."""

from __future__ import annotations

from wirecap.kernels.base.jit import inline
from wirecap.kernels.libpcap import handle as h
from wirecap.kernels.libpcap import layout as s
from wirecap.kernels.libpcap.connect import NOT_SERVED, free, give_up, malloc, serve
from wirecap.kernels.libpcap.export import export, real
from wirecap.kernels.libpcap.handle import add, fail, find, forget, note, served, stpcpy, strnlen
from wirecap.kernels.libpcap.memory import (
    HANDLES_BYTES,
    acquire64,
    as_int,
    c_function,
    handles,
    load32,
    load64,
    store8,
    store32,
    store64,
    text,
)
from wirecap.kernels.libpcap.packets import STOPPED, hand_out, patience_ms, poll, ring_bell, take

memcpy, send, recv = c_function("memcpy", 3), c_function("send", 4), c_function("recv", 4)
PCAP_ERROR, PCAP_ERROR_ACTIVATED = -1, -4
MSG_DONTWAIT, MSG_NOSIGNAL, POLLIN = 0x40, 0x4000, 1
ANSWER_MS = 1000
INCOMING, OUTGOING = 1, 2
ERROR_BYTES = 256

PASSED_ON = """
    pcap_bufsize pcap_compile pcap_datalink pcap_datalink_ext pcap_dump_fopen pcap_dump_open pcap_dump_open_append
    pcap_file pcap_get_tstamp_precision pcap_geterr pcap_inject pcap_is_swapped pcap_list_datalinks
    pcap_list_tstamp_types pcap_major_version pcap_minor_version pcap_perror pcap_sendpacket pcap_set_buffer_size
    pcap_set_datalink pcap_set_immediate_mode pcap_set_promisc pcap_set_protocol_linux pcap_set_rfmon
    pcap_set_tstamp_type pcap_snapshot
""".split()
"""What real libpcap does with the inner handle of a handle that is served here."""


_activate, _bpf_validate, _breakloop = real("pcap_activate"), real("bpf_validate"), real("pcap_breakloop")
_can_set_rfmon, _close, _create = real("pcap_can_set_rfmon"), real("pcap_close"), real("pcap_create")
_dispatch, _fileno, _geterr = real("pcap_dispatch"), real("pcap_fileno"), real("pcap_geterr")
_select_timeout, _selectable = real("pcap_get_required_select_timeout"), real("pcap_get_selectable_fd")
_getnonblock, _lib_version, _loop = real("pcap_getnonblock"), real("pcap_lib_version"), real("pcap_loop")
_next, _next_ex, _open_live = real("pcap_next"), real("pcap_next_ex"), real("pcap_open_live")
_set_promisc, _set_snaplen, _set_timeout = real("pcap_set_promisc"), real("pcap_set_snaplen"), real("pcap_set_timeout")
_set_precision, _setdirection = real("pcap_set_tstamp_precision"), real("pcap_setdirection")
_setfilter, _setnonblock, _stats = real("pcap_setfilter"), real("pcap_setnonblock"), real("pcap_stats")


@export("pcap_lib_version", 0)
def pcap_lib_version():
    """Real libpcap's, and that this is in front of it."""
    kept = handles() + HANDLES_BYTES - h.HANDLE_BYTES  # the last handle's place, which is never given out
    real_one = _lib_version(0, 0, 0, 0, 0, 0)
    if real_one != 0 and strnlen(real_one, 200) < 200:
        stpcpy(stpcpy(kept + 64, real_one), text(", behind WireCAP"))
    return kept + 64


@export("pcap_create", 2)
def pcap_create(device, error):
    pcap = _create(device, error, 0, 0, 0, 0)
    if pcap != 0:
        entry = add(device)
        if entry != 0:
            store64(entry + h.PCAP, pcap)
    return pcap


@export("pcap_close", 1)
def pcap_close(pcap):
    entry = find(pcap)
    if entry != 0:
        if load64(entry + h.STAGE) == h.SERVED:
            if load64(entry + h.FILTER) != 0:
                free(load64(entry + h.FILTER))
            give_up(entry)
            if load64(entry + h.INNER) != pcap:
                _close(load64(entry + h.INNER), 0, 0, 0, 0, 0)
        forget(entry)
    return _close(pcap, 0, 0, 0, 0, 0)


@export("pcap_activate", 1)
def pcap_activate(pcap):
    entry = find(pcap)
    if entry != 0:
        if load64(entry + h.STAGE) == h.SERVED:
            fail(entry, text("it is activated already"))
            return PCAP_ERROR_ACTIVATED
        result = serve(entry)
        if result != NOT_SERVED:
            return result
    return _activate(pcap, 0, 0, 0, 0, 0)


@export("pcap_open_live", 5)
def pcap_open_live(device, snaplen, promiscuous, timeout, error):
    """A handle that is served is its own inner handle; real libpcap never gets to know the interface."""
    entry = add(device)
    if entry != 0:
        store64(entry + h.SNAPLEN, as_int(snaplen))
        store64(entry + h.TIMEOUT_MS, as_int(timeout))
        store64(entry + h.ERROR, error)
        result = serve(entry)
        if result == 0:
            store64(entry + h.ERROR, 0)
            store64(entry + h.PCAP, load64(entry + h.INNER))
            return load64(entry + h.INNER)
        forget(entry)
        if result != NOT_SERVED:
            return 0
    return _open_live(device, snaplen, promiscuous, timeout, error, 0)


@export("pcap_set_snaplen", 2)
def pcap_set_snaplen(pcap, value):
    note(pcap, h.SNAPLEN, as_int(value))
    return _set_snaplen(known(pcap), value, 0, 0, 0, 0)


@export("pcap_set_timeout", 2)
def pcap_set_timeout(pcap, value):
    note(pcap, h.TIMEOUT_MS, as_int(value))
    return _set_timeout(known(pcap), value, 0, 0, 0, 0)


@export("pcap_set_tstamp_precision", 2)
def pcap_set_tstamp_precision(pcap, value):
    result = as_int(_set_precision(known(pcap), value, 0, 0, 0, 0))
    if result == 0:
        note(pcap, h.PRECISION, as_int(value))
    return result


@inline
def known(pcap):
    entry = served(pcap)
    return load64(entry + h.INNER) if entry != 0 else pcap


@export("pcap_can_set_rfmon", 1)
def pcap_can_set_rfmon(pcap):
    if served(pcap) != 0:
        return PCAP_ERROR_ACTIVATED
    return _can_set_rfmon(pcap, 0, 0, 0, 0, 0)


@export("pcap_setnonblock", 3)
def pcap_setnonblock(pcap, value, error):
    entry = served(pcap)
    if entry != 0:
        store64(entry + h.NONBLOCK, as_int(value))
        return 0
    note(pcap, h.NONBLOCK, as_int(value))
    return _setnonblock(pcap, value, error, 0, 0, 0)


@export("pcap_getnonblock", 2)
def pcap_getnonblock(pcap, error):
    entry = served(pcap)
    if entry != 0:
        return 1 if load64(entry + h.NONBLOCK) != 0 else 0
    return _getnonblock(pcap, error, 0, 0, 0, 0)


@export("pcap_setfilter", 2)
def pcap_setfilter(pcap, program):
    entry = served(pcap)
    if entry == 0:
        return _setfilter(pcap, program, 0, 0, 0, 0)
    length = load32(program)
    code = load64(program + 8)
    if as_int(_bpf_validate(code, length, 0, 0, 0, 0)) == 0:
        return fail(entry, text("the filter is not a valid BPF program"))
    copy = malloc(8 * length)
    if copy == 0:
        return fail(entry, text("out of memory"))
    memcpy(copy, code, 8 * length)
    if load64(entry + h.FILTER) != 0:
        free(load64(entry + h.FILTER))
    store64(entry + h.FILTER, copy)
    return 0


@export("pcap_setdirection", 2)
def pcap_setdirection(pcap, direction):
    entry = served(pcap)
    if entry == 0:
        return _setdirection(pcap, direction, 0, 0, 0, 0)
    if as_int(direction) == 0:
        return 0
    return fail(entry, text("the running wirecap decides which direction is captured: give -Q to it"))


@export("pcap_stats", 2)
def pcap_stats(pcap, result):
    """Packets accepted and dropped, dropped ones by the capture's pool since the handle was activated."""
    entry = served(pcap)
    if entry == 0:
        return _stats(pcap, result, 0, 0, 0, 0)
    scratch, fd = entry + h.SCRATCH + 128, load64(entry + h.SOCKET)
    store8(scratch + 16, 0)
    if send(fd, scratch + 16, 1, MSG_DONTWAIT | MSG_NOSIGNAL) == 1:  # the counters as they are now
        store64(scratch, fd | POLLIN << 32)
        if as_int(poll(scratch, 1, ANSWER_MS)) == 1:
            recv(fd, scratch + 16, 1, MSG_DONTWAIT)
    dropped = acquire64(load64(entry + h.RING) + s.DROPPED)
    store32(result, load64(entry + h.ACCEPTED) + dropped)
    store32(result + 4, dropped)
    store32(result + 8, 0)
    return 0


@export("pcap_get_selectable_fd", 1)
def pcap_get_selectable_fd(pcap):
    entry = served(pcap)
    return load64(entry + h.WAITER) if entry != 0 else _selectable(pcap, 0, 0, 0, 0, 0)


@export("pcap_fileno", 1)
def pcap_fileno(pcap):
    entry = served(pcap)
    return load64(entry + h.WAITER) if entry != 0 else _fileno(pcap, 0, 0, 0, 0, 0)


@export("pcap_get_required_select_timeout", 1)
def pcap_get_required_select_timeout(pcap):
    return 0 if served(pcap) != 0 else _select_timeout(pcap, 0, 0, 0, 0, 0)


@export("pcap_breakloop", 1)
def pcap_breakloop(pcap):
    """Called from signal handlers and other threads too."""
    entry = served(pcap)
    if entry == 0:
        return _breakloop(pcap, 0, 0, 0, 0, 0)
    store64(entry + h.STOP, 1)
    ring_bell(entry, h.DOORBELL)
    return 0


@export("pcap_dispatch", 4)
def pcap_dispatch(pcap, limit, function, user):
    entry = served(pcap)
    if entry == 0:
        return _dispatch(pcap, limit, function, user, 0, 0)
    return hand_out(entry, as_int(limit), function, user, patience_ms(entry))


@export("pcap_loop", 4)
def pcap_loop(pcap, limit, function, user):
    entry = served(pcap)
    if entry == 0:
        return _loop(pcap, limit, function, user, 0, 0)
    limit = as_int(limit)
    left = limit
    while limit <= 0 or left > 0:
        n = hand_out(entry, left, function, user, -1)
        if n < 0:
            return n
        left -= n if limit > 0 else 0
    return 0


@export("pcap_next_ex", 3)
def pcap_next_ex(pcap, header, data):
    entry = served(pcap)
    if entry == 0:
        return _next_ex(pcap, header, data, 0, 0, 0)
    packet = take(entry)
    if packet == 0 or packet == PCAP_ERROR or packet == STOPPED:
        return packet
    store64(header, entry + h.HEADER)
    store64(data, packet)
    return 1


@export("pcap_next", 2)
def pcap_next(pcap, header):
    entry = served(pcap)
    if entry == 0:
        return _next(pcap, header, 0, 0, 0, 0)
    packet = take(entry)
    if packet == 0 or packet == PCAP_ERROR or packet == STOPPED:
        return 0
    memcpy(header, entry + h.HEADER, 24)
    return packet
