from __future__ import annotations

import contextlib
import ctypes
import errno
import gc
import gzip
import os
import resource
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import capture_bytes as cb
import numpy as np
import pytest
import zstandard
from capture_bytes import Packet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rig import until
from wirecap.errors import UsageError
from wirecap.files import headers
from wirecap.files.retention import UNBOUNDED
from wirecap.files.targets import PAGE, Direct
from wirecap.files.writer import Buffers, Sink, SinkError
from wirecap.kernels.file.write import PCAP_NS, PCAPNG_NS

pytestmark = pytest.mark.kernel
SMALL = 4 * PAGE
LENGTH_AT = {PCAP_NS: 8, PCAPNG_NS: 20}
"""Where a record has the captured length."""
HEADERS = {
    PCAP_NS: headers.pcap_header(262144, nanoseconds=True),
    PCAPNG_NS: headers.section_header("wirecap", os_name="x", cpu="y") + headers.interface_description("eth1", 0),
}


def record(layout: int, number: int, length: int) -> bytes:
    packet = Packet(number.to_bytes(4, "big") * (length // 4), length, 10**18 + number)
    if layout == PCAPNG_NS:
        return cb.enhanced("<", 0, packet.ns, packet.data, packet.original)
    return cb.pcap([packet], tick_ns=1)[24:]


def submit(sink: Sink, records: list[bytes], per_buffer: int = 10**9) -> None:
    """Put whole records into buffers and submit them, as the writer does."""
    while records:
        buffer = sink.acquire()
        assert buffer is not None
        end, count, size = buffer.start, 0, 0
        while records and count < per_buffer and end + len(records[0]) <= len(buffer.bytes):
            data = np.frombuffer(records.pop(0), dtype=np.uint8)
            buffer.bytes[end : end + len(data)] = data
            end, count = end + len(data), count + 1
            size += int.from_bytes(data[LENGTH_AT[sink.layout] :][:4].tobytes(), "little")
        sink.submit(buffer, end, count, size)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(0, 3000), max_size=60),
    per_buffer=st.integers(1, 30),
    flush_every=st.integers(1, 9),
    direct=st.booleans(),
    layout=st.sampled_from([PCAP_NS, PCAPNG_NS]),
)
def test_every_byte_arrives(
    tmp_path: Path, lengths: list[int], per_buffer: int, flush_every: int, direct: bool, layout: int
) -> None:
    """Whatever is submitted and flushed when, the file is the header and the records, and the counts are right."""
    records = [record(layout, k, length) for k, length in enumerate(lengths)]
    whole = HEADERS[layout] + b"".join(records)
    path = tmp_path / "a"
    sink = Sink(str(path), HEADERS[layout], layout, Buffers(2, SMALL), direct)
    todo, turn = list(records), 0
    while todo:
        submit(sink, part := todo[:per_buffer])
        assert not part
        del todo[:per_buffer]
        turn += 1
        if turn % flush_every == 0:
            sink.flush(wait=True)
            assert path.read_bytes() == whole[: sink.size]
    sink.close()
    assert path.read_bytes() == whole
    assert sink.packets_written == len(records)
    assert sink.size == len(whole)


def test_the_header_is_there_at_once(tmp_path: Path) -> None:
    """A capture that has no packet yet is a capture file already."""
    sink = Sink(str(tmp_path / "a"), HEADERS[PCAP_NS], PCAP_NS)
    assert cb.read(tmp_path / "a") == []
    sink.close()
    assert (tmp_path / "a").read_bytes() == HEADERS[PCAP_NS]


def test_large_files_are_written_past_the_page_cache(tmp_path: Path) -> None:
    """Where the file system takes O_DIRECT, it is used, and kept to the end of a large file."""
    try:
        os.close(os.open(tmp_path / "probe", os.O_CREAT | os.O_WRONLY | os.O_DIRECT))
    except OSError:
        pytest.skip(f"the file system of {tmp_path} does not take O_DIRECT")
    sink = Sink(str(tmp_path / "a"), HEADERS[PCAP_NS], PCAP_NS)
    records = [record(PCAP_NS, k, 1500) for k in range(8000)]
    whole = HEADERS[PCAP_NS] + b"".join(records)
    submit(sink, records)
    assert isinstance(sink._target, Direct)
    flags = Path(f"/proc/self/fdinfo/{sink._target._direct_fd}").read_text().split("flags:")[1].split()[0]
    sink.close()
    assert int(flags, 8) & os.O_DIRECT
    assert (tmp_path / "a").read_bytes() == whole


def test_records_without_packets(tmp_path: Path) -> None:
    """Statistics at the end are written and are not counted as packets."""
    sink = Sink(str(tmp_path / "a"), HEADERS[PCAPNG_NS], PCAPNG_NS)
    submit(sink, [record(PCAPNG_NS, 1, 60)])
    sink.write(headers.interface_statistics(0, 1, headers.Statistics(received=1)))
    sink.close()
    assert sink.packets_written == 1
    assert len(cb.read(tmp_path / "a")) == 1


def test_sinks_share_buffers(tmp_path: Path) -> None:
    """A rotated file follows on while the one before is still being written."""
    buffers = Buffers(2, SMALL)
    sinks = []
    for k in range(5):
        sinks.append(Sink(str(tmp_path / str(k)), HEADERS[PCAP_NS], PCAP_NS, buffers))
        submit(sinks[-1], [record(PCAP_NS, k, 1000) for _ in range(30)])
        sinks[-1].finish()
    for k, sink in enumerate(sinks):
        sink.close()
        assert len(cb.read(tmp_path / str(k))) == sink.packets_written == 30


def test_busy_buffers_are_told(tmp_path: Path) -> None:
    """acquire gives None when all buffers are taken for the time it may wait."""
    sink = Sink(str(tmp_path / "a"), HEADERS[PCAP_NS], PCAP_NS, Buffers(1, SMALL))
    held = sink.acquire()
    assert held is not None
    assert sink.acquire(timeout_s=0.01) is None
    sink.submit(held, held.start, 0)
    assert sink.acquire(timeout_s=60) is held
    sink.close()


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_compressed_files(tmp_path: Path, suffix: str) -> None:
    """A compressed capture unpacks to the plain one."""
    sink = Sink(str(tmp_path / "a"), HEADERS[PCAP_NS], PCAP_NS, Buffers(2, SMALL), compression=suffix)
    records = [record(PCAP_NS, k, 1000) for k in range(100)]
    whole = HEADERS[PCAP_NS] + b"".join(records)
    submit(sink, records)
    sink.close()
    packed = (tmp_path / "a").read_bytes()
    if suffix == ".gz":
        assert gzip.decompress(packed) == whole
    else:
        with zstandard.ZstdDecompressor().stream_reader(packed, read_across_frames=True) as reader:
            assert reader.read() == whole
    assert sink.packets_written == len(cb.read(tmp_path / "a")) == 100


def fill_until_it_fails(sink: Sink, layout: int, length: int = 700) -> SinkError:
    with pytest.raises(SinkError) as caught:  # noqa: PT012  any call may be the one
        for k in range(100_000):
            submit(sink, [record(layout, k * 7 + j, length + j) for j in range(7)])
        sink.close()
    with contextlib.suppress(SinkError):
        sink.close()
    return caught.value


def check_what_is_left(path: Path, sink: Sink, error: SinkError, expected_errno: int) -> None:
    packets = cb.read(path, limit=256)  # raises if a record is cut
    assert error.errno == expected_errno
    assert str(path) in error.message
    assert len(packets) == error.packets_written == sink.packets_written > 0
    assert sum(len(packet.data) for packet in packets) == sink.bytes_written
    assert path.stat().st_size == error.bytes_written
    assert [int.from_bytes(packet.data[:4], "big") for packet in packets] == list(range(len(packets)))


@contextlib.contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("layout", [PCAP_NS, PCAPNG_NS])
@pytest.mark.parametrize("limit", [PAGE - 100, 10 * PAGE, 13 * PAGE + 4000, 13 * PAGE + 512])
def test_a_file_that_grows_too_large(tmp_path: Path, direct: bool, layout: int, limit: int) -> None:
    """At the limit of a file's size the file keeps whole packets, the error says how many, and it is EFBIG."""
    with file_size_limit(limit):
        sink = Sink(str(tmp_path / "a"), HEADERS[layout], layout, Buffers(3, SMALL), direct)
        error = fill_until_it_fails(sink, layout)
    check_what_is_left(tmp_path / "a", sink, error, errno.EFBIG)
    assert limit - 2 * PAGE < error.bytes_written <= limit


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 KiB."""
    libc = ctypes.CDLL(None, use_errno=True)
    folder = tmp_path / "disk"
    folder.mkdir()
    if libc.mount(b"none", bytes(folder), b"tmpfs", 0, b"size=300k"):
        pytest.skip(f"a tmpfs cannot be mounted: {os.strerror(ctypes.get_errno())}")
    try:
        yield folder
    finally:
        libc.umount2(bytes(folder), 2)


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("layout", [PCAP_NS, PCAPNG_NS])
@pytest.mark.parametrize("length", [40, 700, 2900])
def test_a_full_disk(small_disk: Path, direct: bool, layout: int, length: int) -> None:
    """A full disk leaves whole packets, the error counts them and hints at a ring of files."""
    sink = Sink(str(small_disk / "a"), HEADERS[layout], layout, Buffers(3, SMALL), direct)
    error = fill_until_it_fails(sink, layout, length)
    check_what_is_left(small_disk / "a", sink, error, errno.ENOSPC)
    assert "No space left" in error.message
    assert "keep a ring of files" in error.hint
    assert "a smaller --limit" in SinkError("a", OSError(errno.ENOSPC, "No space left"), 0, 0, bounded=True).hint
    assert "-b files:" in error.hint


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".lz4", ".xz", ".bz2"])
@pytest.mark.parametrize("independent", [False, True])
@pytest.mark.parametrize("block", [5, 1000])
def test_a_full_disk_under_compression(small_disk: Path, suffix: str, independent: bool, block: int) -> None:
    """All that fits is in the file, to the last whole packet, whether a block is small or larger than the disk; what is
    there unpacks to its end."""
    buffers = Buffers(3, 400 * PAGE)
    sink = Sink(str(small_disk / "a"), HEADERS[PCAP_NS], PCAP_NS, buffers, True, suffix, independent)
    noise = np.random.default_rng(1)
    with pytest.raises(SinkError) as caught:  # noqa: PT012
        for _ in range(1000):
            packets = [Packet(noise.bytes(500) + bytes(500), 1000, k) for k in range(block)]
            submit(sink, [cb.pcap([packet], tick_ns=1)[24:] for packet in packets])
        sink.close()
    with contextlib.suppress(SinkError):
        sink.close()
    assert caught.value.errno == errno.ENOSPC
    assert len(cb.read(small_disk / "a", limit=2000)) == caught.value.packets_written > 200


def test_a_device_without_room() -> None:
    """/dev/full refuses the header already."""
    with pytest.raises(SinkError, match="/dev/full: No space left on device; 0 packets were written"):
        Sink("/dev/full", HEADERS[PCAP_NS], PCAP_NS)


def test_a_reader_that_goes_away(tmp_path: Path) -> None:
    """Writing into a pipe whose reader ended is EPIPE, with the count of packets that went through."""
    os.mkfifo(tmp_path / "pipe")
    got = []
    reading = threading.Thread(target=lambda: got.append(read_some(tmp_path / "pipe", 30_000)))
    reading.start()
    sink = Sink(str(tmp_path / "pipe"), HEADERS[PCAP_NS], PCAP_NS, Buffers(2, SMALL))
    error = fill_until_it_fails(sink, PCAP_NS)
    reading.join()
    assert error.errno == errno.EPIPE
    assert got[0].startswith(HEADERS[PCAP_NS])
    assert error.packets_written * 717 >= 29_000 - 717
    assert error.packets_written * 716 <= 30_000 + (64 << 10) + (16 << 10)  # read, and in the pipe and its reader


def read_some(path: Path, count: int) -> bytes:
    with path.open("rb") as pipe:
        return pipe.read(count)


def test_a_pipe_gets_packets_as_they_are_submitted(tmp_path: Path) -> None:
    """A program that reads the output sees the header and each packet without waiting for a full buffer."""
    out, into = os.pipe()
    sink = Sink(f"/dev/fd/{into}", HEADERS[PCAPNG_NS], PCAPNG_NS)
    os.close(into)
    file = cb.open_capture(f"/dev/fd/{out}")
    os.close(out)
    rows = cb.Rows()
    for k in range(3):
        submit(sink, [record(PCAPNG_NS, k, 60)])
        sink.flush(wait=True)
        n, _ = rows.fill(file, 60.0)
        assert [int.from_bytes(p.data[:4], "big") for p in rows.packets(file, n)] == [k]
    sink.close()
    assert rows.fill(file, 60.0)[0] == 0
    file.close()


def test_a_redirected_output_keeps_what_was_before(tmp_path: Path) -> None:
    """When standard output is a file that has content, an error does not cut that."""
    with (tmp_path / "out").open("ab") as out:
        out.write(b"before")
        out.flush()
        saved = os.dup(1)
        os.dup2(out.fileno(), 1)
        try:
            with file_size_limit(20_000):
                sink = Sink("-", HEADERS[PCAP_NS], PCAP_NS, Buffers(2, SMALL))
                error = fill_until_it_fails(sink, PCAP_NS)
        finally:
            os.dup2(saved, 1)
            os.close(saved)
    content = (tmp_path / "out").read_bytes()
    assert content.startswith(b"before" + HEADERS[PCAP_NS])
    assert len(content) == 6 + error.bytes_written
    (tmp_path / "capture").write_bytes(content[6:])
    assert len(cb.read(tmp_path / "capture")) == error.packets_written


def test_a_path_that_cannot_be_written(tmp_path: Path) -> None:
    """A missing folder is a usage error with the path."""
    with pytest.raises(UsageError, match="missing/a: No such file or directory"):
        Sink(str(tmp_path / "missing" / "a"), b"", PCAP_NS)


def test_flush_makes_a_slow_capture_visible(tmp_path: Path) -> None:
    """After flush a reader of the file soon sees every submitted packet, though no buffer is full."""
    sink = Sink(str(tmp_path / "a"), HEADERS[PCAP_NS], PCAP_NS)
    for k in range(5):
        submit(sink, [record(PCAP_NS, k, 60)])
        sink.flush()
        until(lambda k=k: len(cb.read(tmp_path / "a")) >= k + 1)  # type: ignore[misc]
    sink.close()
    assert len(cb.read(tmp_path / "a")) == 5


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_file_that_is_being_read_is_not_overwritten(tmp_path: Path, pack: object) -> None:
    """Reading and writing one file is refused, by any of its names, and leaves it whole; afterwards it is allowed."""
    content = pack(HEADERS[PCAP_NS] + record(PCAP_NS, 1, 60))  # type: ignore[operator]
    (tmp_path / "a").write_bytes(content)
    os.link(tmp_path / "a", tmp_path / "b")
    with cb.open_capture(str(tmp_path / "a")):
        for name in ("a", "b"):
            with pytest.raises(UsageError, match=f"{name}: the file is being read"):
                Sink(str(tmp_path / name), HEADERS[PCAP_NS], PCAP_NS)
    assert (tmp_path / "a").read_bytes() == content
    Sink(str(tmp_path / "b"), HEADERS[PCAP_NS], PCAP_NS).close()
    assert (tmp_path / "a").read_bytes() == HEADERS[PCAP_NS]


@pytest.mark.parametrize("direct", [True, False])
def test_two_writers(tmp_path, direct):
    """A file that is being written is refused to a second writer, with the first one's process, and stays as it is."""
    path, header = tmp_path / "a.pcap", headers.pcap_header(65535, 1, False)
    first = Sink(str(path), header, PCAP_NS, direct=direct)
    with pytest.raises(UsageError, match=rf"\(process {os.getpid()}\) is writing to it"):
        Sink(str(path), header, PCAP_NS, direct=direct)
    first.close()
    assert path.read_bytes() == header
    Sink(str(path), header, PCAP_NS, direct=direct).close()


class AllTheRoom:
    """A bound that nothing reaches: files within bounds, with an index, tell how large they are."""

    def grow(self, size: int, ahead: int = 0) -> int:
        return size + ahead

    def end(self, size: int) -> None:
        pass


@pytest.mark.parametrize("bounded", [True, False])
def test_a_closed_file_leaves_no_memory_behind(tmp_path: Path, bounded: bool) -> None:
    """Its index takes 2 MiB while it is made; a long capture closes thousands of files, and Python seldom looks for
    objects that hold each other."""
    space = AllTheRoom() if bounded else UNBOUNDED
    gc.collect()
    gc.disable()
    try:
        sink = Sink(str(tmp_path / "x.pcapng"), HEADERS[PCAPNG_NS], PCAPNG_NS, space=space, indexed=True)
        index = weakref.ref(sink._index)
        submit(sink, [record(PCAPNG_NS, number, 100) for number in range(1000)])
        sink.close()
        left = weakref.ref(sink)
        assert sink.packets_written == 1000
        assert not sink.note
        del sink
        until(lambda: left() is None and index() is None)  # its threads have just ended
    finally:
        gc.enable()
