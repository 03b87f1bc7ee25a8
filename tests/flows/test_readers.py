"""Other programs and the flows: those that read the dataset as it is, and one that counts conversations itself."""

from __future__ import annotations

import json
import re
import struct
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from naive_flows import SECOND, packets_of
from naive_packet import naive
from wirecap.cli import main
from wirecap.lab.process import find


@pytest.fixture
def dataset(trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[Path, dict[str, int]]:
    """A folder of Parquet files, and what the handler says is in them."""
    target = f"file:{tmp_path}/%Y/%m/%d/%H-%M-%S.parquet"
    assert main.run(["capture", "-r", str(trace), "--handler", "flows:idle=300ms,active=1s", "--to", target]) == 0
    return tmp_path, json.loads(capsys.readouterr().out)["flows"]


SUMS = "packetDeltaCount", "reversePacketDeltaCount"


def test_duckdb(dataset):
    """A query over all files gives the summary's sums, and addresses and times have their types."""
    duckdb = pytest.importorskip("duckdb")
    folder, result = dataset
    rows = duckdb.sql(
        f"select count(*), sum({SUMS[0]} + {SUMS[1]}), sum(capturedOctets), min(flowStartNanoseconds) <"
        f" max(flowEndNanoseconds), count(sourceIPv4Address) + count(sourceIPv6Address) from '{folder}/**/*.parquet'"
    ).fetchall()
    assert rows == [(result["records"], result["packets"], result["bytes"], True, result["records"])]


def test_polars(dataset):
    """The same by Polars, which scans the folder."""
    polars = pytest.importorskip("polars")
    folder, result = dataset
    frame = polars.scan_parquet(f"{folder}/**/*.parquet").collect()
    assert len(frame) == result["records"]
    assert sum(frame[name].sum() for name in SUMS) == result["packets"]
    assert frame["capturedOctets"].sum() == result["bytes"]


def test_pandas(dataset):
    """The same by pandas, which reads the folder."""
    pandas = pytest.importorskip("pandas")
    folder, result = dataset
    frame = pandas.concat(pandas.read_parquet(path) for path in sorted(folder.rglob("*.parquet")))
    assert len(frame) == result["records"]
    assert int(sum(frame[name].sum() for name in SUMS)) == result["packets"]
    assert int(frame["capturedOctets"].sum()) == result["bytes"]


def test_conversations_of_tshark(trace, tmp_path, capsys):
    """tshark's own statistics of TCP over IPv4 have the same conversations, frames and bytes in each direction."""
    tshark = find("tshark")
    if not tshark:
        pytest.skip("needs tshark")
    some = tmp_path / "tcp.pcap"
    whole = (struct.pack("<IIII", p.time // SECOND, p.time % SECOND // 1000, len(p.data), p.size) + p.data
             for p in packets_of(trace) if _is_sound(p.data, p.size))  # fmt: skip
    some.write_bytes(trace.read_bytes()[:24] + b"".join(whole))
    command = [tshark, "-n", "-q", "-r", str(some), "-z", "conv,tcp"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    theirs: Counter[tuple[str, str]] = Counter()
    rounded: set[tuple[str, str]] = set()  # some of their bytes are shown in kB
    row = re.compile(r"(\S+):(\d+) +<-> (\S+):(\d+) +(\d+) (\d+) (\w+) +(\d+) (\d+) (\w+) ")
    for line in shown.splitlines():
        if found := row.match(line):
            near, far = f"{found[1]}:{found[2]}", f"{found[3]}:{found[4]}"
            theirs[far, near] += int(found[5]) << 32 | int(found[6])
            theirs[near, far] += int(found[8]) << 32 | int(found[9])
            if {found[7], found[10]} != {"bytes"}:
                rounded |= {(near, far), (far, near)}
    capsys.readouterr()
    assert main.run(["capture", "-r", str(some), "--handler", "flows:idle=1h,active=1h"]) == 0
    ours: Counter[tuple[str, str]] = Counter()
    for record in map(json.loads, capsys.readouterr().out.splitlines()):
        near = f"{record['sourceIPv4Address']}:{record['sourceTransportPort']}"
        far = f"{record['destinationIPv4Address']}:{record['destinationTransportPort']}"
        ours[near, far] += record["packetDeltaCount"] << 32 | record["layer2OctetDeltaCount"]
        ours[far, near] += record["reversePacketDeltaCount"] << 32 | record["reverseLayer2OctetDeltaCount"]
    assert len(theirs.keys() - rounded) > 100
    assert {ends: count >> 32 for ends, count in ours.items()} == {ends: count >> 32 for ends, count in theirs.items()}
    assert all(ours[ends] == count for ends, count in theirs.items() if ends not in rounded)


def _is_sound(data: bytes, size: int) -> bool:
    """Whether a packet is TCP over IPv4, whole and without contradictions: of others tshark counts only some."""
    found = naive(data)
    if "ip" not in found or "tcp" not in found or len(data) != size:
        return False
    ip, tcp = found["ip"], found["tcp"]
    end = ip["offset"] + ip["total_length"]
    fragment = ip["fragment_offset"] or ip["more_fragments"]
    return tcp["header_length"] >= 20 and tcp["payload"] <= end <= size and not fragment and ip["src"] != ip["dst"]
