"""Finding a running capture of an interface, and mapping what it shares."""

from __future__ import annotations

from wirecap.kernels.base.jit import inline
from wirecap.kernels.libpcap import handle as h
from wirecap.kernels.libpcap import layout as s
from wirecap.kernels.libpcap.export import real
from wirecap.kernels.libpcap.handle import fail, stpcpy
from wirecap.kernels.libpcap.layout import SOCKET_PREFIX
from wirecap.kernels.libpcap.memory import as_int, c_function, load32, load64, store8, store16, store32, store64, text

socket, connect, close = c_function("socket", 3), c_function("connect", 3), c_function("close", 1)
getsockopt, setsockopt, geteuid = c_function("getsockopt", 5), c_function("setsockopt", 5), c_function("geteuid", 0)
recvmsg, poll = c_function("recvmsg", 3), c_function("poll", 3)
mmap, munmap = c_function("mmap", 6), c_function("munmap", 2)
malloc, free = c_function("malloc", 1), c_function("free", 1)
epoll_create1, epoll_ctl = c_function("epoll_create1", 1), c_function("epoll_ctl", 4)
real_open_dead = real("pcap_open_dead_with_tstamp_precision")

AF_UNIX, SOCK_SEQPACKET, SOCK_CLOEXEC = 1, 5, 0o2000000
SOL_SOCKET, SO_PEERCRED, SO_SNDTIMEO, SCM_RIGHTS = 1, 17, 21, 1
MSG_CMSG_CLOEXEC, MSG_CTRUNC, MSG_TRUNC = 0x40000000, 0x8, 0x20
EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLLIN = 0o2000000, 1, 1
POLLIN = 1
PROT_READ, PROT_WRITE, MAP_SHARED, MAP_FIXED, MAP_FAILED = 1, 2, 1, 0x10, -1
CONNECT_S, GREETING_MS = 1, 5000
LONGEST_SNAPLEN = 262144

TOO_MANY_OPEN = "this program may have no more files open, and reading a running wirecap takes some: raise ulimit -n"

NOT_SERVED = -100
"""What ``serve`` returns if real libpcap is to open the interface."""

# a buffer of BUFFER_BYTES, while connecting
ADDRESS, MESSAGE, VECTOR, WORDS, CONTROL = 0, 128, 192, 256, 5632
BUFFER_BYTES, CONTROL_BYTES = 8192, 2048
MESSAGE_CONTROL_BYTES, MESSAGE_FLAGS = MESSAGE + 40, MESSAGE + 48
CONTROL_LEVEL, CONTROL_KIND, CONTROL_FDS = CONTROL + 8, CONTROL + 12, CONTROL + 16  # behind its length, of 64 bits


@inline
def reach(entry, buffer):
    """A socket that is connected to the capture of the interface, or -1.

    Anybody can listen at the name and take nobody in: connecting has a limit, which unix(7) calls one of sending.
    """
    store16(buffer + ADDRESS, AF_UNIX)
    store8(buffer + ADDRESS + 2, 0)
    end = stpcpy(stpcpy(buffer + ADDRESS + 3, text(SOCKET_PREFIX)), entry + h.NAME)
    fd = as_int(socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0))
    if fd < 0:
        return -1
    store64(buffer + WORDS, CONNECT_S)
    store64(buffer + WORDS + 8, 0)
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, buffer + WORDS, 16)
    if as_int(connect(fd, buffer + ADDRESS, end - buffer - ADDRESS)) < 0 or not is_trusted(fd, buffer):
        close(fd)
        return -1
    return fd


@inline
def is_trusted(fd, buffer):
    """Whether root or this user has bound the name: anybody else could make up packets."""
    store32(buffer + WORDS, 12)
    if as_int(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, buffer + WORDS + 8, buffer + WORDS)) < 0:
        return False
    uid = load32(buffer + WORDS + 12)
    return uid == 0 or uid == (geteuid() & 0xFFFFFFFF)


@inline
def receive(fd, buffer):
    """Wait for the greeting: how many bytes of it came, 0 or less if none did."""
    store64(buffer + MESSAGE, fd | POLLIN << 32)
    if as_int(poll(buffer + MESSAGE, 1, GREETING_MS)) < 1:
        return 0
    for at in range(0, 56, 8):
        store64(buffer + MESSAGE + at, 0)
    store64(buffer + VECTOR, buffer + WORDS)
    store64(buffer + VECTOR + 8, CONTROL - WORDS)
    store64(buffer + MESSAGE + 16, buffer + VECTOR)
    store64(buffer + MESSAGE + 24, 1)
    store64(buffer + MESSAGE + 32, buffer + CONTROL)
    store64(buffer + MESSAGE_CONTROL_BYTES, CONTROL_BYTES)
    return recvmsg(fd, buffer + MESSAGE, MSG_CMSG_CLOEXEC)


@inline
def count_passed(buffer):
    """How many descriptors came, which are fewer than were sent if this program has no room for more (cmsg(3))."""
    given = load64(buffer + MESSAGE_CONTROL_BYTES)
    if given < CONTROL_FDS - CONTROL:
        return 0
    if load32(buffer + CONTROL_LEVEL) != SOL_SOCKET or load32(buffer + CONTROL_KIND) != SCM_RIGHTS:
        return 0
    return max(0, min(load64(buffer + CONTROL), given) - (CONTROL_FDS - CONTROL)) // 4


@inline
def is_whole(buffer, size, count):
    """Whether a greeting of this version has all its words and descriptors."""
    pieces = greeting(buffer, s.PIECES)
    if pieces < 0 or pieces > s.MOST_PIECES:
        return False
    return size == 8 * (s.GREETING_WORDS + s.PIECE_WORDS * pieces) and count == s.FIRST_PIECE_FD + pieces


@inline
def close_all(fd, buffer, count):
    """Close the socket and what came through it, and nothing else of the program's."""
    close(fd)
    for number in range(count):
        close(passed(buffer, number))


@inline
def greeting(buffer, word):
    return load64(buffer + WORDS + 8 * word)


@inline
def passed(buffer, number):
    """A descriptor that came with the greeting; number: less than ``count_passed``."""
    return as_int(load32(buffer + CONTROL_FDS + 4 * number))


@inline
def map_all(entry, buffer):
    """Map the ring and the arena; False if the kernel refuses."""
    size = greeting(buffer, s.RING_BYTES)
    ring = mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED, passed(buffer, s.RING_FD), 0)
    if ring == MAP_FAILED:
        return False
    store64(entry + h.RING, ring)
    store64(entry + h.RING_BYTES, size)
    size = greeting(buffer, s.ARENA_BYTES)
    arena = mmap(0, size, PROT_READ, MAP_SHARED, passed(buffer, s.ARENA_FD), 0)
    if arena == MAP_FAILED:
        return False
    store64(entry + h.ARENA, arena)
    store64(entry + h.ARENA_BYTES, size)
    for number in range(greeting(buffer, s.PIECES)):
        piece = s.GREETING_WORDS + s.PIECE_WORDS * number
        at = arena + greeting(buffer, piece + s.PIECE_AT)
        size = greeting(buffer, piece + s.PIECE_BYTES)
        fd, offset = passed(buffer, s.FIRST_PIECE_FD + number), greeting(buffer, piece + s.PIECE_FILE_OFFSET)
        if mmap(at, size, PROT_READ, MAP_SHARED | MAP_FIXED, fd, offset) == MAP_FAILED:
            return False
    return True


@inline
def make_waiter(entry):
    """The descriptor that a program can wait on: readable if there are packets, or if the capture has ended.

    False if the kernel gives none.
    """
    waiter = as_int(epoll_create1(EPOLL_CLOEXEC))
    store64(entry + h.WAITER, waiter)
    scratch = entry + h.SCRATCH
    for fd, events in ((load64(entry + h.DOORBELL), EPOLLIN), (load64(entry + h.SOCKET), 0)):
        store32(scratch, events)
        store64(scratch + 4, fd)
        if as_int(epoll_ctl(waiter, EPOLL_CTL_ADD, fd, scratch)) < 0:
            return False
    return True


@inline
def take_up(entry, fd, buffer):
    """With the greeting: have everything that reading needs; 0, or PCAP_ERROR with its reason."""
    store64(entry + h.SOCKET, fd)
    store64(entry + h.DOORBELL, passed(buffer, s.DOORBELL_FD))
    store64(entry + h.RELEASE, passed(buffer, s.RELEASE_FD))
    mapped = map_all(entry, buffer)
    close(passed(buffer, s.RING_FD))
    close(passed(buffer, s.ARENA_FD))
    for number in range(greeting(buffer, s.PIECES)):
        close(passed(buffer, s.FIRST_PIECE_FD + number))
    waits = make_waiter(entry)
    if not mapped:
        give_up(entry)
        return fail(entry, text("the memory of the running wirecap cannot be mapped"))
    if not waits:
        give_up(entry)
        return fail(entry, text(TOO_MANY_OPEN))
    store64(entry + h.PLACES, greeting(buffer, s.PLACES))
    store64(entry + h.M, greeting(buffer, s.M))
    snaplen = load64(entry + h.SNAPLEN)
    if snaplen <= 0 or snaplen > LONGEST_SNAPLEN:
        snaplen = LONGEST_SNAPLEN
    store64(entry + h.SNAPLEN, snaplen)
    inner = real_open_dead(greeting(buffer, s.DLT), snaplen, load64(entry + h.PRECISION), 0, 0, 0)
    if inner == 0:
        give_up(entry)
        return fail(entry, text("out of memory"))
    store64(entry + h.INNER, inner)
    store64(entry + h.STAGE, h.SERVED)
    return 0


@inline
def give_up(entry):
    """Let go of everything that the capture has passed."""
    if load64(entry + h.ARENA) != 0:
        munmap(load64(entry + h.ARENA), load64(entry + h.ARENA_BYTES))
    if load64(entry + h.RING) != 0:
        munmap(load64(entry + h.RING), load64(entry + h.RING_BYTES))
    for word in range(h.SOCKET, h.ARENA, 8):
        close(load64(entry + word))
    store64(entry + h.ARENA, 0)
    store64(entry + h.RING, 0)


@inline
def greet(entry, fd, buffer):
    """Take up what the capture passes: 0, or PCAP_ERROR with its reason and with nothing left open."""
    size = receive(fd, buffer)
    count = count_passed(buffer) if size > 0 else 0
    if size < 8:
        close_all(fd, buffer, count)
        return fail(
            entry, text("the running wirecap takes no readers of this user, has no room for one, or does not answer")
        )
    if greeting(buffer, s.GREETING_VERSION) != s.VERSION:
        close_all(fd, buffer, count)
        return fail(entry, text("the running wirecap is another version: preload what its own command prints"))
    if load32(buffer + MESSAGE_FLAGS) & MSG_CTRUNC != 0:
        close_all(fd, buffer, count)
        return fail(entry, text(TOO_MANY_OPEN))
    if load32(buffer + MESSAGE_FLAGS) & MSG_TRUNC != 0 or not is_whole(buffer, size, count):
        close_all(fd, buffer, count)
        return fail(entry, text("the running wirecap says something that cannot be understood"))
    return take_up(entry, fd, buffer)


@inline
def serve(entry):
    """Have the handle served by a running capture: 0, PCAP_ERROR, or NOT_SERVED if there is none."""
    buffer = malloc(BUFFER_BYTES)
    if buffer == 0:
        return NOT_SERVED
    result = NOT_SERVED
    fd = reach(entry, buffer)
    if fd >= 0:
        result = greet(entry, fd, buffer)
    free(buffer)
    return result
