"""``wirecap libpcap``: where the shared object is kept, and what it is made of."""

from __future__ import annotations

import platform
import struct
from pathlib import Path

import pytest

from wirecap.cli import main
from wirecap.compat.libpcap import build, elf
from wirecap.errors import UsageError, WirecapError
from wirecap.kernels.base import cache
from wirecap.kernels.libpcap import surface

made_here = pytest.mark.skipif(platform.machine() not in elf.MACHINES, reason="no shared objects are made here")


def symbols(data: bytes) -> tuple[set[str], set[str]]:
    """The names that a shared object exports, and those that it needs; its strings follow its symbols."""
    at, size, count = struct.unpack_from("<Q", data, 32)[0], *struct.unpack_from("<HH", data, 54)
    segments = [struct.unpack_from("<IIQQQQ", data, at + i * size) for i in range(count)]
    start, length = next((row[2], row[5]) for row in segments if row[0] == 2)  # PT_DYNAMIC
    dynamic = dict(struct.iter_unpack("<QQ", data[start : start + length]))
    table, strings = dynamic[6], dynamic[5]
    exported, needed = set(), set()
    for name, _, _, section, _, _ in struct.iter_unpack("<IBBHQQ", data[table + 24 : strings]):
        text = data[strings + name : data.index(b"\0", strings + name)].decode()
        (exported if section else needed).add(text)
    return exported, needed


@made_here
def test_the_command_prints_one_path(capsys, monkeypatch):
    """The path on standard output is a file that everybody can run; a second call makes nothing."""
    assert main.run(["libpcap"]) == 0
    path = Path(capsys.readouterr().out.removesuffix("\n"))
    assert path.stat().st_mode & 0o777 == 0o755
    monkeypatch.setattr(build, "make", lambda: pytest.fail("made again"))  # another process may do so at this time
    assert main.run(["libpcap"]) == 0
    said = capsys.readouterr()
    assert (said.out, said.err) == (f"{path}\n", "")


@made_here
def test_it_needs_nothing_but_the_c_library():
    """The shared object needs no Python and no library of its own, and exports only functions of libpcap."""
    exported, needed = symbols(build.shared_object(lambda line: None).read_bytes())
    assert needed <= {
        "close", "connect", "dlsym", "epoll_create1", "epoll_ctl", "free", "geteuid", "getsockopt", "malloc", "memcpy",
        "mmap", "munmap", "poll", "read", "recv", "recvmsg", "send", "setsockopt", "socket", "stpcpy", "strlen",
        "strnlen", "write",
    }  # fmt: skip
    assert all(name.startswith("pcap_") for name in exported)
    assert {*surface.PASSED_ON, "pcap_activate", "pcap_loop", "pcap_open_live"} <= exported


@made_here
def test_a_folder_that_cannot_be_preloaded_is_refused(monkeypatch, tmp_path):
    """LD_PRELOAD takes no path with a space: that is said, with the way out."""
    monkeypatch.setattr(cache, "CACHE_DIR", tmp_path / "a folder")
    with pytest.raises(UsageError, match="cannot hold a path with a space") as refused:
        build.shared_object(lambda line: None)
    assert refused.value.hint == cache.CACHE_HINT


def test_other_processors_are_refused(monkeypatch):
    """Where no shared objects are made, one line says so and names another way."""
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(WirecapError, match="no shared objects for riscv64"):
        build.shared_object(lambda line: None)
