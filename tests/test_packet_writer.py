"""wirecap.write: what goes in comes out of the file, in order, and a failing disk costs only what did not fit."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dpkt
import numpy as np
import pytest

import wirecap
from rig import counted, read_pcap, read_pcapng, time_limit
from wirecap.errors import UsageError, WirecapError
from wirecap.traffic import synthetic

__all__ = ["time_limit"]


@pytest.fixture
def source(tmp_path) -> str:
    path = tmp_path / "in.pcap"
    with path.open("wb") as file:
        writer = dpkt.pcap.Writer(file, nano=True)
        for number in range(500):
            writer.writepkt(counted(number, 60 + number % 200), ts=1000 + number)
    return str(path)


def packets_in(path: str | Path) -> list[tuple[int, bytes, int]]:
    with wirecap.open(str(path)) as capture:
        return [(packet.timestamp, packet.data, packet.length) for packet in capture.packets()]


@pytest.mark.parametrize("name", ["out.pcapng", "out.pcap", "out.pcap.gz"])
def test_chunks_packets_and_bytes(source, tmp_path, name):
    """A copy by chunks, one by packets and one by bytes are all the same as the source."""
    target, original = tmp_path / name, packets_in(source)
    with wirecap.open(source, M=64) as capture, wirecap.write(target, nanoseconds=True) as out:
        for chunk in capture:
            out.write(chunk)
    assert packets_in(target) == original
    with wirecap.open(source) as capture, wirecap.write(target, nanoseconds=True) as out:
        for packet in capture.packets():
            out.write(packet)
    assert packets_in(target) == original
    with wirecap.write(target, nanoseconds=True) as out:
        for kind, (timestamp, data, length) in enumerate(original):
            out.write((bytes, bytearray, memoryview)[kind % 3](data), timestamp, length)
    assert packets_in(target) == original
    assert out.packets_written == 500
    assert out.files == [str(target)]


def test_selected_packets_in_order(source, tmp_path):
    """Packets of a loop, others and chunks may be mixed: they stand in the order of the calls, cut as asked."""
    with wirecap.open(source, M=100) as capture, wirecap.write(tmp_path / "o.pcapng", snaplen=61) as out:
        for chunk in capture:
            out.write(b"before" * 20, timestamp_ns=7)
            out.write(chunk)
            break
    written = read_pcapng(tmp_path / "o.pcapng")
    assert written[0].data == (b"before" * 20)[:61]
    assert [packet.data for packet in written[1:]] == [counted(n, 60 + n % 200)[:61] for n in range(len(written) - 1)]
    assert written[5].original == 64


def test_an_empty_capture(tmp_path):
    """A file without packets is a capture file, too; bytes without a time have the time of the call."""
    with wirecap.write(tmp_path / "none.pcap"), wirecap.write(tmp_path / "none.pcapng"):
        pass
    assert read_pcap(tmp_path / "none.pcap") == read_pcapng(tmp_path / "none.pcapng") == []
    with wirecap.write(tmp_path / "now.pcap", link_type=101) as out:
        out.write(b"E" * 40)
        out.write(b"")
    (stamp, data, _), empty = packets_in(tmp_path / "now.pcap")
    assert (data, empty[1]) == (b"E" * 40, b"")
    assert stamp > 1_600_000_000 * 10**9


def test_interfaces_and_link_types(source, tmp_path):
    """pcapng describes each interface that packets come from; pcap refuses a second link type."""
    with wirecap.write(tmp_path / "ip.pcap", link_type=101) as out:
        out.write(synthetic.udp(60)[14:], 5)
    with wirecap.write(tmp_path / "both.pcapng") as out, wirecap.write(tmp_path / "both.pcap") as narrow:
        for path in (source, str(tmp_path / "ip.pcap")):
            with wirecap.open(path, count=1) as capture:
                (packet,) = capture.packets()
                out.write(packet)
                if path == source:
                    narrow.write(packet)
                else:
                    with pytest.raises(UsageError, match="only one link type, but these packets have 1 and 101"):
                        narrow.write(packet)
    with wirecap.open(str(tmp_path / "both.pcapng")) as capture:
        both = list(capture.packets())
    assert [packet.described.linktype for packet in both] == [1, 101]
    assert both[1].udp
    assert len(packets_in(tmp_path / "both.pcap")) == 1


@pytest.mark.parametrize("limit", [{"file_packets": 60}, {"file_bytes": "8kB"}])
@pytest.mark.parametrize("chunks", [False, True])
def test_rotation(source, tmp_path, limit, chunks):
    """The next file begins where the last one ended; only so many are kept; each is a capture file."""
    with wirecap.open(source) as capture, wirecap.write(tmp_path / "r.pcapng", **limit) as out:
        for one in capture if chunks else capture.packets():
            out.write(one)
    assert len(out.files) > 5
    assert [row for file in out.files for row in packets_in(file)] == packets_in(source)
    if "file_packets" in limit:
        assert {len(packets_in(file)) for file in out.files[:-1]} == {60}
    with wirecap.open(source) as capture, wirecap.write(tmp_path / "k.pcap", **limit, files=2) as ring:
        for one in capture if chunks else capture.packets():
            ring.write(one)
    kept = sorted(map(str, tmp_path.glob("k_*.pcap")))
    assert ring.files == kept
    assert len(kept) == 2
    assert ring.packets_written == 500


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_that_cannot_grow(tmp_path):
    """Where writing fails, one line says so at that call and each one after it; whole packets stay in the file."""
    path = tmp_path / "o.pcap"

    def fill() -> None:
        with out:
            for number in range(10_000):
                out.write(counted(number, 100), number)
            out.flush()

    out = wirecap.write(path)
    with largest_file(100_000), pytest.raises(WirecapError, match=r"o\.pcap: File too large; \d+ packets") as first:
        fill()
    with pytest.raises(WirecapError, match="File too large"):
        out.write(b"more")
    kept = read_pcap(path)
    assert [packet.data for packet in kept] == [counted(number, 100) for number in range(len(kept))]
    assert f"{len(kept)} packets were written" in str(first.value)
    assert 800 < len(kept) == out.packets_written < 10_000


def test_a_full_disk():
    """A device without room for a header refuses at once."""
    with pytest.raises(WirecapError, match="/dev/full: No space left on device; 0 packets were written"):
        wirecap.write("/dev/full")


def test_what_happened_in_the_block_comes_first(tmp_path):
    """An exception within the block is what its caller sees, and the packets before it are in the file."""
    out = wirecap.write(tmp_path / "o.pcapng")

    def fail() -> None:
        with out:
            out.write(b"first", 1)
            _ = 1 / 0

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [packet.data for packet in read_pcapng(tmp_path / "o.pcapng")] == [b"first"]
    with pytest.raises(UsageError, match="the writer is closed"):
        out.write(b"second")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda out: out.write("text"), "str is not a packet"),
        (lambda out: out.write(bytes(300_000)), "a packet of 300000 bytes is too long"),
        (lambda out: out.write(bytes(60), 1.7e9), r"of nanoseconds since 1970, not 1700000000.0 .*_ns\(\)"),
        (lambda out: out.write(bytes(60), "1"), "a whole number of nanoseconds since 1970, not '1'"),
        (lambda out: out.write(bytes(60), -5), "0 to 9223372036854775807 nanoseconds since 1970, not -5"),
        (lambda out: out.write(bytes(60), 2**63), "nanoseconds since 1970, not 9223372036854775808"),
        (lambda out: out.write(bytes(60), 1, 60.0), "length must be a whole number of bytes, not 60.0"),
        (lambda out: out.write(bytes(60), 1, 59), "cannot have had 59 on the wire"),
        (lambda out: wirecap.write("/no/such/folder/x.pcap"), "No such file"),
        (lambda out: wirecap.write("x.pcap", file_packets=0), "file_packets must be a positive number, not 0"),
        (lambda out: wirecap.write("x.parquet.zst"), r"x\.parquet\.zst: Parquet compresses by itself"),
        (lambda out: wirecap.write("x.pcapng.rar"), r"\.rar files cannot be written"),
        (lambda out: wirecap.write("x.pcap", files=3), "nothing starts the next file"),
    ],
)  # fmt: skip
def test_bad_input(tmp_path, bad, message):
    """What cannot be written is refused with a sentence, and the file goes on."""
    with wirecap.write(tmp_path / "o.pcapng") as out:
        with pytest.raises(UsageError, match=message):
            bad(out)
        out.write(memoryview(b"g-o-o-d-")[::2], np.int64(3))  # bytes that lie apart
    assert [(packet.data, packet.timestamp) for packet in read_pcapng(tmp_path / "o.pcapng")] == [(b"good", 3)]
