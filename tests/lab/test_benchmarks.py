"""The benchmarks run: small, without judging speed, so that they do not rot."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "bench"


def bench(script: str, *options: str, tmp_path: Path) -> dict[str, object]:
    result = tmp_path / "result.json"
    command = [sys.executable, str(BENCH / script), "--rounds", "1", "--json", str(result), *options]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert result.exists(), done.stderr
    return json.loads(result.read_text())


@pytest.mark.live
def test_count_finds_no_contradiction(tmp_path: Path) -> None:
    """count.py sends what it was told to, and the summary's numbers add up to it."""
    found = bench("count.py", "--packets", "50000", "--peers", "", tmp_path=tmp_path)
    assert [run["tool"] for run in found["runs"]] == ["wirecap", "wirecap -j host_lowprec"]
    for run in found["runs"]:
        assert (run["sent"], run["faults"]) == (50_000, [])
        assert run["delivered"] + run["dropped"] == 50_000
    assert found["failed"] == []


def test_convert_writes_the_packets_that_editcap_writes(tmp_path: Path) -> None:
    """convert.py finds as many packets in our file as in editcap's, by capinfos."""
    for tool in ("editcap", "capinfos"):
        if not shutil.which(tool):
            pytest.skip(f"{tool} is not installed")
    options = ("--packets", "5000", "--inputs", "small", "--jobs", "-D 5", "--folder", str(tmp_path))
    found = bench("convert.py", *options, tmp_path=tmp_path)
    assert found["failed"] == []
    assert [run["packets"] for run in found["runs"]] == [5000]


def test_find_reads_a_hundredth_and_finds_all(tmp_path: Path) -> None:
    """find.py finds a connection in 50 MB as a full scan does; the index is a hundredth of the archive at most."""
    options = ("--size", "50MB", "--file", "25MB", "--connections", "1", "--check", "--copy", "25MB", "--copies", "1")
    found = bench("find.py", *options, "--folder", str(tmp_path), tmp_path=tmp_path)
    (one,) = found["searches"]
    assert one["same"]
    assert one["packets"] >= 5
    assert one["blocks"]["read"] < one["blocks"]["indexed"] / 4
    assert found["index_bytes"] < found["archive_bytes"] / 100


@pytest.mark.live("capinfos", "tcpdump")
def test_write_counts_the_packets_in_the_files(tmp_path: Path) -> None:
    """write.py finds in each program's file, by capinfos, what that program reported."""
    options = ("--packets", "20000", "--paced", "20000", "--rate", "100000", "--peers", "tcpdump")
    found = bench("write.py", *options, "--folder", str(tmp_path), tmp_path=tmp_path)
    assert found["failed"] == []
    assert {run["tool"] for run in found["runs"]["paced"]} == {"wirecap", "tcpdump"}
    assert list(tmp_path.glob("wcbench-*")) == []


@pytest.mark.live("dd")
def test_disk_accounts_for_large_small_and_compressed_packets(tmp_path: Path) -> None:
    """disk.py: live, large frames reach the file while they are sent, and every packet is written or dropped."""
    options = ("--frames", "30000", "--packets", "30000", "--peers", "", "--folder", str(tmp_path))
    for _ in range(5):  # a writer that stands still meanwhile has nothing in the file when all is sent
        found = bench("disk.py", *options, tmp_path=tmp_path)
        assert found["failed"] == []
        (one,) = found["runs"]["disk"]
        if one["live"]["bytes_per_s"] and one["paced"]["bytes_per_s"]:
            break
    for run in (one["live"], one["paced"]):
        assert run["sent"] == 30_000 > run["dropped"]
        assert run["bytes_per_s"] > 0
    assert min(one[name] for name in ("dd", "buffers", "copy")) > 0
    for kind in ("small", "compressed"):
        assert [run["delivered"] + run["dropped"] for run in found["runs"][kind]] == [30_000]
    assert list(tmp_path.glob("wcbench-*")) == []


@pytest.mark.live("ping", "iperf3")
def test_latency_times_every_packet(tmp_path: Path) -> None:
    """latency.py times each packet that it sends, to a handler and through a forwarder; hosts reach each other."""
    options = ("--rates", "2k", "--duration", "1", "--peers", "", "--pings", "5")
    found = bench("latency.py", *options, tmp_path=tmp_path)
    (delivered,), (forwarded,) = found["delivery"], found["forward"]
    assert delivered["packets"] == forwarded["packets"] == 2000
    assert {run["tool"] for run in found["hosts"]} == {"wirecap", "bridge"}
    assert min(run[name] for run in found["hosts"] for name in ("p50_ms", "tcp_bps", "udp_bps")) > 0


@pytest.mark.live("tcpdump", "nc")
def test_serve_counts_every_packet(tmp_path: Path) -> None:
    """serve.py: each way once, and what a client did not get has a name."""
    options = ("--packets", "2000", "--rate", "20kpps", "--rounds", "1", "--ways", "nobody,1 client")
    found = bench("serve.py", *options, tmp_path=tmp_path)
    nobody, one, peer = found["runs"]
    assert (nobody["way"], nobody["clients"], len(one["clients"])) == ("nobody", [], 1)
    assert peer["way"] == "tcpdump | nc"
    assert {run["sent"] for run in found["runs"]} == {2000}
    assert one["clients"][0] + sum(one["drops"].values()) >= one["captured"] > 0


@pytest.mark.live
def test_busy_poll_counts_what_was_sent(tmp_path: Path) -> None:
    """busy_poll.py tells what the interface did not take from what was lost behind it, for both ways."""
    options = ("--rates", "20kpps", "--duration", "0.2")
    found = bench("busy_poll.py", *options, tmp_path=tmp_path)
    assert [run["way"].startswith("--busy-poll") for run in found["runs"]] == [False, True]
    for run in found["runs"]:
        assert run["delivered"] <= run["taken"] <= run["sent"]
        assert run["sent"] >= 4000
    assert found["failed"] == []


@pytest.mark.live
def test_watching_measures_both_sides(tmp_path: Path) -> None:
    """watching.py finds the thread that publishes, and what top takes."""
    [found] = bench("watching.py", "--seconds", "0.5", "--captures", "1", tmp_path=tmp_path)
    assert set(found) == {"top", "publisher"}
    assert min(found.values()) >= 0


@pytest.mark.live
def test_stamps_proves_every_packet(tmp_path: Path) -> None:
    """stamps.py has a second reading of the clock for each packet; after a pause it is next to the timestamp."""
    options = ("--rates", "500,full", "--duration", "0.5", "--packets", "10000", "--kinds", "host")
    for _ in range(5):  # a sender that stood still makes up for that without pauses
        found = bench("stamps.py", *options, tmp_path=tmp_path)
        quiet, full = found["runs"]
        assert found["failed"] == []
        if quiet["pauses"] > 20:
            break
    assert (quiet["packets"], full["packets"]) == (quiet["summary"]["packets"]["delivered"], 10_000)
    assert quiet["pauses"] > 20
    assert 0 < quiet["after_pause_p50_us"] < 5
    assert full["least_step_ns"] == 1
