"""What a program does with a greeting that is not whole: it says so, and has the same files open as before."""

from __future__ import annotations

import ast
import ctypes
import os
import platform
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from wirecap.compat.libpcap import build, elf
from wirecap.kernels.libpcap import layout

pytestmark = pytest.mark.skipif(platform.machine() not in elf.MACHINES, reason="no shared objects are made here")
LIBPCAP = "libpcap.so.0.8"
PLACES, M = 8, 16
RING_BYTES, ARENA_BYTES = 1 << 16, 1 << 12
TOO_MANY, UNCLEAR = "raise ulimit -n", "cannot be understood"

OPENING = """
import ctypes, os, resource, sys
lib = ctypes.CDLL(None)
lib.pcap_open_live.restype = ctypes.c_void_p
error = ctypes.create_string_buffer(256)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
def files():
    found = {}
    for fd in range(64):
        try:
            status = os.fstat(fd)
            found[fd] = status.st_dev, status.st_ino
        except OSError:
            pass
    return found
result = []
for left in map(int, sys.argv[2:]):
    taken = []
    try:
        while True:
            taken.append(os.dup(0))
    except OSError:
        pass
    for fd in taken[len(taken) - left:]:
        os.close(fd)
    before = files()
    error.value = b""
    pcap = lib.pcap_open_live(sys.argv[1].encode(), 100, 0, 10, error)
    if pcap:
        lib.pcap_close(ctypes.c_void_p(pcap))
    result.append((bool(pcap), error.value.decode(), files() == before))
    for fd in taken[:len(taken) - left]:
        os.close(fd)
print(result)
"""


@pytest.fixture
def descriptors() -> Iterator[list[int]]:
    """What a capture passes, in the greeting's order: ring, two eventfds, arena; and one more."""
    fds = [os.memfd_create("ring"), os.eventfd(0), os.eventfd(0), os.memfd_create("arena"), os.memfd_create("piece")]
    os.ftruncate(fds[layout.RING_FD], RING_BYTES)
    os.ftruncate(fds[layout.ARENA_FD], ARENA_BYTES)
    yield fds
    for fd in fds:
        os.close(fd)


def words(*, version: int = layout.VERSION, pieces: int = 0) -> bytes:
    return struct.pack("<8q", version, 1, 65535, ARENA_BYTES, RING_BYTES, PLACES, M, pieces)


def opened(greetings: list[tuple[bytes, list[int]]], left: list[int]) -> list[tuple[bool, str, bool]]:
    """Open a handle for each number of descriptors that the program has left.

    greetings: what it is told, one after the other.  Returns (whether there is a handle, the error, whether the
    same files are open as before) for each.
    """
    name = f"greeting{os.getpid()}"
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        listener.bind(b"\0" + (layout.SOCKET_PREFIX + name).encode())
        listener.listen()

        def greet() -> None:
            for data, fds in greetings:
                channel, _ = listener.accept()
                socket.send_fds(channel, [data], fds)
                stack.enter_context(channel)

        listener.settimeout(60)
        greeter = threading.Thread(target=greet)
        greeter.start()
        stack.callback(greeter.join)
        return run(name, left)


def run(name: str, left: list[int]) -> list[tuple[bool, str, bool]]:
    try:
        ctypes.CDLL(LIBPCAP)
    except OSError:
        pytest.skip(f"{LIBPCAP} is not installed")
    preloaded = os.environ | {"LD_PRELOAD": f"{build.shared_object(lambda line: None)} {LIBPCAP}"}
    command = [sys.executable, "-c", OPENING, name, *map(str, left)]
    done = subprocess.run(command, env=preloaded, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return list(ast.literal_eval(done.stdout))


def test_a_program_with_no_room_for_descriptors(descriptors):
    """Near its limit of open files a program is told of it, and no file of its own is closed."""
    found = opened([(words(), descriptors[:4])] * 5, [1, 2, 3, 4, 5])
    assert [one[0] for one in found] == [False] * 4 + [True]
    assert all(TOO_MANY in error for _, error, _ in found[:4]), found
    assert all(same for _, _, same in found)


def test_a_greeting_that_is_not_whole(descriptors):
    """Too few or too many descriptors, words that belie them, another version: an error, and nothing stays open."""
    cases = [
        (words(), [], UNCLEAR),
        (words(), descriptors[:3], UNCLEAR),
        (words(), descriptors, UNCLEAR),
        (words(pieces=1), descriptors, UNCLEAR),
        (words(pieces=-1), descriptors[:3], UNCLEAR),
        (words(pieces=1 << 40), descriptors, UNCLEAR),
        (words()[:40], descriptors[:4], UNCLEAR),
        (words() + bytes(8192), descriptors[:4], UNCLEAR),
        (b"x", descriptors[:4], "does not answer"),
        (words(version=layout.VERSION + 1), descriptors[:4], "is another version"),
    ]
    found = opened([(data, fds) for data, fds, _ in cases], [30] * len(cases))
    for (_, _, why), (handle, error, same) in zip(cases, found, strict=True):
        assert not handle
        assert why in error
        assert same


def test_a_name_at_which_nobody_is_taken_in():
    """A program does not wait for ever for whoever holds the name: it goes on with real libpcap."""
    name = f"closed{os.getpid()}"
    address = b"\0" + (layout.SOCKET_PREFIX + name).encode()
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)) for _ in range(4)]
        sockets[0].bind(address)
        sockets[0].listen(0)
        for one in sockets[1:]:
            one.setblocking(False)
            with suppress(BlockingIOError):
                one.connect(address)
        ((handle, error, same),) = run(name, [30])
    assert not handle
    assert "wirecap" not in error
    assert same
