"""The whole way, live: real traffic through a testbed into files, as tshark, tcpdump and users see them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from rig import (
    LiveRig,
    Wire,
    check_identity,
    flow_frames,
    number_of,
    read_pcap,
    read_pcapng,
    time_limit,
    until,
)
from wirecap.cli import main
from wirecap.config.capture import PoolConfig, WriteConfig
from wirecap.lab import process
from wirecap.lab import testbed as lab
from wirecap.linux import netlink, netns
from wirecap.source.xdp import XdpSource
from wirecap.traffic import synthetic
from wirecap.traffic.live_frames import LiveFrames, taken_by

__all__ = ["time_limit"]

WIRECAP = [sys.executable, "-m", "wirecap", "capture"]
MTU = 3498
"""The most that a veth takes while its other end has an XDP program: a page less headroom and skb_shared_info."""


def capture(*arguments: str, **options: object) -> process.Child:
    """wirecap capture in the background, ready."""
    child = process.Child([*WIRECAP, *arguments], **options)
    child.wait_for("capturing on", 60)
    return child


@pytest.mark.live("tcpreplay", "tcpdump", "tshark")
@pytest.mark.parametrize(
    ("mode", "expression"),
    [("native", ""), ("generic", ""), ("native", "udp or ip[2:2] < 66"), ("generic", "tcp[13] & 8 != 0")],
)
def test_real_trace(testbed, mixed_trace, tmp_path, mode, expression):
    """A real trace, replayed into four queues, is in the file: byte for byte, in time order; of a filter's packets
    those that tcpdump finds in the trace."""
    bed = testbed(queues=4, mtu=MTU)
    out, summary = tmp_path / "out.pcapng", tmp_path / "summary.json"
    child = capture(
        "--netns", bed.name, "-i", bed.nics[0].inside, "--cell", "4096", "-R", "200", "-w", str(out),
        "--xdp-mode", mode, "--summary-json", str(summary), expression,
    )  # fmt: skip
    with child:
        command = ["tcpreplay", "--mbps", "300", "-i", bed.nics[0].outside, str(mixed_trace)]
        replay = process.run(command, cpus={min(os.sched_getaffinity(0))})  # on one, where they stay in order
        assert replay.status == 0, replay.output
        due = int(re.search(r"Successful packets:\s+(\d+)", replay.output)[1])
        until(lambda: lab.received(bed.nics[0].inside, bed.name) == due)
        ended = child.end(signal.SIGINT)
    assert ended.status == 0, ended.output
    wanted = tmp_path / "wanted.pcap"
    subprocess.run(["tcpdump", "-r", str(mixed_trace), "-w", str(wanted), expression], capture_output=True, check=True)
    sent = [packet.data for packet in read_pcap(wanted) if len(packet.data) <= MTU + 14]
    found = read_pcapng(out)
    assert sorted(packet.data for packet in found) == sorted(sent)
    timestamps = [packet.timestamp for packet in found]
    assert timestamps == sorted(timestamps)
    told = json.loads(summary.read_text())
    assert told["packets"]["received"] - told["packets"]["filtered_out"] == told["packets"]["written"] == len(sent)
    assert bool(told["packets"]["filtered_out"]) == bool(expression)
    assert told["packets"]["drops"] == {}
    if mode == "native":  # without NAPI a veth tells nobody its queue
        assert min(row["received"] for row in told["per_queue"]) > 0
    shown = subprocess.run(
        ["tshark", "-r", out, "-T", "fields", "-e", "frame.time_epoch", "-e", "frame.len"],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    lines = [line.split("\t") for line in shown.stdout.splitlines()]
    assert [int(length) for _, length in lines] == [len(packet.data) for packet in found]
    times = [when for when, _ in lines]
    assert times == sorted(times)


@pytest.mark.live("mount", "umount")
def test_full_disk(testbed, tmp_path):
    """A full file system ends the capture with one line and exit status 1; the file has whole packets, all counted."""
    bed = testbed(queues=2)
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True, timeout=60)
    try:
        out, summary = folder / "out.pcap", tmp_path / "summary.json"
        with capture(
            "--netns", bed.name, "-i", bed.nics[0].inside, "-w", str(out), "--summary-json", str(summary)
        ) as child:
            with LiveFrames(bed.nics[0].outside, synthetic.udp(1000), sequence_at=42) as sender:
                sent = sender.send(5_000)
            ended = child.end(None)
        packets = read_pcap(out)
    finally:
        subprocess.run(["umount", folder], check=True, timeout=60)
    assert ended.status == 1
    errors = [line for line in ended.output.splitlines() if line.startswith("wirecap: ") and "capturing" not in line]
    assert len(errors) == 1
    assert "No space left" in errors[0]
    assert f"{len(packets)} packets were written" in errors[0]
    counted = json.loads(summary.read_text())["packets"]
    assert counted["written"] == len(packets) > 900
    assert [number_of(packet.data) for packet in packets] == list(range(len(packets)))
    assert counted["received"] == counted["delivered"] + counted["dropped"] <= sent
    assert sum(counted["drops"].values()) == counted["dropped"]
    assert "unaccounted" not in counted["drops"]


@pytest.mark.live
def test_without_privileges(testbed):
    """Who may not capture is told in one line what it takes, exit status 2."""
    bed = testbed(queues=1)
    script = (
        "import os, sys\n"
        "from wirecap.cli.main import run\n"
        "import wirecap.cli.capture, wirecap.api, wirecap.run, pyroute2\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "os.environ['HOME'] = '/tmp'\n"
        f"sys.exit(run(['capture', '-q', '-i', {bed.nics[0].outside!r}]))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "CAP_" in done.stderr or "root" in done.stderr
    assert netlink.interface(bed.nics[0].outside).xdp_mode == ""


@pytest.mark.live
def test_deleted_interface_on_the_command_line(testbed, tmp_path):
    """When its interface goes away a capture ends by itself: one line, exit status 1, what it had is kept."""
    bed = testbed(queues=2)
    out = tmp_path / "out.pcap"
    with capture("--netns", bed.name, "-i", bed.nics[0].inside, "-w", str(out)) as child:
        with Wire(bed.nics[0].outside) as wire:
            wire.send(flow_frames(100))
        until(lambda: lab.received(bed.nics[0].inside, bed.name) == 100)
        subprocess.run(["ip", "link", "del", bed.nics[0].outside], check=True, timeout=60)
        ended = child.end(None)
    assert ended.status == 1, ended.output
    assert "Traceback" not in ended.output
    assert f"wirecap: {bed.nics[0].inside}" in ended.output
    assert sorted(number_of(packet.data) for packet in read_pcap(out)) == list(range(100))


@pytest.mark.live
def test_an_interface_that_goes_at_once(testbed, monkeypatch, capfd):
    """It is told as one that has gone, also where that is seen first by what looks for warnings."""
    bed = testbed(queues=1)
    looks = XdpSource.warnings

    def late(source):
        subprocess.run(["ip", "link", "del", bed.nics[0].inside], check=True, timeout=60)  # its namespace is ours
        return looks(source)

    monkeypatch.setattr(XdpSource, "warnings", late)
    assert main.run(["capture", "--netns", bed.name, "-i", bed.nics[0].inside]) == 1
    assert f"wirecap: {bed.nics[0].inside} is gone" in capfd.readouterr().err


@pytest.mark.live
def test_handler_that_hangs_can_be_ended(testbed):
    """A third Ctrl-C ends also a capture whose handler does not return; the interface is clean then."""
    bed = testbed(queues=1)
    inside = bed.nics[0].inside
    with capture("--netns", bed.name, "-i", inside, "--handler", "pkt_handler:rate=1") as child:
        with Wire(bed.nics[0].outside) as wire:
            wire.send(flow_frames(300))
        until(lambda: lab.received(bed.nics[0].inside, bed.name) >= 300)
        for _ in range(3):
            assert child.running
            os.kill(child.pid, signal.SIGINT)
            time.sleep(0.3)

        def ended_at_last():
            """A signal that comes before the one before it was seen is none: the third may be yet to come."""
            if child.running:
                os.kill(child.pid, signal.SIGINT)
                time.sleep(0.3)
            return not child.running

        until(ended_at_last)
        ended = child.end(None)
    assert ended.status == -signal.SIGINT
    until(lambda: netns.call(bed.name, netlink.interface, inside).xdp_mode == "")


@pytest.mark.live
def test_second_interrupt_gives_up_what_is_left(testbed, tmp_path):
    """The first Ctrl-C waits for the handlers, a second one ends at once and names what was not read."""
    bed = testbed(queues=1)
    summary = tmp_path / "summary.json"
    with capture(
        "--netns", bed.name, "-i", bed.nics[0].inside, "--handler", "pkt_handler:rate=100",
        "--summary-json", str(summary),
    ) as child:  # fmt: skip
        with LiveFrames(bed.nics[0].outside, synthetic.udp(60)) as sender:
            sent = sender.send(10_000)  # no more than lie attached while the capture thread gets no CPU
        until(lambda: lab.received(bed.nics[0].inside, bed.name) >= sent)
        os.kill(child.pid, signal.SIGINT)
        child.wait_for(r"handling \d+ packets that were captured")
        assert child.running
        ended = child.end(signal.SIGINT)
    assert ended.status == 0, ended.output
    counted = json.loads(summary.read_text())["packets"]
    assert counted["received"] == sent == counted["delivered"] + counted["drops"]["unread_at_stop"]
    assert set(counted["drops"]) == {"unread_at_stop"}
    assert counted["delivered"] < 5_000


@pytest.mark.live
@pytest.mark.parametrize("per_queue", [False, True])
def test_rotation_under_load(testbed, tmp_path, per_queue):
    """Over many files at full speed each packet stands exactly once, and each file is in time order."""
    bed = testbed(queues=2)
    count = 60_000
    write = WriteConfig(path=str(tmp_path / "out"), ring_packets=1777, per_queue=per_queue)
    cpus, piece = sorted(os.sched_getaffinity(0))[:2], 6_000
    total = count * len(cpus)
    with LiveRig(bed, write=write, pool=PoolConfig(256, 200)) as rig:
        senders = [
            LiveFrames(bed.nics[0].outside, synthetic.udp(60), sequence_at=42, first=10 * count * i, cpu=cpu)
            for i, cpu in enumerate(cpus)
        ]
        sent, before = 0, taken_by(bed.nics[0].outside)
        while sent < total:  # as many at once as are attached, so that a capture thread without a CPU loses none
            threads = [threading.Thread(target=sender.send_paced, args=(piece, 200_000)) for sender in senders]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            sent = taken_by(bed.nics[0].outside) - before
            rig.done(sent)
        for sender in senders:
            sender.close()
        rig.stop()
        check_identity(rig.engine, received=sent)
        assert rig.drops() == {}
        assert rig.application.writer.packets_written == sent
        late = rig.application.writer.late
    files = [read_pcapng(path) for path in tmp_path.iterdir()]
    assert len(files) > total // 1777
    numbers = [number_of(packet.data) for file in files for packet in file]
    assert len(numbers) == len(set(numbers)) == sent
    behind = 0
    for file in files:
        assert len(file) <= 1777
        timestamps = np.array([packet.timestamp for packet in file])
        behind += int((timestamps < np.maximum.accumulate(timestamps)).sum())
    assert behind <= late  # a machine that stands still between a packet's time and its place in the ring makes some so
