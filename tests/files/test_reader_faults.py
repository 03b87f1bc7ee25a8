from __future__ import annotations

import gzip
import os
import re
import struct
from pathlib import Path

import capture_bytes as cb
import pytest
import zstandard
from capture_bytes import Packet
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from wirecap.errors import UsageError
from wirecap.files.reader import open_capture

pytestmark = pytest.mark.kernel
on_files = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])

PACKETS = [Packet(bytes([k]) * (k * 7 % 30), 60 + k, (k + 1) * 1_000_000) for k in range(6)]
PCAPNG = (
    cb.section(options=cb.option("<", 4, b"a tool"))
    + cb.interface(options=cb.option("<", 2, b"eth1"))
    + b"".join(cb.enhanced("<", 0, p.ns // 1000, p.data, p.original) for p in PACKETS)
    + cb.block("<", 5, bytes(12))
)
FILES = {"pcap": cb.pcap(PACKETS), "big-endian pcap": cb.pcap(PACKETS, ">"), "pcapng": PCAPNG}


def read_until_error(path: Path) -> tuple[list[Packet], UsageError | None]:
    try:
        file = open_capture(str(path))
    except UsageError as error:
        return [], error
    with file:
        return cb.collect(file)


def stream_until_error(data: bytes, sizes: list[int], block_bytes: int) -> tuple[list[Packet], UsageError | None]:
    try:
        file = cb.stream(data, sizes, block_bytes)
    except UsageError as error:
        return [], error
    return cb.collect(file)


def words(error: UsageError | None) -> str | None:
    """What is wrong and where, without the name of the file."""
    return error and error.message.partition(": ")[2]


def record_ends(data: bytes) -> list[int]:
    """Where the file may be cut without damage, by walking the records that this file's makers wrote."""
    if data is PCAPNG:
        ends, at = [0], 0
        while at < len(data):
            at += struct.unpack_from("<I", data, at + 4)[0]
            ends.append(at)
        return ends[1:]
    ends = [24]
    for packet in PACKETS:
        ends.append(ends[-1] + 16 + len(packet.data))
    return ends


@pytest.mark.parametrize("kind", FILES)
def test_every_cut_keeps_what_is_whole(tmp_path: Path, kind: str) -> None:
    """A file cut anywhere gives its whole packets; a cut inside a record is an error with the record's offset."""
    data = FILES[kind]
    ends = record_ends(data)
    for length in range(len(data)):
        (tmp_path / "cut").write_bytes(data[:length])
        packets, error = read_until_error(tmp_path / "cut")
        whole = [end for end in ends if end <= length]
        headers = 2 if data is PCAPNG else 1
        assert packets == PACKETS[: max(len(whole) - headers, 0)]
        if length in ends:
            assert error is None
            continue
        assert error is not None
        assert str(tmp_path / "cut") in error.message
        assert error.hint
        if whole:
            assert error.message.endswith(f"at offset {whole[-1]}")
            assert "truncated dump file; tried to read" in error.message


@pytest.mark.parametrize("kind", FILES)
def test_every_cut_of_a_stream_is_told_like_that_of_a_file(tmp_path: Path, kind: str) -> None:
    """Streamed in small blocks, a cut file gives the same packets and the same words."""
    data = FILES[kind]
    for length in range(28, len(data), 5):
        (tmp_path / "cut").write_bytes(data[:length])
        packets, error = read_until_error(tmp_path / "cut")
        got, told = stream_until_error(data[:length], [13], 256)
        assert got == packets
        assert words(told) == words(error)


@on_files
@given(
    kind=st.sampled_from(sorted(FILES)),
    changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=12),
    sizes=st.lists(st.integers(1, 200), min_size=1, max_size=3),
)
def test_changed_bytes_never_crash(tmp_path: Path, kind: str, changes: list[tuple[int, int]], sizes: list[int]) -> None:
    """Files with changed bytes give packets that lie inside the file, or an error; mapped and streamed agree."""
    data = bytearray(FILES[kind])
    for position, value in changes:
        data[position % len(data)] = value
    (tmp_path / "changed").write_bytes(data)
    packets, error = read_until_error(tmp_path / "changed")
    assert sum(len(packet.data) for packet in packets) <= len(data)
    streamed, told = stream_until_error(bytes(data), sizes, 1024)
    assert streamed == packets
    assert words(told) == words(error)


@on_files
@given(st.binary(max_size=200), st.sampled_from([b"", b"\xd4\xc3\xb2\xa1\x02\0\x04\0", b"\n\r\r\n", b"\x1f\x8b\x08\0"]))
@example(b"", b"\x28\xb5\x2f\xfd")
def test_noise_never_crashes(tmp_path: Path, noise: bytes, magic: bytes) -> None:
    """Any bytes are read, or refused with one line that names the file and has a hint."""
    (tmp_path / "noise").write_bytes(magic + noise)
    _, error = read_until_error(tmp_path / "noise")
    if error is not None:
        assert error.message.startswith(f"{tmp_path / 'noise'}: ")
        assert "\n" not in str(error)
        assert error.hint
        assert error.exit_status == 2


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (b"", "is empty"),
        (b"\xd4\xc3\xb2\xa1\x02\x00", "cut in its header: 6 of 24 bytes"),
        (b"BZh91AY&SY", "the compressed data ends early"),
        (b"BZh9" + bytes(40), "damaged bzip2 data"),
        (b"\xfd7zXZ\x00\x00", "the compressed data ends early"),
        (b"\xfd7zXZ\x00" + bytes(40), "damaged xz data"),
        (b"\x04\x22\x4d\x18" + bytes(40), "damaged lz4 data"),
        (b"\x02\x21\x4c\x18" + bytes(40), "lz4 file of the legacy format"),
        (b"\x5d\0\0\x80\0" + bytes(40), "lzma file"),
        (b"snoop\0\0\0\0\0\0\2", "snoop"),
        (b"hello, this is a text\n", "text"),
        (b"\x7fELF\2\1\1", "ELF"),
        (b"\0\1\2\3", "unknown magic 00 01 02 03"),
        (b"\xd4\xc3\xb2\xa1\x03\x00\x01\x00" + bytes(16), "pcap version 3.1"),
        (cb.section()[:8] + b"\1\2\3\4" + bytes(16), "byte-order magic 01 02 03 04"),
        (cb.section().replace(b"\1\0\0\0", b"\7\0\0\0", 1), "pcapng version 7.0"),
        (cb.section() + cb.enhanced("<", 3, 0, b"", 0), "packet of interface 3"),
        (cb.section() + cb.interface()[:-4] + b"\1\0\0\0", "two lengths differ"),
        (cb.section() + cb.interface() + cb.enhanced("<", 0, 0, b"", 0)[:-4] + b"\1\0\0\0", "lengths differ: 32"),
        (cb.section() + struct.pack("<III", 1, 7, 0), "length 7"),
        (cb.section() + struct.pack("<III", 5, 14, 0), "invalid block length 14"),
        (cb.section() + cb.interface() + cb.block("<", 6, struct.pack("<IIIII", 0, 0, 0, 99, 99)), "99 captured bytes"),
        (cb.section() + cb.interface() + cb.block("<", 6, bytes(8)), "invalid block length 20"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, start: bytes, words: str) -> None:
    """Each kind of damage has its own words."""
    (tmp_path / "bad").write_bytes(start)
    _, error = read_until_error(tmp_path / "bad")
    assert error is not None
    assert words in error.message


def test_absurd_lengths(tmp_path: Path) -> None:
    """A captured length above 262144 and the file's snap length is an error at its offset; a long snap length helps."""
    long = Packet(bytes(300_000), 300_000, 1000)
    (tmp_path / "a").write_bytes(cb.pcap([PACKETS[0], long]))
    packets, error = read_until_error(tmp_path / "a")
    assert packets == PACKETS[:1]
    assert error is not None
    assert re.search(r"invalid captured length 300000, more than the maximum of 262144 at offset 40$", error.message)
    (tmp_path / "b").write_bytes(cb.pcap([PACKETS[0], long], snaplen=400_000))
    assert read_until_error(tmp_path / "b") == ([PACKETS[0], long], None)


def test_an_original_length_below_the_captured_one_is_kept(tmp_path: Path) -> None:
    """Some tools write such files; the lengths come as they are."""
    odd = [Packet(b"abcdef", 3, 1000), Packet(b"abc", 0, 2000)]
    (tmp_path / "a").write_bytes(cb.pcap(odd))
    assert read_until_error(tmp_path / "a") == (odd, None)


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.ZstdCompressor(write_checksum=True).compress])
def test_cut_or_damaged_compressed_files(tmp_path: Path, pack: object) -> None:
    """What came before the cut or the damage is kept, and the error says that the compression is at fault."""
    packets = [Packet(os.urandom(500), 500, k * 1000) for k in range(1000)]
    packed = pack(cb.pcap(packets))  # type: ignore[operator]
    (tmp_path / "cut").write_bytes(packed[: len(packed) // 2])
    kept, error = read_until_error(tmp_path / "cut")
    assert packets[: len(kept)] == kept
    assert error is not None
    assert "the compressed data ends early" in error.message
    damaged = bytearray(packed)
    damaged[len(packed) // 2 : len(packed) // 2 + 8] = b"\xff" * 8
    damaged[-6] ^= 1
    (tmp_path / "damaged").write_bytes(damaged)
    kept, error = read_until_error(tmp_path / "damaged")
    assert len(kept) > 200
    assert packets[:200] == kept[:200]  # a packet that holds the damage cannot be told from a whole one
    assert error is not None
    assert re.search(r"damaged (gzip|Zstandard) data \(.*\) at offset \d+$", error.message)


def test_a_wrong_check_sum_costs_the_last_packet_only(tmp_path: Path) -> None:
    """A gzip file of which only the check sum is wrong gives its packets; zlib keeps the last byte."""
    packets = [Packet(os.urandom(500), 500, k * 1000) for k in range(1000)]
    packed = bytearray(gzip.compress(cb.pcap(packets)))
    packed[-6] ^= 1
    (tmp_path / "a").write_bytes(packed)
    kept, error = read_until_error(tmp_path / "a")
    assert kept == packets[:-1]
    assert error is not None
    assert "damaged gzip data (" in error.message


def test_a_record_longer_than_the_ring_is_refused() -> None:
    """A packet that no block of the stream can hold is an error, not an endless wait."""
    file = cb.stream(cb.pcap([Packet(bytes(5000), 5000, 0)]), [500], 256)
    with pytest.raises(UsageError, match="a record of 5016 bytes is too long to be streamed at offset 24"):
        list(cb.take_all(file))


def test_paths_that_cannot_be_opened(tmp_path: Path) -> None:
    """A missing file and a folder are told with the system's words."""
    with pytest.raises(UsageError, match="No such file"):
        open_capture(str(tmp_path / "missing"))
    with pytest.raises(UsageError, match="Is a directory"):
        open_capture(str(tmp_path))


def test_an_empty_name_is_refused():
    with pytest.raises(UsageError, match="the capture file has no name"):
        open_capture("")
