"""``--handler flows``: its records as JSON lines and Parquet, beside a plain reckoning; sums; what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import wirecap
from naive_flows import Reckoning, packets_of
from rig import until
from wirecap.cli import main
from wirecap.flows.records import NAMES


def flows(*arguments: object) -> int:
    return main.run(["capture", *map(str, arguments)])


def numbers(record: dict[str, Any]) -> dict[str, Any]:
    """A record whose times are in ns."""
    times = {name: record[name].removesuffix("Z") for name in ("flowStartNanoseconds", "flowEndNanoseconds")}
    return record | {name: int(np.datetime64(text, "ns").astype(np.int64)) for name, text in times.items()}


def from_parquet(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """The records of files, as the JSON lines have them."""
    found = []
    for path in paths:
        table = pq.read_table(path)
        for name in ("flowStartNanoseconds", "flowEndNanoseconds"):
            table = table.set_column(table.column_names.index(name), name, table[name].cast("int64"))
        found += [{k: v for k, v in row.items() if v is not None} for row in table.to_pylist()]
    return found


def in_order(records: Iterable[dict[str, Any]]) -> list[str]:
    return sorted(json.dumps(record, sort_keys=True) for record in records)


@pytest.fixture(scope="module")
def expected(trace: Path) -> Reckoning:
    return Reckoning().read(packets_of(trace))


def test_json_lines_and_sums(trace, expected, tmp_path, capsys):
    """Each record is the plain reckoning's; the sums over records and the packets without a flow are the summary's."""
    summary_file = tmp_path / "summary.json"
    assert flows("-r", trace, "--handler", "flows", "--summary-json", summary_file) == 0
    captured = capsys.readouterr()
    records = [numbers(json.loads(line)) for line in captured.out.splitlines()]
    assert in_order(records) == in_order(expected.records)
    summary = json.loads(summary_file.read_text())
    (row,) = summary["handlers"]
    result, packets = row["result"], summary["packets"]
    made = sum(r["packetDeltaCount"] + r["reversePacketDeltaCount"] for r in records)
    assert made == result["packets"]
    assert made + sum(result["without"].values()) == packets["delivered"] == packets["received"]
    assert {name: n for name, n in result["without"].items() if n} == dict(expected.without)
    assert sum(r["capturedOctets"] for r in records) == result["bytes"]
    assert result["bytes"] + sum(result["without_bytes"].values()) == summary["bytes"]["received"]
    assert result["records"] == sum(result["ended"].values()) == len(records) == result["stored"]["-"]
    assert result["dropped"] == {"export_full": 0}
    without = sum(expected.without.values())
    assert f"{len(records)} flow records: " in captured.err
    assert f"{without} packets without a flow: " in captured.err


def test_parquet_by_time(trace, expected, tmp_path, capsys):
    """A file for each part of time, by the records' ends; pandas reads them as they are; nothing else is left."""
    target = f"file:{tmp_path}/%H/%M-%S.parquet"
    assert flows("-r", trace, "--handler", "flows:idle=300ms,active=500ms", "--to", target) == 0
    files = sorted(tmp_path.rglob("*"))
    assert {path.suffix for path in files if path.is_file()} == {".parquet"}
    read = from_parquet(path for path in files if path.is_file())
    assert in_order(read) == in_order(Reckoning(0.3, 0.5).read(packets_of(trace)).records)
    for path in files:
        if path.is_file():
            frame = pd.read_parquet(path)
            assert tuple(frame.columns) == NAMES
            (end,) = set(frame["flowEndNanoseconds"].dt.strftime("%H/%M-%S"))
            assert f"{path.parent.name}/{path.stem}".startswith(end)
    assert json.loads(capsys.readouterr().out)["flows"]["stored"] == {target: len(read)}


def test_names_that_are_taken_stay(two_packets, tmp_path, capsys):
    """A second run puts its Parquet file beside the first one's, and its lines behind the first one's."""
    targets = ["--to", f"file:{tmp_path}/f.parquet", "--to", f"file:{tmp_path}/f.jsonl"]
    for _ in range(2):
        assert flows("-r", two_packets, "--handler", "flows", *targets) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f-1.parquet", "f.jsonl", "f.parquet"]
    assert (tmp_path / "f.parquet").read_bytes() == (tmp_path / "f-1.parquet").read_bytes()
    lines = (tmp_path / "f.jsonl").read_text().splitlines()
    assert lines[: len(lines) // 2] == lines[len(lines) // 2 :]


def test_from_python(trace, expected, tmp_path):
    """wirecap.capture takes the handler by name, and where its records go; without that they are counted."""
    counted = wirecap.capture(trace, "flows")
    stored = wirecap.capture(trace, "flows", to=[f"file:{tmp_path}/f.jsonl"])
    assert counted.result["records"] == stored.result["records"] == len(expected.records)
    assert len((tmp_path / "f.jsonl").read_text().splitlines()) == len(expected.records)


def test_a_filter_and_a_limit(trace, capsys):
    """Only packets that the filter accepts make flows, up to -c."""
    assert flows("-r", trace, "--handler", "flows", "-c", "1000", "udp and ip") == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {record["protocolIdentifier"] for record in records} == {17}
    assert sum(r["packetDeltaCount"] + r["reversePacketDeltaCount"] for r in records) <= 1000


def test_a_kill_leaves_whole_files(trace, tmp_path):
    """SIGKILL in the middle: what has a name is whole, and what is not has another name."""
    program = [
        sys.executable,
        "-P",
        "-m",
        "wirecap",
        "capture",
        "-r",
        "-",
        "--handler",
        "flows:idle=100ms,active=200ms",
    ]
    target = ["--to", f"file:{tmp_path}/%S.parquet"]
    data = trace.read_bytes()
    child = subprocess.Popen([*program, *target], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert child.stdin
        child.stdin.write(data)
        child.stdin.flush()
        until(lambda: len(list(tmp_path.glob("*.parquet"))) >= 2, 100)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        with suppress(BrokenPipeError):
            child.stdin.close()
    files = list(tmp_path.glob("*.parquet"))
    assert sum(pq.read_table(path).num_rows for path in files) > 0
    assert all(path.name.startswith(".") for path in tmp_path.iterdir() if path not in files)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "-"], "--to -: only the handler flows has records to put there (use the handler flows)"),
        (
            ["--handler", "flows:idel=3s"],
            "handler flows has no option 'idel' (its options are idle, active, max and tunnel)",
        ),
        (["--handler", "flows:idle=0s"], "handler flows: idle must be 1ms to 24h, not 0s (write flows:idle=30s)"),
        (["--handler", "flows:idle=soon"], "handler flows: idle: "),
        (["--handler", "flows:tunnel=both"], "handler flows: tunnel is outer or inner, not 'both'"),
        (["--handler", "flows:max=0"], "handler flows: max must be 1 to "),
        (["--handler", "flows", "--handler", "flows"], "the handler flows is asked for twice"),
        (["--handler", "flows", "--to", "f.parquet"], "did you mean file:f.parquet?"),
        (["--handler", "flows", "--to", "kafka://x"], "--to kafka://x: there is no such target for flow records"),
        (["--handler", "flows", "--to", "file:f.csv"], "--to file:f.csv: the name tells no format"),
        (["--handler", "flows", "--to", "-", "--to", "-"], "--to - is given twice (give it once)"),
        (["--handler", "flows", "-w", "-"], "-w - and --handler flows both use standard output"),
        (["--handler", "flows", "--to", "file:/dev/null/x.jsonl"], "/dev/null/x.jsonl: Not a directory"),
        (["--handler", "flows", "--to", "file:/dev/null/x.parquet"], "/dev/null/x.parquet: Not a directory"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_refused(two_packets, arguments, message, capsys):
    """Each in one line, with the value and the way out."""
    assert flows("-r", two_packets, *arguments) in (1, 2)
    lines = capsys.readouterr().err.splitlines()
    assert message in lines[-1]
    assert lines[-1].startswith("wirecap: ")


def test_what_python_is_refused(two_packets):
    """Targets that are no texts; records where there is no handler."""
    with pytest.raises(wirecap.UsageError, match="to must be a list of targets, not 5"):
        wirecap.capture(two_packets, "flows", to=5)
    with pytest.raises(wirecap.UsageError, match=r"wirecap.open makes no flow records"):
        wirecap.open(two_packets, to=["-"])


def test_a_disk_that_is_full(trace, tmp_path, capsys):
    """A write that fails ends the run with a line, nothing waits for ever, and what was not written is counted."""
    (tmp_path / "full.jsonl").symlink_to("/dev/full")
    assert flows("-r", trace, "--handler", "flows:idle=100ms", "--to", f"file:{tmp_path}/full.jsonl") == 1
    written = capsys.readouterr()
    assert written.err.splitlines()[-1].startswith(f"wirecap: {tmp_path}/full.jsonl: No space left on device")
    result = json.loads(written.out)["flows"]
    assert result["dropped"]["export_full"] + result["dropped"]["not_written"] == result["records"] > 0


def test_nothing_is_left_of_a_capture_that_did_not_begin(trace, tmp_path, capsys):
    """Another file cannot be written: no hidden file stays behind."""
    target = f"file:{tmp_path}/f.parquet"
    assert flows("-r", trace, "--handler", "flows", "--to", target, "-w", tmp_path / "none" / "x.pcap") == 2
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_goes_away(trace):
    """``| head -1``: one line says so."""
    program = [sys.executable, "-P", "-m", "wirecap", "capture", "-q", "-r", str(trace), "--handler", "flows"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout
        assert child.stderr
        child.stdout.close()
        error = child.stderr.read()
        assert child.wait() == 1
    expected = "wirecap: standard output: Broken pipe (the program that read the output ended)"
    assert error.splitlines()[-1] == expected
