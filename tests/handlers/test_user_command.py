"""Users' handlers from outside: the command and ``wirecap.capture``, on files and on live queues."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import dpkt
import numpy as np
import pytest

import wirecap
from rig import captured, until
from wirecap.handlers.state import Records, dtype_of, plain
from wirecap.kernels.packet.fields import LAYER_ATTRIBUTES, METHODS, PACKET_ATTRIBUTES
from wirecap.lab.process import Child
from wirecap.traffic import synthetic
from wirecap.traffic.live_frames import LiveFrames

MODULE = """
import numpy as np
import wirecap

@wirecap.handler
def ports(packet, state, port=0):
    state.packets += 1
    if packet.dst_port == port:
        state.found += 1
    if port == 13 and state.packets == 100:
        raise ValueError("unlucky")

@wirecap.chunk_handler(state={"lengths": (np.int64, 2)})
def lengths(chunk, state):
    state.lengths += np.array([chunk.lengths.sum(), len(chunk)], np.int64)

def show(timestamp_ns, data, prefix="seen"):
    print(prefix, timestamp_ns, len(data))
"""
DOCUMENT = Path(__file__).parents[2] / "docs" / "handlers.md"


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(MODULE)
    return str(path)


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "wirecap", "capture", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=110, cwd=cwd)


def test_results_are_printed_and_in_the_summary(mine, mixed_trace, tmp_path):
    """Each handler's result is a line of JSON on the standard output, and stands in the summary with its failures."""
    summary = tmp_path / "summary.json"
    done = run("-r", str(mixed_trace), "--handler", f"{mine}:ports:port=53", "--handler", "count",
               "--handler", f"{mine}:lengths", "--summary-json", str(summary))  # fmt: skip
    assert done.returncode == 0, done.stderr
    with mixed_trace.open("rb") as file:
        sizes = [len(data) for _, data in dpkt.pcap.Reader(file)]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[0]["ports"]["packets"] == len(sizes)
    assert 0 < lines[0]["ports"]["found"] < len(sizes)
    assert lines[1] == {"lengths": {"lengths": [sum(sizes), len(sizes)]}}
    written = json.loads(summary.read_text())["handlers"]
    assert [(row["name"], row["failures"]) for row in written] == [("ports", 0), ("lengths", 0)]
    assert written[0]["result"] == lines[0]["ports"]


def test_standard_output_belongs_to_one(mine, mixed_trace):
    """Where the summary or the packets take the standard output, results are not mixed into it."""
    done = run("-r", str(mixed_trace), "-c", "50", "--handler", f"{mine}:lengths", "--summary-json", "-")
    assert json.loads(done.stdout)["handlers"][0]["result"]["lengths"][1] == 50


def test_a_module_in_the_working_directory(mine, mixed_trace):
    """``module:object`` is found where the command runs; options are text for a Python handler."""
    done = run("-r", str(mixed_trace), "-c", "2", "--handler", "mine:show:prefix=got", cwd=Path(mine).parent)
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["got", "got"]


def test_failure_and_keep_going(mine, mixed_trace):
    """A handler that fails ends the command with status 1, the packet's place and what was counted; or is skipped."""
    arguments = ("-r", str(mixed_trace), "--handler", f"{mine}:ports:port=13")
    done = run(*arguments)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    place = r"packet 99 of a chunk of \S+mixed-30s.pcap at 2023-11-14 22:13:2\d\.\d{9} UTC"
    assert re.fullmatch(rf"wirecap: handler ports failed on {place}: ValueError: unlucky \(.*, line 11\) \(.*\)", last)
    assert "packets read" in done.stderr
    assert json.loads(done.stdout) == {"ports": {"packets": 100, "found": 0}}
    done = run(*arguments, "--keep-going")
    assert done.returncode == 0
    assert done.stderr.splitlines()[-1] == "handler ports failed 1 time and carried on"


def test_reader_that_goes_away(mine, mixed_trace):
    """A handler that prints into a pipe without a reader ends the command in one line, whatever packet it was at."""
    command = f"{sys.executable} -m wirecap capture -r {mixed_trace} --handler {mine}:show --keep-going | head -1"
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, timeout=110)
    assert done.stdout.startswith("seen 17000000")
    assert "Traceback" not in done.stderr
    assert "failed on packet" not in done.stderr


def test_capture_from_python(mixed_trace, tmp_path):
    """wirecap.capture runs functions and named handlers in a row, writes, and returns results and summary."""

    @wirecap.handler
    def tcp(packet, state):
        if packet.tcp:
            state.tcp += 1

    def sizes(chunk, state):
        state.bytes += int(chunk.lengths.sum())

    out = tmp_path / "out.pcap"
    outcome = wirecap.capture(str(mixed_trace), tcp, "count", sizes, filter="ip", write=str(out), count=5000)
    assert outcome.results[1] is None
    assert 0 < outcome.result["tcp"] < 5000
    assert outcome.result == outcome.results[0]
    with out.open("rb") as file:
        written = [data for _, data in dpkt.pcap.Reader(file)]
    assert len(written) == outcome.summary["packets"]["written"] == 5000
    assert outcome.results[2] == {"bytes": sum(map(len, written))}


def test_capture_in_another_thread(mixed_trace):
    """wirecap.capture works outside the main thread, where no signal can be handled."""
    outcomes = []

    def dull(timestamp_ns, data): ...

    thread = threading.Thread(target=lambda: outcomes.append(wirecap.capture(str(mixed_trace), dull, count=10)))
    thread.start()
    thread.join(60)
    assert outcomes[0].summary["packets"]["delivered"] == 10


@pytest.mark.live
@pytest.mark.parametrize("handler", ["ports:port=9", "lengths"])
def test_live_queues(testbed, mine, tmp_path, handler):
    """On four live queues every packet is handled once, and a signal ends the run with the merged result."""
    bed = testbed(queues=4)
    summary = tmp_path / "summary.json"
    command = [sys.executable, "-m", "wirecap", "capture", "--netns", bed.name, "-i", bed.nics[0].inside,
               "--handler", f"{mine}:{handler}", "--summary-json", str(summary)]  # fmt: skip
    with Child(command) as child:
        child.wait_for("capturing on", 60)
        with LiveFrames(bed.nics[0].outside, synthetic.udp(60)) as sender:
            sent = sender.send(20_000)
        until(lambda: captured(child, "received") >= sent)  # some may still be on their way
        ended = child.end(signal.SIGINT, 60)
    assert ended.status == 0, ended.output
    packets = json.loads(summary.read_text())["packets"]
    assert packets["received"] == sent == packets["delivered"] + packets["dropped"]
    [line] = [line for line in ended.output.splitlines() if line.startswith("{")]
    [(name, result)] = json.loads(line).items()
    assert (result["packets"] if name == "ports" else result["lengths"][1]) == packets["delivered"]


def test_the_documentation_has_every_field():
    """docs/handlers.md lists the layers and fields that there are, and no others."""
    rows = [line.split("|") for line in DOCUMENT.read_text().splitlines() if line.startswith("| `packet")]
    documented = {}
    for row in rows:
        for layer in re.findall(r"`packet\.?(\w*)`", row[1]):
            documented[layer] = set(re.findall(r"`(\w+)`", row[2]))
    text = DOCUMENT.read_text()
    assert documented.pop("") == set(PACKET_ATTRIBUTES)
    assert set(documented) == set(LAYER_ATTRIBUTES)
    for layer, names in LAYER_ATTRIBUTES.items():
        assert documented[layer] == set(names) - {"offset", "payload"}
    assert all(f"packet.{method}(i)" in text for method in METHODS)


def test_records_of_all_types():
    """Fields are numbers or arrays of any size; truth values merge by or, narrow numbers without overflow."""
    kind = dtype_of({"flag": np.bool_, "small": np.uint8, "size": np.float32, "sum": (np.int16, (2, 2))}, "mine")
    records = Records(kind)
    for number in range(3):
        record = records.at(records.new())
        record.flag = number == 1
        record.small = 200
        record.size += 0.5
        record.sum[1, 0] += 30000
    merged = plain(records.merged(None))
    assert merged == {"flag": True, "small": 600, "size": 1.5, "sum": [[0, 0], [90000, 0]]}
    with pytest.raises(AttributeError):
        record.nothing = 1
