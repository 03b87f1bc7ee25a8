"""``wirecap capture --print`` beside ``tcpdump -r`` on the same packets, and what becomes of a printer's faults."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from rig import PCAP_HEADER, pcap_records, until
from wirecap.cli import main
from wirecap.config import printing
from wirecap.config.printing import PrintConfig
from wirecap.handlers import printer
from wirecap.lab.process import find
from wirecap.linux import netns, privileges
from wirecap.traffic import synthetic
from wirecap.traffic.live_frames import LiveFrames

WIRECAP = [sys.executable, "-m", "wirecap"]

COUNT = 55


def tcpdump(*arguments: str) -> str:
    """What tcpdump prints."""
    program = find("tcpdump") or pytest.skip("needs tcpdump")
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=True, timeout=100).stdout


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "in.pcap"
    path.write_bytes(PCAP_HEADER + pcap_records(COUNT))
    return path


@pytest.fixture
def ours(capfd):
    """What the command prints on the standard output, and its exit status."""

    def run(*arguments: str) -> tuple[str, int]:
        status = main.run(["capture", *arguments])
        return capfd.readouterr().out, status

    return run


def only(monkeypatch, *programs: str) -> None:
    """Let no other programs be installed."""
    for program in programs:
        if not find(program):
            pytest.skip(f"needs {program}")
    monkeypatch.setattr(printing, "PROGRAMS", programs)


def test_the_mixed_trace_is_printed_as_tcpdump_prints_the_file_written(mixed_trace, tmp_path, ours):
    """With a filter, a snap length and both outputs at once, the lines are those of tcpdump -r, byte for byte."""
    options = ["-n", "-e", "-vv", "-X", "-tttt"]
    written = tmp_path / "out.pcapng"
    taken = ["-r", str(mixed_trace), "-s", "90", "-c", "4000", "-w", str(written), "--print"]
    assert ours(*taken, *options, "not arp") == (tcpdump("-r", str(written), *options), 0)
    assert ours("-r", str(mixed_trace), "-#nS", "vlan or ip6") == (
        tcpdump("-r", str(mixed_trace), "-#nS", "vlan or ip6"), 0
    )  # fmt: skip


@pytest.mark.parametrize(
    "options",
    ["-n", "-nn -x", "-n -xx", "-n -XX", "-n -A", "-n -t", "-n -tt", "-n -ttt", "-n -ttttt", "-n -vvv", "-n -q -K",
     "-n --nano -N", "-l -n -e -u", "--number -n", "-n -H -S"],
)  # fmt: skip
def test_options_are_tcpdumps(trace, ours, options):
    """Each option that formats packets prints what tcpdump prints."""
    assert ours("-r", str(trace), "--print", *options.split()) == (tcpdump("-r", str(trace), *options.split()), 0)


def test_what_formats_packets_prints_them_unless_they_are_written(trace, tmp_path, ours):
    """-X alone prints, as in tcpdump; beside -w it prints nothing, as in tcpdump; -n and -v alone ask for nothing."""
    assert ours("-r", str(trace), "-X", "-n")[0] == tcpdump("-r", str(trace), "-X", "-n") != ""
    assert ours("-r", str(trace), "-X", "-n", "-w", str(tmp_path / "out.pcap")) == ("", 0)
    assert ours("-r", str(trace), "-n", "-v") == ("", 0)


@pytest.mark.parametrize("format", ["pcap", "pcapng"])
def test_files_in_turn_are_printed_as_one(trace, tmp_path, ours, format):
    """A series of files is one stream for the printer."""
    out = str(tmp_path / f"out.{format}")
    shown = ours("-r", str(trace), "--print", "-n", "-w", out, "-b", "packets:10")
    assert shown == (tcpdump("-nr", str(trace)), 0)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-w", "-"], "-w - and --print both use standard output"),
        (["--summary-json", "-"], "--summary-json - and --print both use"),
        (["--count"], "--count and --print both use"),
        (["--per-queue", "-w", "x.pcap"], "--print shows packets in one order"),
        (["-tttttt"], "-tttttt means nothing (give -t up to five times"),
    ],
)
def test_what_cannot_go_together_is_told(trace, capfd, arguments, says):
    """One line, exit status 2."""
    assert main.run(["capture", "-r", str(trace), "--print", *arguments]) == 2
    told = capfd.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    assert says in told.err


def test_without_a_printer_one_line_says_how_to_get_one(trace, capfd, monkeypatch):
    """Neither tcpdump nor tshark: exit status 2, and no file is made or emptied."""
    monkeypatch.setattr(printing, "PROGRAMS", ())
    assert main.run(["capture", "-r", str(trace), "--print"]) == 2
    assert capfd.readouterr().err == (
        "wirecap: tcpdump or tshark prints the packets, and neither is installed"
        " (apt install tcpdump, or dnf install tcpdump)\n"
    )


def test_tshark_prints_where_there_is_no_tcpdump(trace, capfd, monkeypatch):
    """A line for each packet; options that tshark does not have are named."""
    only(monkeypatch, "tshark")
    assert main.run(["capture", "-r", str(trace), "--print", "-n", "-e", "-tt"]) == 0
    told = capfd.readouterr()
    assert len(told.out.splitlines()) == COUNT
    assert "wirecap: tshark prints the packets (tcpdump is not installed), and has nothing for -e\n" in told.err


def test_what_tshark_does_not_have_is_named():
    """It shows a time in any case, and no shorter lines."""
    from wirecap.config.printing import PrintConfig, tshark

    assert tshark(PrintConfig("nqt"), live=False) == (["-t", "a", "-n"], ["-q", "-t"])
    assert tshark(PrintConfig("K#tt"), live=False) == (["-t", "e"], [])


def test_several_link_types_need_tshark(capfd, monkeypatch, tmp_path):
    """tcpdump prints one link type: what it cannot print is told and counted; tshark prints all."""
    path = tmp_path / "two.pcapng"
    interface = "01000000 14000000 {} 0000 00000400 14000000"
    packet = "06000000 30000000 {} 00000000 00000000 0e000000 0e000000" + "00" * 16 + "30000000"
    section = "0a0d0d0a 1c000000 4d3c2b1a 0100 0000 ffffffffffffffff 1c000000"
    blocks = [section, interface.format("0100"), packet.format("00000000"), interface.format("6500"),
              packet.format("01000000")]  # fmt: skip
    path.write_bytes(bytes.fromhex("".join(blocks)))
    with monkeypatch.context() as patch:
        only(patch, "tcpdump")
        summary = tmp_path / "summary.json"
        status = main.run(["capture", "-r", str(path), "--print", "-n", "--summary-json", str(summary)])
        told = capfd.readouterr()
        assert "link type" in told.err
        if status == 0:
            counted = json.loads(summary.read_text())["packets"]
            assert counted["printed"] + sum(counted["not_printed"].values()) == counted["delivered"] == 2
        else:
            assert status == 2
    only(monkeypatch, "tcpdump", "tshark")
    if status == 2:  # both are known before the first packet
        assert main.run(["capture", "-r", str(path), "--print", "-n"]) == 0
        assert len(capfd.readouterr().out.splitlines()) == 2


def test_a_reader_that_has_enough_ends_it_quietly(mixed_trace, tmp_path):
    """| head: exit status 0, no message beside the counters, as tcpdump ends."""
    find("tcpdump") or pytest.skip("needs tcpdump")
    command = [*WIRECAP, "capture", "-q", "-r", str(mixed_trace), "-n", "-XX"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline()
        process.stdout.close()
        lines = process.stderr.read().splitlines()
        assert process.wait(timeout=60) == 0
    assert all(line.split()[1] == "packets" for line in lines), lines


class Live:
    """A capture of a testbed's NIC that prints into a file, in its own process group as in a shell."""

    def __init__(self, bed, folder: Path, *arguments: str, path: str | None = None) -> None:
        self.ready, self.shown, self.summary = folder / "ready", folder / "shown", folder / "summary.json"
        environment = os.environ | ({"PATH": path} if path else {})
        with self.shown.open("wb") as shown:
            self.process = subprocess.Popen(
                [*WIRECAP, "capture", "--netns", bed.name, "-i", bed.nics[0].inside, "--print", "-ne", "--ready-file",
                 str(self.ready), "--summary-json", str(self.summary), *arguments],
                stdout=shown, stderr=subprocess.PIPE, text=True, process_group=0, env=environment,
            )  # fmt: skip
        until(self.ready.exists, 100)

    def captured(self, number: int) -> bool:
        """Whether so many packets have gone to the file and the printer: SIGUSR1 prints the counters so far."""
        self.process.send_signal(signal.SIGUSR1)
        return next(line for line in self.process.stderr if "captured so far" in line).startswith(f"{number} ")

    def interrupt(self) -> None:
        os.killpg(self.process.pid, signal.SIGINT)

    def end(self, status: int = 0) -> list[str]:
        lines = self.process.stderr.read().splitlines()
        self.process.stderr.close()
        assert self.process.wait(timeout=60) == status, lines
        return lines

    def counted(self) -> dict:
        found = json.loads(self.summary.read_text())["packets"]
        assert found["printed"] + sum(found["not_printed"].values()) == found["delivered"]
        return found

    def lines(self) -> int:
        return self.shown.read_bytes().count(b"\n")


def send(bed, count: int, size: int = 60) -> None:
    """No more than 16,384 are safe while the capture thread stands still."""
    cpu = min(os.sched_getaffinity(0))
    with LiveFrames(bed.nics[0].outside, synthetic.udp(size), sequence_at=42, cpu=cpu) as sender:
        assert sender.send(count) == count


@pytest.mark.live("tcpdump")
def test_live_packets_are_printed_at_once_and_as_they_are_written(testbed, tmp_path):
    """Lines appear while the capture runs; Ctrl-C prints the rest; all as tcpdump -r prints the file, VLAN tags too."""
    bed = testbed(queues=2)
    out = tmp_path / "out.pcapng"
    capture = Live(bed, tmp_path, "-w", str(out), "-s", "60")
    tagged = synthetic.udp(200)
    tagged = tagged[:12] + bytes.fromhex("81000007") + tagged[12:]
    with LiveFrames(bed.nics[0].outside, tagged) as sender:
        sender.send(1)
    until(lambda: "vlan 7" in capture.shown.read_text())
    send(bed, 2000)
    capture.interrupt()
    assert capture.end()[-3:] == ["2001 packets captured", "2001 packets received by filter", "0 packets dropped"]
    assert capture.counted()["printed"] == 2001
    assert capture.shown.read_text() == tcpdump("-ner", str(out))


@pytest.mark.live("tcpdump")
def test_a_printer_that_is_too_slow_costs_no_packet(testbed, tmp_path):
    """What it cannot take is skipped and counted; it prints the rest before the closing lines; -w has everything."""
    bed = testbed(queues=2)
    go, fake = tmp_path / "go", tmp_path / "bin" / "tcpdump"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\nwhile ! [ -e {go} ]; do sleep 0.05; done\nexec {find("tcpdump")} "$@"\n')
    fake.chmod(0o755)
    capture = Live(bed, tmp_path, "-w", str(tmp_path / "out.pcap"), path=f"{fake.parent}:{os.environ['PATH']}")
    for sent in (10_000, 20_000):  # the pool holds them all, the buffer a fifth
        send(bed, 10_000, 1500)
        until(lambda sent=sent: capture.captured(sent))
    capture.interrupt()
    go.touch()
    lines = capture.end()
    counted = capture.counted()
    assert counted["written"] == 20_000, counted
    skipped = counted["not_printed"]["printer_busy"]
    assert f"not printed: {skipped} packets (printer_busy)" in lines
    assert capture.lines() == 20_000 - skipped > 1000


@pytest.mark.live("tcpdump")
def test_a_printer_that_dies_is_told_and_the_capture_goes_on(testbed, tmp_path):
    """One line; what comes later is counted as not printed, and as nothing else was asked for, the status is 1."""
    bed = testbed(queues=2)
    capture = Live(bed, tmp_path)
    send(bed, 10)
    until(lambda: capture.lines() == 10)
    os.kill(child_of(capture.process.pid), signal.SIGKILL)
    assert (
        "ended by SIGKILL: packets are no longer printed, the capture goes on"
        in capture.process.stderr.readline() + (capture.process.stderr.readline())
    )
    send(bed, 10)
    capture.interrupt()
    lines = capture.end(1)
    assert "20 packets captured" in lines
    assert "not printed: 10 packets (printer_ended)" in lines
    assert "wirecap: not every packet was printed: tcpdump was ended by SIGKILL" in lines
    assert capture.counted()["printed"] == 10


@pytest.mark.live("tcpdump")
def test_a_second_interrupt_ends_a_printer_that_does_not_end(testbed, tmp_path):
    """A printer that hangs is ended by a second Ctrl-C; the counters come all the same."""
    bed = testbed(queues=2)
    fake = tmp_path / "bin" / "tcpdump"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\nexec sleep 1000\n")
    fake.chmod(0o755)
    capture = Live(bed, tmp_path, path=f"{fake.parent}:{os.environ['PATH']}")
    capture.interrupt()
    until(lambda: netns.call(bed.name, xdp_mode, bed.nics[0].inside) == "")
    capture.interrupt()
    assert "0 packets captured" in capture.end()


def xdp_mode(interface: str) -> str:
    from wirecap.linux import netlink

    return netlink.interface(interface).xdp_mode


def child_of(pid: int) -> int:
    """The process that a process started."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # a thread that has just ended
            if text := (task / "children").read_text():
                return int(text.split()[0])
    raise AssertionError("no child")


def test_a_buffer_takes_whole_records_as_far_as_they_fit(monkeypatch):
    """A block that does not fit whole is cut at a record; the rest of its packets are counted."""
    import numpy as np

    from wirecap.kernels.file.write import PCAP_US

    records = np.frombuffer(bytearray(pcap_records(COUNT)), np.uint8)
    one = len(records) // COUNT
    monkeypatch.setattr(printer, "BUFFER_BYTES", 10 * one + one // 2)
    found = printer.Printer(PrintConfig(), waits=False)
    found.offer(PCAP_US, records, COUNT, False, lambda: False)
    found.offer(PCAP_US, records, COUNT, False, lambda: False)
    assert (found.printed, found.not_printed) == (10, {"printer_busy": 2 * COUNT - 10})


@pytest.mark.parametrize("program", ["tcpdump", "tshark"])
def test_an_output_that_is_full_fails_the_run(trace, tmp_path, monkeypatch, capfd, program):
    """Where printing was all there was to do; beside a file it is only told."""
    only(monkeypatch, program)
    summary = tmp_path / "summary.json"
    before = os.dup(1)
    try:
        with Path("/dev/full").open("wb") as full:
            os.dup2(full.fileno(), 1)
        statuses = [
            main.run(["capture", "-r", str(trace), "--print", "-n", "-XX", *more])  # more than tcpdump buffers
            for more in (["--summary-json", str(summary)], ["-w", str(tmp_path / "out.pcap")])
        ]
    finally:
        os.dup2(before, 1)
        os.close(before)
    told = capfd.readouterr().err
    assert statuses == [1, 0], told
    assert f"wirecap: not every packet was printed: {program} ended with status " in told
    assert json.loads(summary.read_text())["packets"]["delivered"] == COUNT


def own_rights():
    lines = Path("/proc/self/status").read_text().splitlines()
    return [line for line in lines if line.startswith(("Cap", "NoNewPrivs", "Uid", "Gid", "Groups"))]


@pytest.mark.parametrize("sudo", [None, "0", "12345"])
def test_tshark_has_no_privileges(tmp_path, monkeypatch, sudo):
    """It runs as nobody, or as who called sudo; no capability can come back to it, and it still prints."""
    monkeypatch.delenv("SUDO_UID", raising=False)
    if sudo:
        monkeypatch.setenv("SUDO_UID", sudo)
    known = SimpleNamespace(pw_uid=12345, pw_gid=12346, pw_dir="/home/of")
    monkeypatch.setattr(privileges.pwd, "getpwuid", lambda uid: known)
    child = printer.Printer(PrintConfig(), waits=True)
    child._program, before = "tshark", own_rights()
    process = child._spawn(
        ["/bin/sh", "-c", 'exec >&2; cat /proc/self/status; echo "Home: $HOME"; echo "Folder: $PWD"']
    )
    _, told = process.communicate(timeout=60)
    status = dict(line.split(":", 1) for line in told.decode().splitlines())
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == int(status["CapAmb"], 16) == 0
    assert status["NoNewPrivs"].strip() == "1"
    if os.getuid() == 0:
        nobody = pwd.getpwnam("nobody")
        uid, gid = (12345, 12346) if sudo == "12345" else (nobody.pw_uid, nobody.pw_gid)
        assert status["Uid"].split() == [str(uid)] * 4
        assert status["Gid"].split() == [str(gid)] * 4
        assert status["Groups"].strip() == ""
        assert status["Folder"].strip() == "/"
        assert int(status["CapBnd"], 16) == 0
        assert (status["Home"] == " /home/of") == (sudo == "12345")
    assert own_rights() == before  # all that is for the child alone


def test_who_may_not_limit_capabilities_has_none_to_give_up(monkeypatch):
    """Without CAP_SETPCAP the kernel refuses to shrink the bounding set, which is no reason to run nothing."""
    reading = privileges._CAPBSET_READ
    monkeypatch.setattr(privileges.libc, "prctl", lambda option, *rest: 1 if option == reading else -1)
    privileges._drop_bounding_set()


def test_a_printer_that_cannot_be_started_is_one_line(trace, tmp_path, monkeypatch, capfd):
    fake = tmp_path / "tshark"
    fake.write_bytes(b"\x7fELF")
    fake.chmod(0o755)
    monkeypatch.setattr(printing, "PROGRAMS", ("tshark",))
    monkeypatch.setattr(printer, "_FOLDERS", str(tmp_path))
    assert main.run(["capture", "-r", str(trace), "--print"]) == 1
    assert f"wirecap: {fake}: it cannot be started: " in capfd.readouterr().err
