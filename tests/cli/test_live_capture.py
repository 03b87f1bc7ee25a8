"""``wirecap capture`` on a testbed, as a user runs it: signals, limits, pipes, refusals."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import dpkt
import pytest
from pyroute2 import IPRoute

from wirecap.linux import netlink, netns
from wirecap.traffic import frames
from wirecap.traffic.liveframes import LiveFrames

WIRECAP = [sys.executable, "-m", "wirecap"]


class Running:
    """A capture in the background; made when it says that it captures."""

    def __init__(self, *arguments: str, **options: int) -> None:
        self.process = subprocess.Popen([*WIRECAP, "capture", *arguments], stderr=subprocess.PIPE, text=True, **options)
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
    with LiveFrames(bed.nics[0].outside, frames.udp(60), sequence_at=42) as sender:
        return sender.send(count)


def packets(path: Path) -> list[tuple[float, bytes]]:
    with path.open("rb") as file:
        return list(dpkt.pcap.Reader(file))


@pytest.mark.live
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_ends_with_everything_written(testbed, tmp_path, number):
    """SIGINT, SIGTERM, SIGHUP end a capture with exit status 0, every packet in the file in order, and the counters."""
    if signal.getsignal(number) == signal.SIG_IGN:
        pytest.skip("nohup: the signal is ignored")
    bed = testbed(queues=4)
    out, summary = tmp_path / "out.pcap", tmp_path / "summary.json"
    capture = Running("--netns", bed.name, "-i", bed.nics[0].inside, "-w", str(out), "--summary-json", str(summary))
    assert send(bed, 20_000) == 20_000
    lines = capture.end(number)
    assert capture.process.returncode == 0, lines
    assert lines == ["20000 packets captured", "20000 packets received by filter", "0 packets dropped"]
    found = packets(out)
    assert [int.from_bytes(data[42:50], "big") for _, data in found] == list(range(20_000))
    assert [when for when, _ in found] == sorted(when for when, _ in found)
    counted = json.loads(summary.read_text())["packets"]
    assert counted["received"] == counted["delivered"] == counted["written"] == 20_000


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
    reader.wait(timeout=30)
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
    assert netns.call(bed.name, netlink.interface, inside).xdp_mode == ""
    again = Running("--netns", bed.name, "-i", inside, "-c", "100")
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
        (["-i", "{inside}", "--handler", "pkt_handler:rate=0"], "rate of 0"),
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
@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--engine", "packet", "-i", "{inside}"], "{inside} is captured twice"),
        (["--mode", "advanced", "--buddies", "left-port"], "name {inside}"),
    ],
)
def test_alternative_names_are_seen_through(testbed, more, says):
    """An interface's alternative name is the same interface: it is not captured twice, and no buddy group is empty."""
    bed = testbed(queues=2)
    inside = bed.nics[0].inside
    netns.call(bed.name, alternative_name, inside, "left-port")
    command = [*WIRECAP, "capture", "--netns", bed.name, "-i", "left-port"]
    refused = subprocess.run(
        [*command, *(text.format(inside=inside) for text in more)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert refused.returncode == 2
    assert says.format(inside=inside) in refused.stderr


def alternative_name(name, other):
    with IPRoute() as netlink_:
        netlink_.link("property_add", index=netlink.interface(name).index, altname=other)
