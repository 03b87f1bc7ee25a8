"""``wirecap capture`` on a testbed, as a user runs it: signals, limits, pipes, refusals."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import dpkt
import pytest
from pyroute2 import IPRoute

import wirecap
from rig import Wire, flow_frames, until
from wirecap.linux import netlink, netns
from wirecap.traffic import synthetic
from wirecap.traffic.live_frames import LiveFrames

WIRECAP = [sys.executable, "-m", "wirecap"]
ONE_CELL = [
    *(sys.executable, "-P", "-c"),
    "from wirecap.linux import af_xdp as x; x.joins_cells = lambda: False; import wirecap.__main__ as m; m.main()",
]
"""``wirecap`` where the kernel puts each packet into one cell."""


class Running:
    """A capture in the background; made when it says that it captures."""

    def __init__(self, *arguments: str, command: Sequence[str] = (*WIRECAP, "capture"), **options: int) -> None:
        self.process = subprocess.Popen([*command, *arguments], stderr=subprocess.PIPE, text=True, **options)
        assert self.process.stderr
        self.said = []
        for line in self.process.stderr:
            self.said.append(line.rstrip())
            if "capturing on" in line:
                break

    def end(self, number: int) -> list[str]:
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> list[str]:
        assert self.process.stderr
        lines = self.process.stderr.read().splitlines()
        self.process.stderr.close()
        self.process.wait(timeout=60)
        return lines


def send(bed, count: int) -> int:
    """From one CPU, so that the order is kept.  No more than 16,384 are safe while the capture thread stands still."""
    cpu = min(os.sched_getaffinity(0))
    with LiveFrames(bed.nics[0].outside, synthetic.udp(60), sequence_at=42, cpu=cpu) as sender:
        return sender.send(count)


def closing(lines: list[str]) -> list[str]:
    """Without what is said while packets are still handled, where that takes a second."""
    return [line for line in lines if not line.startswith("wirecap: handling ")]


def packets(path: Path) -> list[tuple[float, bytes]]:
    with path.open("rb") as file:
        return list(dpkt.pcap.Reader(file))


@pytest.mark.live
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_ends_with_everything_written(testbed, tmp_path, number):
    """SIGINT, SIGTERM, SIGHUP end a capture with exit status 0, every packet in the file in order, and the counters."""
    bed = testbed(queues=4)
    out, summary = tmp_path / "out.pcap", tmp_path / "summary.json"
    capture = Running("--netns", bed.name, "-i", bed.nics[0].inside, "-w", str(out), "--summary-json", str(summary))
    assert send(bed, 15_000) == 15_000
    lines = capture.end(number)
    assert capture.process.returncode == 0, lines
    assert closing(lines) == ["15000 packets captured", "15000 packets received by filter", "0 packets dropped"]
    found = packets(out)
    assert [int.from_bytes(data[42:50], "big") for _, data in found] == list(range(15_000))
    assert [when for when, _ in found] == sorted(when for when, _ in found)
    counted = json.loads(summary.read_text())["packets"]
    assert counted["received"] == counted["delivered"] == counted["written"] == 15_000


@pytest.mark.live
def test_count_ends_by_itself(testbed, tmp_path):
    """-c 5000 ends the capture after exactly so many packets; the rest is named."""
    bed = testbed(queues=4)
    out = tmp_path / "out.pcap"
    capture = Running("--netns", bed.name, "-i", bed.nics[0].inside, "-c", "5000", "-w", str(out))
    sent = send(bed, 20_000)
    lines = capture.wait()
    assert capture.process.returncode == 0
    assert "5000 packets captured" in lines
    assert len(packets(out)) == 5000
    named = sum(int(line.split()[0]) for line in lines if "dropped" in line or "unread" in line)
    received = int(next(line for line in lines if "received by filter" in line).split()[0])
    assert received == 5000 + named <= sent


@pytest.mark.live("tcpdump")
def test_standard_output_feeds_tcpdump(testbed):
    """-w - is a stream that tcpdump reads while the capture runs."""
    bed = testbed(queues=2)
    reader = subprocess.Popen(
        ["tcpdump", "-nr", "-", "-c", "1000"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    capture = Running("--netns", bed.name, "-i", bed.nics[0].inside, "-w", "-", "-P", "-U", stdout=reader.stdin)
    reader.stdin.close()
    send(bed, 1000)
    with reader.stdout:
        shown = reader.stdout.read()
    reader.wait(timeout=60)
    capture.end(signal.SIGINT)
    assert shown.count("UDP") == 1000


@pytest.mark.live
def test_killed_capture_leaves_the_interface_clean(testbed):
    """After kill -9 no XDP program is left, and the next capture works."""
    bed = testbed(queues=2)
    inside = bed.nics[0].inside
    capture = Running("--netns", bed.name, "-i", inside)
    assert netns.call(bed.name, netlink.interface, inside).xdp_mode == "native"
    capture.end(signal.SIGKILL)
    until(lambda: netns.call(bed.name, netlink.interface, inside).xdp_mode == "")

    def begun() -> Running | None:
        """A capture that began: the kernel takes its time to let go of the queue."""
        next_one = Running("--netns", bed.name, "-i", inside, "-c", "100")
        if "capturing on" in next_one.said[-1]:
            return next_one
        next_one.wait()
        return None

    again = until(begun, 60)
    send(bed, 100)
    assert "100 packets captured" in again.wait()


@pytest.mark.live
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (["-i", "{inside}@7"], "no queue 7"),
        (["-i", "{inside}x"], "did you mean {inside}"),
        (["-i", "{inside}", "-M", "65536", "-R", "900000"], "largest R"),
        (["-i", "{inside}", "-w", "/nonexistent/x.pcap"], "/nonexistent/x.pcap"),
        (["-i", "{inside}", "tcp prt 80"], "column 5"),
        (["-i", "{inside}", "--handler", "nosuch"], "count"),
        (["-i", "{inside}", "--handler", "pkt_handler:rate=0"], "the rate must be above 0"),
        (["-i", "{inside}@0", "--mode", "advanced", "--buddies", "{inside}@0-1"], "queue 1 is not captured"),
        (["-i", "{inside}", "--summary-json", "/nonexistent/x.json"], "no such folder"),
        (["-i", "{inside}", "--decisions", "/"], "is a directory"),
    ],
)
def test_refusals_are_one_line(testbed, change, says):
    """What cannot be captured is refused with exit status 2, one line and a hint, and nothing stays attached."""
    bed = testbed(queues=2)
    inside = bed.nics[0].inside
    arguments = [part.format(inside=inside) for part in change]
    done = subprocess.run(
        [*WIRECAP, "capture", "-q", "--netns", bed.name, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert says.format(inside=inside) in done.stderr
    assert netns.call(bed.name, netlink.interface, inside).xdp_mode == ""


@pytest.mark.live
def test_interface_in_use_is_refused(testbed):
    """An interface with an address is refused in words that name --take-over, and taken with it."""
    from pyroute2 import IPRoute

    bed = testbed(queues=2)
    inside = bed.nics[0].inside

    def give_address() -> None:
        with IPRoute() as route:
            index = route.link_lookup(ifname=inside)[0]
            route.addr("add", index=index, address="192.0.2.1", prefixlen=24)

    netns.call(bed.name, give_address)
    command = [*WIRECAP, "capture", "--netns", bed.name, "-i", inside, "--duration", "100ms", "--engine", "xdp"]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode == 2
    assert "--take-over" in refused.stderr
    taken = subprocess.run([*command, "--take-over"], capture_output=True, text=True, timeout=60, check=False)
    assert taken.returncode == 0, taken.stderr


@pytest.mark.live
def test_a_capture_that_is_refused_leaves_the_file_alone(testbed, tmp_path):
    """A second capture by the same command line neither starts nor empties the first one's file."""
    bed = testbed(queues=2)
    out = tmp_path / "out.pcap"
    arguments = ("--netns", bed.name, "-i", bed.nics[0].inside, "--engine", "xdp", "-w", str(out))
    capture = Running(*arguments)
    send(bed, 1000)
    second = subprocess.run([*WIRECAP, "capture", *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 2
    assert "another AF_XDP socket has the queue" in second.stderr
    assert "1000 packets captured" in capture.end(signal.SIGINT)
    assert len(packets(out)) == 1000


@pytest.mark.live
def test_alternative_names_are_seen_through(testbed):
    """An interface's alternative name is the same interface: it is not captured twice."""
    bed = testbed(queues=2)
    inside = bed.nics[0].inside
    netns.call(bed.name, alternative_name, inside, "left-port")
    command = [*WIRECAP, "capture", "--netns", bed.name, "-i", "left-port", "--engine", "packet", "-i", inside]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode == 2
    assert f"{inside} is captured twice" in refused.stderr


def alternative_name(name, other):
    with IPRoute() as netlink_:
        netlink_.link("property_add", index=netlink.interface(name).index, altname=other)


@pytest.mark.live
def test_what_is_taken_names_who_has_it(testbed, tmp_path):
    """A queue, an output file: the second capture is refused with the first's process; packets that the first one's XDP
    program takes are announced as missing by the packet engine."""
    bed = testbed(queues=1)
    inside, out = bed.nics[0].inside, tmp_path / "out.pcap"
    first = Running("--netns", bed.name, "-i", inside, "--engine", "xdp", "-w", str(out))
    owner = f"(process {first.process.pid})"

    def second(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*WIRECAP, "capture", "--netns", bed.name, "-i", inside, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    busy = second("--engine", "xdp")
    assert busy.returncode == 2
    assert "another AF_XDP socket has the queue: stop its owner" in busy.stderr
    assert owner in busy.stderr
    blind = second("--engine", "packet", "--duration", "100ms")
    assert blind.returncode == 0
    assert re.search(rf"{inside} has an XDP program, of .*{re.escape(owner)}: packets that it takes", blind.stderr)
    everywhere = second("--engine", "packet", "-i", "any", "--duration", "100ms")
    assert f"{inside} has an XDP program" in everywhere.stderr
    writer = second("--engine", "packet", "-w", str(out))
    assert writer.returncode == 2
    assert f"{out}: " in writer.stderr
    assert owner in writer.stderr
    send(bed, 1000)
    assert "1000 packets captured" in first.end(signal.SIGINT)
    assert len(packets(out)) == 1000
    assert "XDP program" not in second("--engine", "packet", "--duration", "100ms", "-w", str(out)).stderr


@pytest.mark.live
@pytest.mark.parametrize(("engine", "named", "grouped"), [("xdp", 1, 0), ("packet", 0, 1)])
def test_alternative_names(testbed, engine, named, grouped):
    """An interface is found by its alternative names too, however long they are, and buddy groups by either name."""
    bed = testbed(queues=2)
    inside, names = bed.nics[0].inside, ("uplink0", "uplink-of-the-second-rack-port-17")
    for name in names:
        netns.call(bed.name, alternative_name, inside, name)
    groups = ("--mode", "advanced", "--buddies", f"{names[grouped]}@0-1")
    capture = Running("--netns", bed.name, "-i", names[named], "--engine", engine, *groups)
    assert f"capturing on {inside}: 2 queues" in capture.said[-1]
    with Wire(bed.nics[0].outside) as wire:
        wire.send(flow_frames(100))
    assert "100 packets captured" in capture.end(signal.SIGINT)
    with wirecap.open(names[1], netns=bed.name, engine=engine) as opened:
        assert opened.summary()["per_queue"][0]["interface"] == inside
    with pytest.raises(wirecap.UsageError, match=f"use --netns {bed.name}"):
        netlink.interface(names[1])


@pytest.mark.live
def test_advanced_mode_on_one_queue(testbed):
    """Advanced mode says so where there is nobody to offload to: one queue, or each alone in its group."""
    bed = testbed(queues=2)
    inside = bed.nics[0].inside
    base = [*WIRECAP, "capture", "--netns", bed.name, "--duration", "50ms", "--mode", "advanced"]
    for more, says in [
        (["-i", f"{inside}@0"], "nobody to offload to: there is only one queue"),
        (["-i", inside, "--buddies", f"{inside}@0"], "nobody to offload to: each queue is alone in its buddy group"),
        (["-i", inside, "-w", "/dev/null"], "nobody to offload to: one writer takes the chunks of all queues"),
        (["-i", inside], ""),
    ]:
        done = subprocess.run([*base, *more], capture_output=True, text=True, timeout=60, check=True)
        assert says in done.stderr
        assert ("nobody to offload to" in done.stderr) == bool(says)


@pytest.mark.live
def test_a_warning_recommends_what_the_command_takes(testbed):
    """Where frames do not fit a cell, what the warning says to add is taken by the same command line."""
    bed = testbed(queues=1, mtu=9000)
    inside, outside = bed.nics[0].inside, bed.nics[0].outside
    auto = [*ONE_CELL, "capture", "--netns", bed.name, "-i", inside, "--duration", "50ms"]
    capture = [*auto, "--engine", "xdp"]
    for base, takes in [
        (capture, True),
        ([*capture, "--kernel-filter", "drop", "udp"], False),
        ([*ONE_CELL, "forward", outside, "lo", "--take-over", "--duration", "50ms"], False),
    ]:
        done = subprocess.run(base, capture_output=True, text=True, timeout=100, check=False)
        assert "frames of more than 1,792 bytes will be dropped as oversize (" in done.stderr
        assert ("--engine packet" in done.stderr) == takes
        other = [word for word in base if word not in ("--engine", "xdp")]
        again = subprocess.run([*other, "--engine", "packet"], capture_output=True, text=True, timeout=100, check=False)
        assert (again.returncode == 0) == takes, again.stderr
    done = subprocess.run(auto, capture_output=True, text=True, timeout=100, check=False)
    assert f"{inside}: --engine packet, because AF_XDP takes frames of up to 1,792 bytes on this kernel" in done.stderr
    assert "engine packet (" in done.stderr
    jumbo = Running("--netns", bed.name, "-i", inside, "-v", "--engine", "xdp", command=[*ONE_CELL, "capture"])
    with Wire(outside) as wire:
        wire.send([synthetic.udp(8942)])
    lines = jumbo.end(signal.SIGINT)
    remedy = f"use --engine packet, or ip link set {inside} mtu 1778"
    assert any(line.endswith(f"({remedy})") for line in lines)
    assert f"1 packet dropped: oversize: longer than a cell; {remedy}" in lines


def wait_for(path: Path, process: subprocess.Popen[str]) -> str:
    """What a script reads that waits for ``--ready-file``."""
    until(lambda: process.poll() is not None or path.exists(), 100)
    return path.read_text()


def first_line(path: Path) -> str:
    with path.open() as file:
        return file.readline()


@pytest.mark.live
def test_readiness_of_a_quiet_capture(testbed, tmp_path):
    """With -q, too, a script learns when packets are captured: from a file, a FIFO, and as systemd does."""
    bed = testbed(queues=1)
    ready, fifo = tmp_path / "ready", tmp_path / "fifo"
    ready.write_text("4711\n")  # of yesterday
    os.mkfifo(fifo)
    base = [*WIRECAP, "capture", "-q", "--netns", bed.name, "-i", bed.nics[0].inside]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(100)
        environment = os.environ | {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        for place in (ready, fifo):
            command = [*base, "--ready-file", str(place)]
            capture = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
            while (told := manager.recv(100)) != b"READY=1":
                assert told.startswith((b"STOPPING=1\n", b"STATUS="))  # of the one before
            said = wait_for(place, capture) if place is ready else first_line(place)
            assert said == f"{capture.pid}\n"
            send(bed, 100)
            capture.send_signal(signal.SIGTERM)
            errors = capture.communicate(timeout=60)[1]
            assert errors.splitlines()[0] == "100 packets captured"
    assert not ready.exists()
    assert fifo.is_fifo()
    refused = subprocess.run([*base, "--ready-file", "/"], capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode == 2
    assert "--ready-file /: Is a directory" in refused.stderr
