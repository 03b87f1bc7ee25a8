"""A file's filter runs where the file is scanned: the same packets, in order, and the rest counted."""

from __future__ import annotations

import gzip
import re
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import wirecap
from rig import until
from wirecap.files.reader import AHEAD_BYTES, Mapped, open_capture
from wirecap.kernels.file import read as at


def pcap_of(sizes: list[int]) -> bytes:
    """A pcap file of packets with these lengths, each filled with its number."""
    out = [(0xA1B2C3D4).to_bytes(4, "little"), bytes.fromhex("020004000000000000000000ffff000001000000")]
    for number, size in enumerate(sizes):
        out += [word.to_bytes(4, "little") for word in (number, 0, size, size)]
        out.append(bytes([number & 0xFF]) * size)
    return b"".join(out)


@pytest.mark.kernel
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    sizes=st.lists(st.integers(1, 60), max_size=200),
    limit=st.integers(0, 61),
    shape=st.sampled_from([(1, 2), (2, 2), (5, 3), (64, 2), (256, 4)]),
    streamed=st.booleans(),
)
def test_what_the_filter_wants_comes_in_order(
    sizes: list[int], limit: int, shape: tuple[int, int], streamed: bool
) -> None:
    """Whatever the pool: the packets that match arrive once and in order, the others are counted as filtered out."""
    data = pcap_of(sizes)
    with tempfile.NamedTemporaryFile(suffix=".pcap") as file:
        file.write(gzip.compress(data, 1) if streamed else data)
        file.flush()
        with wirecap.open(file.name, M=shape[0], R=shape[1], filter=f"len >= {limit}") as capture:
            found = [
                (int(timestamp), bytes(packet))
                for chunk in capture
                for timestamp, packet in zip(chunk.timestamps, chunk, strict=True)
            ]
    wanted = [(n * 10**9, bytes([n & 0xFF]) * size) for n, size in enumerate(sizes) if size >= limit]
    assert found == wanted
    packets = capture.summary()["packets"]
    assert packets["received"] == len(sizes)
    assert packets["filtered_out"] == len(sizes) - len(wanted)
    assert packets["delivered"] == len(wanted)
    assert packets["dropped"] == 0


def test_few_matches_make_few_chunks(tmp_path: Path) -> None:
    """Packets that match share chunks: one in ten of 5,120 packets does not make a chunk of each row scanned."""
    path = tmp_path / "sparse.pcap"
    path.write_bytes(pcap_of([60 if n % 10 == 0 else 40 for n in range(5120)]))
    with wirecap.open(str(path), filter="len > 50") as capture:
        sizes = [len(chunk) for chunk in capture]
    assert sum(sizes) == 512
    assert min(sizes[:-1]) >= 192
    assert max(sizes) <= 256


def resident_bytes(path: Path) -> int:
    """How much of a mapped file this process has in its page tables (proc_pid_smaps)."""
    maps = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.MULTILINE)
    return sum(
        int(m[1]) << 10 for text in maps if str(path) in text for m in [re.search(r"^Rss: +(\d+) kB", text, re.M)] if m
    )


def test_pages_are_mapped_ahead_of_the_scan_and_not_too_far(tmp_path: Path) -> None:
    """map_ahead has the next 64 MiB mapped, goes on when the scan does, and ends at the file's end or when told."""
    path = tmp_path / "large.pcap"
    with path.open("wb") as file:
        file.write(pcap_of([60]))
        file.truncate(2 * AHEAD_BYTES)
    with open_capture(str(path)) as capture:
        assert isinstance(capture.feed, Mapped)
        stopped = threading.Event()
        thread = threading.Thread(target=capture.feed.map_ahead, args=(capture.state, stopped))
        thread.start()
        if until(lambda: resident_bytes(path) >= AHEAD_BYTES or not thread.is_alive()) and not thread.is_alive():
            pytest.skip("the kernel has no MADV_POPULATE_READ (Linux 5.14)")
        assert resident_bytes(path) < 2 * AHEAD_BYTES - (8 << 20)
        capture.state[at.POSITION] = AHEAD_BYTES
        thread.join(10)
        assert not thread.is_alive()
        assert resident_bytes(path) >= 2 * AHEAD_BYTES - (4 << 20)
        capture.state[at.POSITION] = 0
        thread = threading.Thread(target=capture.feed.map_ahead, args=(capture.state, stopped))
        thread.start()
        stopped.set()
        thread.join(10)
        assert not thread.is_alive()
