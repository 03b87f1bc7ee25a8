"""Files on a disk while they are written: what readers see, what a kill leaves, what counts against a bound."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import capture_bytes as cb
import numpy as np
import pytest
from test_writer import HEADERS, record, submit

from live import missing
from rig import until
from wirecap.files import reserve, targets
from wirecap.files.targets import PAGE, Direct
from wirecap.files.writer import Buffers, Sink, SinkError
from wirecap.kernels.file.write import PCAP_NS

HEADER = HEADERS[PCAP_NS]


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A folder on a file system with direct writes that reserves blocks."""
    fd = os.open(tmp_path / "probe", os.O_CREAT | os.O_WRONLY)
    try:
        reserve.reserve_blocks(fd, 0, PAGE)
        os.close(os.open(tmp_path / "probe", os.O_WRONLY | os.O_DIRECT))
    except OSError as error:
        pytest.skip(f"the file system of {tmp_path} has no direct writes or reserves nothing: {error.strerror}")
    finally:
        os.close(fd)
        (tmp_path / "probe").unlink()
    return tmp_path


def direct(sink: Sink) -> Direct:
    assert isinstance(sink._target, Direct)
    return sink._target


def test_blocks_are_reserved_and_given_back(disk: Path) -> None:
    """As many as the file has, never beyond what it is to have; its length shows none, and at its end none is left."""
    records = [record(PCAP_NS, number, 1000) for number in range(400)]
    whole = HEADER + b"".join(records)
    for most, ahead in ((1 << 30, 100_000), (len(whole), 0)):
        path = disk / "a"
        sink = Sink(str(path), HEADER, PCAP_NS, Buffers(2, 64 * PAGE), most=most)
        submit(sink, [*records])
        sink.flush(wait=True)
        status = path.stat()
        assert status.st_size == len(whole)
        assert ahead <= 512 * status.st_blocks - status.st_size <= max(4 * PAGE, len(whole))
        sink.close()
        status = path.stat()
        assert path.read_bytes() == whole
        assert 512 * status.st_blocks < len(whole) + 4 * PAGE
        path.unlink()


def test_readers_never_see_what_was_not_written(disk: Path) -> None:
    """Up to the length of the file at any moment, every byte is right: no hole, no zero of a block that is to come."""
    records = [record(PCAP_NS, number, 1400) for number in range(20_000)]
    whole, path = HEADER + b"".join(records), disk / "a"
    lengths, ended = set(), threading.Event()

    def look() -> None:
        with path.open("rb") as file:
            while not (ended.is_set() and len(whole) in lengths):
                seen = os.fstat(file.fileno()).st_size
                begin = max(0, seen - (4 << 20))
                assert os.pread(file.fileno(), seen - begin, begin) == whole[begin:seen]
                lengths.add(seen)

    sink = Sink(str(path), HEADER, PCAP_NS, Buffers(8, 64 * PAGE))
    reader = Failing(look)
    until(lambda: lengths or not reader.is_alive())  # it has seen the header alone
    submit(sink, records)
    sink.close()
    ended.set()
    reader.join()
    assert len(lengths) > 1
    assert path.read_bytes() == whole


class Failing(threading.Thread):
    """A thread whose failure is that of whoever joins it."""

    def __init__(self, body: Callable[[], None]) -> None:
        super().__init__()
        self._body, self._error = body, None
        self.start()

    def run(self) -> None:
        try:
            self._body()
        except BaseException as error:
            self._error = error

    def join(self, timeout: float | None = None) -> None:
        super().join(timeout)
        if self._error:
            raise self._error


def test_what_waits_goes_to_the_disk_together(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Buffers that wait are one write, half of all at most: so many are in flight."""
    sizes, pwritev = [], os.pwritev

    def slow(fd: int, blocks: list[memoryview], offset: int) -> int:
        if not sizes:
            until(lambda: sink._work.qsize() >= Direct.at_once)
        sizes.append(len(blocks))
        return pwritev(fd, blocks, offset)

    monkeypatch.setattr(targets.os, "pwritev", slow)
    sink = Sink(str(disk / "a"), HEADER, PCAP_NS, Buffers(8, SIZE := 4 * PAGE))
    records = [record(PCAP_NS, number, 1000) for number in range(8 * SIZE // 1100)]
    whole = HEADER + b"".join(records)
    submit(sink, records)
    sink.close()
    assert max(sizes) == Direct.at_once == 4
    assert (disk / "a").read_bytes() == whole


@pytest.mark.parametrize("bad_at", [0, 5 * PAGE, 9 * PAGE + 512])
def test_a_disk_that_fails_in_the_middle(disk: Path, monkeypatch: pytest.MonkeyPatch, bad_at: int) -> None:
    """Of buffers that are refused together, those before the bad place are written; what is there is whole packets."""
    pwritev, sizes = os.pwritev, []

    def failing(fd: int, blocks: list[memoryview], offset: int) -> int:
        if not sizes:
            until(lambda: sink._work.qsize() >= Direct.at_once)
        sizes.append(len(blocks))
        if offset <= bad_at < offset + sum(map(len, blocks)):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return pwritev(fd, blocks, offset)

    monkeypatch.setattr(targets.os, "pwritev", failing)
    sink = Sink(str(disk / "a"), HEADER, PCAP_NS, Buffers(8, 2 * PAGE))
    records = [record(PCAP_NS, number, 700) for number in range(70)]
    with pytest.raises(SinkError, match="Input/output error; ") as caught:  # noqa: PT012  any call may be the one
        submit(sink, records)
        sink.close()
    with contextlib.suppress(SinkError):
        sink.close()
    error = caught.value
    assert max(sizes) > 1 or not bad_at
    packets = cb.read(disk / "a", limit=256)
    assert [int.from_bytes(packet.data[:4], "big") for packet in packets] == list(range(error.packets_written))
    assert (disk / "a").stat().st_size == error.bytes_written
    assert error.bytes_written >= bad_at - 2 * PAGE - 716


@pytest.mark.parametrize("refused", ["O_DIRECT", "fallocate", "both"])
def test_a_file_system_that_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str) -> None:
    """Every byte arrives all the same, without a direct write or a reserve."""
    plain_open = os.open

    def cached(path: str, flags: int, *mode: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return plain_open(path, flags, *mode)

    def refuse(fd: int, offset: int, length: int) -> None:
        asked.append(length)
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    asked: list[int] = []
    if refused != "fallocate":
        monkeypatch.setattr(os, "open", cached)
    if refused != "O_DIRECT":
        monkeypatch.setattr(reserve, "reserve_blocks", refuse)
    records = [record(PCAP_NS, number, 1000) for number in range(400)]
    whole = HEADER + b"".join(records)
    sink = Sink(str(tmp_path / "a"), HEADER, PCAP_NS, Buffers(2, 16 * PAGE))
    submit(sink, records)
    sink.close()
    assert (tmp_path / "a").read_bytes() == whole
    assert isinstance(sink._target, Direct) == (refused == "fallocate")
    assert len(asked) <= 1


def test_a_disk_that_is_nearly_full_keeps_its_room(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reserve, "LEAST_FREE", 1 << 60)
    sink = Sink(str(disk / "a"), HEADER, PCAP_NS, Buffers(2, 16 * PAGE))
    submit(sink, [record(PCAP_NS, number, 1000) for number in range(400)])
    sink.flush(wait=True)
    status = (disk / "a").stat()
    sink.close()
    assert 512 * status.st_blocks < status.st_size + 4 * PAGE


FEED = b"".join(record(PCAP_NS, number, 1400) for number in range(1, 700))
COMMAND = [sys.executable, "-P", "-m", "wirecap", "capture", "-q", "-r", "-"]


@contextlib.contextmanager
def recording(*options: str, turns: int = 1 << 40) -> Iterator[subprocess.Popen[bytes]]:
    """A capture that writes what a pipe brings without an end, so many turns of FEED."""
    with subprocess.Popen([*COMMAND, *options], stdin=subprocess.PIPE, stderr=subprocess.PIPE) as child:

        def pump() -> None:
            with contextlib.suppress(BrokenPipeError):
                child.stdin.write(HEADER)
                for _ in range(turns):
                    child.stdin.write(FEED)

        feeder = threading.Thread(target=pump)
        feeder.start()
        try:
            yield child
        finally:
            child.kill()
            child.wait()
            feeder.join()
            with contextlib.suppress(BrokenPipeError):
                child.stdin.close()


def test_a_kill_leaves_whole_blocks(disk: Path) -> None:
    """After SIGKILL the file is right up to its end, where a packet may be cut; tcpdump reads it to there."""
    path = disk / "a.pcap"
    with recording("-w", str(path), turns=(400 << 20) // len(FEED)) as child:  # what this test can read at once
        most = 20 << 20
        until(lambda: path.exists() and path.stat().st_size > most, 100)
        child.send_signal(signal.SIGKILL)
        child.wait()
    status = path.stat()
    size = status.st_size
    assert size % PAGE == 0 or size % 1416 == 24
    data = np.frombuffer(path.read_bytes()[24:], np.uint8)
    expected = np.frombuffer(FEED, np.uint8).reshape(-1, 1416).copy()
    expected[:, 4:8] = 0  # the file has microseconds
    assert np.array_equal(data, np.resize(expected, len(data)))
    assert 512 * status.st_blocks >= size
    if not missing("tcpdump"):
        done = subprocess.run(["tcpdump", "-nr", str(path), "--count"], capture_output=True, text=True, timeout=100)
        assert f"{(size - 24) // 1416} packets" in done.stdout + done.stderr


def test_a_bound_counts_what_du_counts(disk: Path) -> None:
    """At no moment do the blocks of all files together exceed the limit, those that are reserved included."""
    folder, most, ended = disk / "out", [0, 0], threading.Event()
    limit = 64  # MiB
    folder.mkdir()

    def watch() -> None:
        while not ended.is_set():
            blocks = size = 0
            for path in sorted(folder.iterdir(), reverse=True):  # the newest first: what goes meanwhile is not counted
                with contextlib.suppress(FileNotFoundError):
                    status = path.stat()
                    blocks, size = blocks + 512 * status.st_blocks, size + status.st_size
            most[:] = max(most[0], blocks), max(most[1], size)
            time.sleep(0.0005)

    watcher = Failing(watch)
    try:
        with recording("-w", f"{folder}/o.pcap", "--limit", f"{limit}MiB") as child:
            until(
                lambda: (
                    (len(list(folder.glob("o_0001*"))) > 6 and most[1] > limit * 3 // 4 << 20)
                    or child.poll() is not None
                ),
                100,
            )
            child.send_signal(signal.SIGTERM)
            child.wait(100)
    finally:
        ended.set()
        watcher.join()
    assert child.returncode == 0, child.stderr.read()
    assert most[1] < most[0] <= limit << 20
    assert most[1] > limit * 3 // 4 << 20
    left = [path.stat() for path in folder.iterdir()]
    assert all(512 * status.st_blocks < status.st_size + 4 * PAGE for status in left)


def test_a_file_of_bounded_size_reserves_no_more(disk: Path) -> None:
    """A limit of the process on file sizes is told as before."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40 * PAGE, before[1]))
    try:
        sink = Sink(str(disk / "a"), HEADER, PCAP_NS, Buffers(8, 4 * PAGE))
        with pytest.raises(SinkError, match="File too large"):  # noqa: PT012
            submit(sink, [record(PCAP_NS, number, 1000) for number in range(400)])
            sink.close()
        with contextlib.suppress(SinkError):
            sink.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (disk / "a").stat().st_size > 38 * PAGE
    assert 512 * (disk / "a").stat().st_blocks <= 44 * PAGE
