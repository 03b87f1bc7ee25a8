"""The lines of docs/with-other-tools.md, read out of it and run as they stand there."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from rig import Wire, flow_frames, time_limit, until
from wirecap.cli.main import run
from wirecap.kernels.base.cache import cache_root
from wirecap.lab import testbed as lab
from wirecap.linux import netlink, netns

__all__ = ["time_limit"]

DOCUMENT = (Path(__file__).parent.parent / "docs" / "with-other-tools.md").read_text()
PACKETS = 1000


class Row(NamedTuple):
    tool: str
    line: str
    then: list[str]
    tried: str


def _rows() -> list[Row]:
    """The table: in its second column the line to type, and what to type when it has ended."""
    rows = []
    for text in re.findall(r"^\|(.*)\|$", DOCUMENT, re.MULTILINE)[2:]:
        tool, what, tried = (cell.strip() for cell in re.split(r"(?<!\\)\|", text))
        line, *then = re.findall(r"`([^`]+)`", what.replace(r"\|", "|"))
        rows.append(Row(tool, line, [] if tried == "not tried" else then, tried))
    return rows


ROWS = _rows()
TAP = re.search(r"^## Taps.*?```sh\n(.*?)```", DOCUMENT, re.MULTILINE | re.DOTALL)[1].splitlines()

WHAT_COMES_OUT: dict[str, Callable[[str], int]] = {
    "tshark": lambda said: len(re.findall(r"^ *\d+ +\d+\.\d+ +192\.0\.2\.1 ", said, re.MULTILINE)),
    "tcpdump": lambda said: len(re.findall(r" IP 192\.0\.2\.1\.\d+ > 198\.51\.100\.1\.", said)),
    "Suricata": lambda said: int(re.search(r"(?:read 1 file, |device: tool0: packets: )(\d+)", said)[1]),
    "nfdump": lambda said: int(re.search(r"total packets: (\d+)", said)[1]),
    "scapy": lambda said: int(re.search(r"UDP:(\d+)", said)[1]),
    "pyshark": lambda said: len(set(re.findall(r"^\d+$", said, re.MULTILINE))),
}
"""How many packets a tool says that it got."""


def test_the_table_has_every_tool():
    """Each tool has a line, and says whether it was tried; what a test tries has a way to count."""
    asked = "Wireshark tshark tcpdump Zeek Suricata Snort Arkime ntopng nfdump scapy pyshark"
    assert {row.tool for row in ROWS} == set(asked.split())
    for row in ROWS:
        assert row.tried == "not tried" or row.tried.startswith(("test", "by hand, ")), row
    assert {row.tool for row in ROWS if row.tried.startswith("test")} == set(WHAT_COMES_OUT)


@functools.cache
def absent(program: str) -> str | None:
    """Why a tool cannot be run here, or None."""
    if program == "pyshark":
        done = subprocess.run([sys.executable, "-c", "import pyshark"], capture_output=True, timeout=60, check=False)
        return "needs pyshark" if done.returncode else None
    found = subprocess.run(["which", program], capture_output=True, timeout=60, check=False)
    return f"needs {program}" if found.returncode else None


def needs(row: Row) -> str:
    """The program, or module, without which a line cannot be run."""
    return "pyshark" if row.tool == "pyshark" else shlex.split(row.line.split("|")[-1])[0]


@pytest.fixture
def shell(testbed, tmp_path, monkeypatch, capsys) -> Iterator[Shell]:
    """A network namespace with an ``eth1``, and the commands ``wirecap`` and ``python`` of these tests on the PATH."""
    bed = testbed(queues=2)
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, command in (("wirecap", "-m wirecap"), ("python", "")):
        path = commands / name
        noted = f"echo $$ > {tmp_path}/{name}.pid\n"
        path.write_text(f'#!/bin/sh\n{noted}exec {shlex.quote(sys.executable)} {command} "$@"\n')
        path.chmod(0o755)
    monkeypatch.setenv("WIRECAP_CACHE_DIR", str(cache_root()))
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}:/usr/sbin:/sbin")
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    shell = Shell(bed.name, bed.nics[0].outside, tmp_path)
    shell.run(f"ip link set {bed.nics[0].inside} name eth1")
    shell.run("echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6")  # else new interfaces solicit routers
    yield shell
    shell.end_all()


class Running(NamedTuple):
    """A line in the background, and the files with its output and its errors."""

    process: subprocess.Popen[bytes]
    files: tuple[Path, Path]

    def said(self) -> str:
        return "".join(path.read_text(errors="replace") for path in self.files)

    def interrupt(self) -> None:
        os.killpg(self.process.pid, signal.SIGINT)

    def rests(self) -> None:
        """Wait until it has read what came: until none of its threads had anything to do for some looks."""
        for _ in range(4):
            time.sleep(0.5)  # the kernel hands a block over after a second at most
            until(lambda: not self._busy())

    def _busy(self) -> bool:
        found = []
        for stat in Path("/proc").glob("[0-9]*/task/[0-9]*/stat"):
            with contextlib.suppress(OSError):
                state, _, group = stat.read_text().rpartition(")")[2].split()[:3]
                found += [state] if int(group) == self.process.pid else []
        return any(state != "S" for state in found)

    def ended(self) -> str:
        """Wait for its end; what it has said."""
        self.process.wait(timeout=100)
        assert self.process.returncode == 0, self.said()
        return self.said()


class Shell:
    """Lines in a network namespace, each in a session of its own."""

    def __init__(self, namespace: str, outside: str, folder: Path) -> None:
        self._namespace, self._outside, self._folder = namespace, outside, folder
        self._started: list[Running] = []

    def start(self, line: str) -> Running:
        """Run a line in the background."""
        files = (self._folder / f"out{len(self._started)}", self._folder / f"err{len(self._started)}")
        with files[0].open("wb") as out, files[1].open("wb") as err:
            process = netns.call(
                self._namespace, subprocess.Popen, ["bash", "-c", line], stdin=subprocess.DEVNULL, stdout=out,
                stderr=err, start_new_session=True,
            )  # fmt: skip
        self._started.append(Running(process, files))
        return self._started[-1]

    def run(self, line: str) -> str:
        return self.start(line).ended()

    def captures(self, line: Running) -> None:
        """Wait until wirecap's program is on eth1."""
        until(lambda: self._facts("eth1").xdp_mode or line.process.poll() is not None, 100)
        assert line.process.poll() is None, line.said()

    def listens(self, interface: str) -> None:
        """Wait until somebody has a packet socket on an interface that runs (Documentation of /proc/net/packet)."""
        index = str(self._facts(interface).index)

        def rows() -> list[list[str]]:
            return [line.split() for line in Path("/proc/thread-self/net/packet").read_text().splitlines()[1:]]

        until(lambda: any(row[4:6] == [index, "1"] for row in netns.call(self._namespace, rows)), 60)

    def _facts(self, interface: str) -> netlink.Interface:
        return netns.call(self._namespace, netlink.interface, interface)

    def send(self) -> None:
        """Until wirecap's program on eth1 has seen them."""
        before = lab.received("eth1", self._namespace)
        with Wire(self._outside) as wire:
            wire.send(flow_frames(PACKETS, 100))
        until(lambda: lab.received("eth1", self._namespace) - before >= PACKETS)

    def stop_wirecap(self) -> None:
        os.kill(int((self._folder / "wirecap.pid").read_text()), signal.SIGTERM)

    def end_all(self) -> None:
        for line in self._started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(line.process.pid, signal.SIGKILL)
            line.process.wait()


def lines(way: str) -> pytest.MarkDecorator:
    """The lines that the document calls tested: those of one way to get at packets."""
    rows = [row for row in ROWS if row.tried.startswith("test") and way_of(row) == way]
    assert rows
    return pytest.mark.parametrize("row", rows, ids=lambda row: row.tool)


def way_of(row: Row) -> str:
    if "57012" in row.line:
        return "served"
    if "|" in row.line or "--print" in row.line:
        return "pipe"
    if "tool0" in row.line:
        return "tap"
    return "extcap" if "wirecap-eth1" in row.line else "module"


@pytest.mark.live
@lines("pipe")
def test_pipe(shell, row):
    """A reader of ``-w -`` gets every packet, and ends when the capture does."""
    if reason := absent(needs(row)):
        pytest.skip(reason)
    (Path.cwd() / "log").mkdir()
    line = shell.start(row.line)
    shell.captures(line)
    shell.send()
    shell.stop_wirecap()
    assert WHAT_COMES_OUT[row.tool](line.ended()) == PACKETS


@pytest.mark.live
@lines("served")
def test_served(shell, row):
    """A client of ``wirecap serve`` gets every packet, and ends when the server does."""
    if reason := absent(needs(row)) or absent("nc"):
        pytest.skip(reason)
    shell.run("ip link set lo up")
    server = shell.start(row.then[0])
    until(lambda: "serving eth1" in server.said() or server.process.poll() is not None, 100)
    client = shell.start(row.line)
    until(lambda: "wants everything" in server.said() or client.process.poll() is not None, 60)
    shell.send()
    shell.stop_wirecap()
    assert f": {PACKETS} packets sent" in server.ended()
    assert WHAT_COMES_OUT[row.tool](client.ended()) == PACKETS


@pytest.mark.live
@lines("tap")
def test_tap(shell, row):
    """A tool on a tap gets every packet: a flow log, or what it says when it is stopped."""
    if reason := absent(needs(row)):
        pytest.skip(reason)
    for folder in ("log", "flows"):
        (Path.cwd() / folder).mkdir()
    *setup, forward = TAP
    for line in setup:
        shell.run(line)
    tool = shell.start(row.line)
    shell.listens("tool0")
    tap = shell.start(forward)
    shell.captures(tap)
    shell.send()
    shell.stop_wirecap()
    assert f"{PACKETS} packets forwarded\n" in tap.ended()
    tool.rests()
    tool.interrupt()
    counted = tool.ended()
    for line in row.then:
        counted = shell.run(line)
    assert WHAT_COMES_OUT[row.tool](counted) == PACKETS


@pytest.mark.live
@lines("extcap")
def test_extcap(shell, row, capsys):
    """tshark captures through the extcap that ``wirecap wireshark install`` has put into its folder."""
    if reason := absent(needs(row)):
        pytest.skip(reason)
    assert run(["wireshark", "install", "--user"]) == 0
    line = shell.start(row.line)
    shell.captures(line)
    shell.send()
    until(lambda: WHAT_COMES_OUT[row.tool](line.said()) == PACKETS, 60)
    line.interrupt()
    line.ended()


@pytest.mark.live
@lines("module")
def test_module(shell, row):
    """A program with one line changed gets every packet."""
    line = shell.start(row.line)
    shell.captures(line)
    shell.send()
    assert WHAT_COMES_OUT[row.tool](line.ended()) == PACKETS
