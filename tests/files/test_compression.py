"""Compressed capture files: ours are read by Debian's tools to the last packet, theirs by us."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import capture_bytes as cb
import lz4.frame
import pytest
import zstandard
from test_reader_peers import run, tool
from test_recorded import copy

from wirecap.errors import UsageError
from wirecap.files.reader import open_capture
from wirecap.files.rotation import COMPRESSIONS, compression_of

UNPACK = {".gz": "gzip", ".zst": "zstd", ".lz4": "lz4", ".xz": "xz", ".bz2": "bzip2"}
PACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor().compress,
    ".lz4": lz4.frame.compress,
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
}


def packets(count: int = 60_000) -> list[cb.Packet]:
    """Some MB of packets that are no two alike, more than a writer's buffers hold."""
    return [cb.Packet(bytes([n & 255]) * 100 + n.to_bytes(4, "big") * 20, 180, n * 1000) for n in range(count)]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plain") / "in.pcap"
    path.write_bytes(cb.pcap(packets()))
    return path


@pytest.mark.parametrize("suffix", COMPRESSIONS)
@pytest.mark.parametrize("independent", [False, True])
def test_debians_tools_unpack_ours(plain: Path, tmp_path: Path, suffix: str, independent: bool) -> None:
    """gzip, zstd, lz4, xz and bzip2 give back the file; so does our own reader."""
    packed = tmp_path / f"a.pcap{suffix}"
    copy(plain, packed, format="pcap", independent_frames=independent)
    unpacked = subprocess.run([tool(UNPACK[suffix]), "-dc", str(packed)], capture_output=True, timeout=120, check=True)
    assert unpacked.stdout == plain.read_bytes()
    assert packed.stat().st_size < plain.stat().st_size / 2
    assert cb.read(packed, 256) == packets()


@pytest.mark.parametrize("suffix", [".gz", ".zst", ".lz4"])
@pytest.mark.parametrize("form", ["pcap", "pcapng"])
def test_wireshark_reads_ours_to_the_last_packet(plain: Path, tmp_path: Path, suffix: str, form: str) -> None:
    """capinfos and tshark of Debian 12 count every packet, and say nothing of damage."""
    packed = tmp_path / f"a.{form}{suffix}"
    copy(plain, packed, format=form)
    assert run(tool("capinfos"), "-c", "-M", "-T", "-r", packed).split("\t")[-1].strip() == "60000"
    last = run(tool("tshark"), "-r", packed, "-Y", "frame.number >= 59999", "-T", "fields", "-e", "frame.time_epoch")
    assert last.split() == ["0.059998000", "0.059999000"]


@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_theirs_are_read(tmp_path: Path, suffix: str) -> None:
    """Files of the tools themselves, at several levels and of several parts, under any name, and from a pipe."""
    data, name = cb.pcap(packets(20_000)), tool(UNPACK[suffix])
    for level in ("-1", "-9"):
        by_tool = subprocess.run([name, level, "-c"], input=data, capture_output=True, timeout=120, check=True).stdout
        (tmp_path / "any").write_bytes(by_tool)
        assert cb.read(tmp_path / "any", 256) == packets(20_000)
    parts = [data[:1000], data[1000:2_000_000], data[2_000_000:]]
    (tmp_path / "parts").write_bytes(b"".join(PACK[suffix](part) for part in parts))
    assert cb.read(tmp_path / "parts", 256) == packets(20_000)
    assert through_a_pipe(tmp_path / "fifo", by_tool) == packets(20_000)


def through_a_pipe(fifo: Path, data: bytes) -> list[cb.Packet]:
    os.mkfifo(fifo)
    feeder = threading.Thread(target=fifo.write_bytes, args=(data,), daemon=True)
    feeder.start()
    found = cb.read(fifo, 256)
    feeder.join(60)
    return found


def test_parts_that_are_to_be_skipped(tmp_path: Path) -> None:
    """pzstd puts a frame before each that is to be skipped, and xz may pad its streams with zeroes: both are read."""
    data = cb.pcap(packets(50))
    halves = [data[:500], data[500:]]
    skipped = bytes.fromhex("502a4d1804000000aabbccdd")
    (tmp_path / "a").write_bytes(b"".join(skipped + PACK[".zst"](half) for half in halves))
    assert cb.read(tmp_path / "a") == packets(50)
    (tmp_path / "b").write_bytes(b"".join(PACK[".xz"](half) + bytes(8) for half in halves))
    assert cb.read(tmp_path / "b") == packets(50)


def until_error(path: Path) -> tuple[list[cb.Packet], UsageError | None]:
    try:
        with open_capture(str(path)) as file:
            return cb.collect(file, 256)
    except UsageError as error:  # not even a header came out
        return [], error


@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_cut_and_damaged_files(tmp_path: Path, suffix: str) -> None:
    """One line says what is wrong; nothing that is given was not in the file, and a cut one gives all but its end."""
    data = cb.pcap(packets(3000))
    packed = b"".join(PACK[suffix](data[at : at + 10_000]) for at in range(0, len(data), 10_000))
    for cut in (1, 7, len(packed) // 2, len(packed) - 30):
        (tmp_path / "cut").write_bytes(packed[: len(packed) - cut])
        found, error = until_error(tmp_path / "cut")
        assert found == packets(len(found))
        assert len(found) >= 2900 * (len(packed) - cut) // len(packed) - 200
        assert error is not None
        assert len(str(error).splitlines()) == 1
    broken = bytearray(packed)
    broken[len(packed) // 2 : len(packed) // 2 + 40] = bytes(range(40))
    (tmp_path / "broken").write_bytes(broken)
    found, error = until_error(tmp_path / "broken")
    assert error is not None
    assert len(str(error).splitlines()) == 1
    assert len(found) > 1000


@pytest.mark.parametrize(
    "name", ["a.pcap.Z", "a.lzma", "a.pcapng.br", "a.zip", "a.pcap.7z", "a.tgz", "a.pcap.zstd", "a.gzip", "a.pcap.LZO"]
)
def test_a_compression_that_is_not_there_is_refused(plain: Path, tmp_path: Path, name: str) -> None:
    """Never an uncompressed file of that name: nothing is written, and the hint names what there is."""
    with pytest.raises(UsageError, match=r"\.\w+ files cannot be written") as refused:
        copy(plain, tmp_path / name)
    assert ".lz4" in refused.value.hint
    assert not (tmp_path / name).exists()


def test_without_the_library(plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where lz4 cannot be imported, reading and writing such files say so; other files need it not."""
    (tmp_path / "in").write_bytes(lz4.frame.compress(cb.pcap(packets(5))))
    monkeypatch.setitem(__import__("sys").modules, "lz4.frame", None)
    monkeypatch.delattr(lz4, "frame")
    for attempt in (lambda: open_capture(str(tmp_path / "in")), lambda: copy(plain, tmp_path / "a.pcap.lz4")):
        with pytest.raises(UsageError, match="the lz4 library is not installed"):
            attempt()
    assert len(cb.read(plain, 256)) == 60_000


def test_what_is_packed_twice(tmp_path: Path) -> None:
    """A compressed file inside another one is named."""
    (tmp_path / "a").write_bytes(gzip.compress(lzma.compress(cb.pcap([]))))
    with pytest.raises(UsageError, match="not a capture file but an xz file"):
        open_capture(str(tmp_path / "a"))


@pytest.mark.parametrize("given", ["a.pcap", "a", "a.pcapng1", "a.xz.pcap", "x.gz0"])
def test_names_without_a_compression(given: Any) -> None:
    """Other names mean no compression."""
    assert compression_of(given) == ""
