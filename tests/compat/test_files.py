"""wirecap.compat beside the packages whose interfaces it has, on files."""

from __future__ import annotations

import gc
import itertools
import logging
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import capture_bytes as cb
import pytest
from compat_peers import both, facts_of_pcapy, facts_of_pypcap

import mixed_trace as mixed_trace_file
from wirecap.compat import pcapy as ours

LAST = 3_000
"""Packets of the mixed trace that are looked at."""

HEADER = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The first packets of the made trace, as records of a pcap file."""
    data = mixed_trace_file.write(tmp_path_factory.mktemp("compat") / "mixed.pcap").read_bytes()
    end = 24
    for _ in range(LAST):
        end += 16 + struct.unpack_from("<I", data, end + 8)[0]
    return data[24:end]


def frame(kind: int, size: int) -> bytes:
    return bytes(12) + struct.pack("!H", kind) + bytes(range(256))[: size - 14]


@pytest.fixture(scope="module")
def mixed(records: bytes, tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("files") / "one.pcap"
    file.write_bytes(HEADER + records)
    return str(file)


@pytest.fixture(scope="module", params=["mixed", "ns", "pcapng", "big-endian", "cut", "empty", "text", "absent"])
def path(request: pytest.FixtureRequest, records: bytes, tmp_path_factory: pytest.TempPathFactory) -> str:
    nanoseconds = struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 96, 1)
    stamped = [struct.pack("<IIII", 1_700_000_000 + n, 999_999_999 - n, 60, 90) + frame(0x0806, 60) for n in range(9)]
    blocks = [cb.section(">"), cb.interface(">", snaplen=100)]
    blocks += [cb.enhanced(">", 0, 1_700_000_000_123_456 + n, frame(0x0800, 20 + n), 80) for n in range(30)]
    content = {
        "mixed": HEADER + records,
        "ns": nanoseconds + b"".join(stamped),
        "pcapng": b"".join(blocks),
        "big-endian": struct.pack(">IHHiIII4I", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 101, 1, 2, 9, 9) + bytes(9),
        "cut": HEADER + records[:5000],
        "empty": HEADER,
        "text": b"this is no capture file",
    }
    file = tmp_path_factory.mktemp("files") / f"{request.param}.pcap"
    if request.param in content:
        file.write_bytes(content[request.param])
    return str(file)


DIFFERENT = {"text": {"open"}}
"""What differs, as docs/compat.md says: we say what the file is."""


def test_pcapy_gives_what_pcapy_ng_gives(path: str, tmp_path: Path) -> None:
    """Packets, headers, errors, dumps and return values are the same for every way of reading."""
    theirs, mine = both("pcapy", "pcapy-ng")
    left, right = (facts_of_pcapy(module, path, tmp_path / "dump.pcap") for module in (theirs, mine))
    differ = {name for name in left.keys() | right.keys() if left.get(name) != right.get(name)}
    assert differ == DIFFERENT.get(Path(path).stem, set())


def test_pcap_gives_what_pypcap_gives(path: str) -> None:
    """Packets, times, attributes and return values are the same for every way of reading."""
    theirs, mine = both("pcap", "pypcap")
    assert facts_of_pypcap(mine, path) == facts_of_pypcap(theirs, path)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # scapy leaves a file open
def test_scapy_sniffs_what_its_own_reader_reads(path: str) -> None:
    """A socket on a file gives packets, times and lengths as rdpcap does."""
    pytest.importorskip("scapy", reason="needs scapy: pip install scapy")
    logging.getLogger("scapy").setLevel(logging.CRITICAL)
    from scapy.error import Scapy_Exception
    from scapy.utils import PcapReader

    from wirecap.compat.scapy import WirecapListenSocket

    def facts(packets: Any) -> list[Any]:
        return [(type(one), bytes(one), one.time, one.wirelen) for one in packets]

    theirs = None
    try:
        with PcapReader(path) as reader:
            theirs = facts(itertools.islice(reader, 500))
    except (Scapy_Exception, OSError):
        pass
    if theirs is None:
        with pytest.raises(Scapy_Exception):
            WirecapListenSocket(path)
    if theirs is None:
        gc.collect()  # here, where the file that scapy left open is forgiven, and no traceback holds it any more
        return
    with WirecapListenSocket(path) as opened:
        sniffed = opened.sniff(count=500, quiet=True)
    mine = facts(sniffed)
    assert mine == theirs[: len(mine)]
    assert len(theirs) - len(mine) == (Path(path).stem == "cut"), "scapy gives what is there of a cut packet"


def test_headers_that_are_kept_stay_as_they_are(mixed: str) -> None:
    """A header that outlives its callback tells its own packet's time and lengths, others are used again."""
    kept: list[Any] = []
    told: list[Any] = []

    def keep_some(header: Any, data: bytes) -> None:
        if len(told) % 700 == 0:
            kept.append((len(told), header))
        told.append((header.getts(), header.getcaplen(), header.getlen()))

    ours.open_offline(mixed).loop(-1, keep_some)
    assert len(told) == LAST
    assert [told[at] for at, _ in kept] == [(h.getts(), h.getcaplen(), h.getlen()) for _, h in kept]


def test_a_dump_never_empties_the_file_that_is_read(mixed: str) -> None:
    """dump_open refuses the name of a file that is open for reading, in one line."""
    reader = ours.open_offline(mixed)
    with pytest.raises(ours.PcapError, match="the file is being read"):
        reader.dump_open(mixed)
    assert reader.next()[0] is not None


def test_scapy_is_asked_for_in_one_line(tmp_path: Path) -> None:
    """Without scapy, importing the module says what to install; nothing else of the package imports it."""
    (tmp_path / "scapy.py").write_text("raise ModuleNotFoundError('no', name='scapy')")
    script = "import wirecap.compat.pcapy, sys; assert 'scapy' not in sys.modules; import wirecap.compat.scapy"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert done.stderr.splitlines()[-1] == "ImportError: wirecap.compat.scapy needs scapy: pip install scapy"


def test_reading_keeps_no_references(mixed: str) -> None:
    """Packets and headers that a program drops are gone, and so are their references to None and to the class."""

    def read() -> tuple[int, int]:
        reader = ours.open_offline(mixed)
        while reader.next()[0] is not None:
            pass
        reader.loop(-1, lambda header, packet: None)
        del reader
        gc.collect()
        return sys.getrefcount(None), sys.getrefcount(ours.Pkthdr)

    read()
    before = read()
    after = [read() for _ in range(3)][-1]
    assert all(abs(one - other) < LAST // 10 for one, other in zip(after, before, strict=True))
