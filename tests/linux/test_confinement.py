"""What a capture may still do once packets come: its threads in /proc, while it captures, reloads, prints and ends."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import signal
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rig import Wire, flow_frames, until
from wirecap.kernels.base.jit import PURE
from wirecap.lab import testbed as lab
from wirecap.linux import capabilities, netns, privileges, seccomp

WIRECAP = [sys.executable, "-P", "-m", "wirecap"]
compiled = pytest.mark.skipif(PURE, reason="the command runs compiled")


def bits(*names: str) -> int:
    return sum(1 << capabilities.BITS[name] for name in names)


def threads(process: int) -> dict[int, dict[str, str]]:
    """What /proc tells of each thread."""
    found = {}
    for task in Path(f"/proc/{process}/task").iterdir():
        try:
            lines = (task / "status").read_text().splitlines()
        except OSError:  # it has ended meanwhile
            continue
        found[int(task.name)] = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return found


class Running:
    """A capture of the command, once it has said that it captures."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [*WIRECAP, *arguments], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.wait_for("capturing on")

    def wait_for(self, mark: str) -> str:
        for line in self.process.stderr:
            if mark in line:
                return line
        raise AssertionError(f"no line with {mark!r}")

    def confined(self, files: int = 0) -> dict[str, str]:
        """The main thread, once all others have what they keep: capture threads nothing, the others ``files``.

        A thread that has just started has for a moment what the main one has.
        """

        def others() -> list[dict[str, str]]:
            return [one for number, one in threads(self.process.pid).items() if number != self.process.pid]

        def settled() -> bool:
            right = [0 if one["Name"].startswith("wirecap-capture") else files for one in others()]
            return right == [int(one["CapPrm"], 16) for one in others()] and "wirecap-publish" in {
                one["Name"] for one in others()
            }

        until(settled)
        main = threads(self.process.pid)[self.process.pid]
        for one in (main, *others()):
            assert {one[name] for name in ("CapInh", "CapAmb", "CapBnd")} == {"0" * 16}, one
            assert (one["NoNewPrivs"], one["CapEff"]) == ("1", one["CapPrm"]), one
        return main

    def end(self) -> tuple[str, str]:
        self.process.send_signal(signal.SIGTERM)
        out, err = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, err
        return out, err


@pytest.mark.live
@compiled
@pytest.mark.parametrize("engine", ["xdp", "packet"])
def test_what_threads_keep(testbed, tmp_path, engine):
    """None of them has a capability but the main one, whose are few; nothing that they start gains any; every packet
    is captured and the interface is clean behind it; with --seccomp, too, while files rotate."""
    bed = testbed(queues=2)
    nic = bed.nics[0]
    capture = Running(
        "capture", "-i", nic.outside, "--engine", engine, "-w", str(tmp_path / "%s.pcapng"), "-b", "packets:40",
        "--seccomp", "--summary-json", "-",
    )  # fmt: skip
    try:
        main = capture.confined()
        kept = ("CAP_NET_RAW", "CAP_NET_ADMIN")
        kept += () if engine == "packet" else ("CAP_BPF", "CAP_PERFMON", "CAP_IPC_LOCK")
        assert int(main["CapPrm"], 16) & ~bits(*kept) == 0
        assert int(main["CapPrm"], 16) & bits("CAP_NET_ADMIN")
        until(lambda: {one["Seccomp"] for one in threads(capture.process.pid).values()} == {"2"})
        with netns.call(bed.name, Wire, nic.inside) as wire:
            wire.send(flow_frames(100))
        until(lambda: lab.received(nic.outside) >= 100)
        until(lambda: len(list(tmp_path.iterdir())) > 2)
    finally:
        summary = json.loads(capture.end()[0])
    assert summary["packets"]["delivered"] == summary["packets"]["written"] >= 100
    assert sum(summary["packets"]["drops"].values()) == 0
    again = subprocess.run([*WIRECAP, "capture", "-i", nic.outside, "--engine", engine, "--duration", "1ms"],
                           capture_output=True, text=True, timeout=60, check=False)  # fmt: skip
    assert again.returncode == 0, again.stderr


@pytest.mark.live("tcpdump")
@compiled
def test_reload_print_and_commands(testbed, tmp_path):
    """Another filter on SIGHUP, a printer that has become another user, a command for each file: as before."""
    bed = testbed(queues=1)
    nic = bed.nics[0]
    config, seen = tmp_path / "it.toml", tmp_path / "seen"
    text = f'interface = "{nic.inside}"\nnetns = "{bed.name}"\nengine = "xdp"\nfilter = "FILTER"\n'
    config.write_text(text.replace("FILTER", "tcp"))
    capture = Running("capture", "--config", str(config), "--seccomp", "--print", "-w", str(tmp_path / "x.pcapng"),
                      "-z", f"cp {{}} {seen}")  # fmt: skip
    try:
        allowed = bits(*capabilities.XDP, "CAP_PERFMON", "CAP_IPC_LOCK", "CAP_SYS_ADMIN", "CAP_KILL")
        assert int(capture.confined()["CapPrm"], 16) & ~allowed == 0
        config.write_text(text.replace("FILTER", "udp"))
        capture.process.send_signal(signal.SIGHUP)
        capture.wait_for("reloaded")
        with Wire(nic.outside) as wire:
            wire.send(flow_frames(10))
        assert [capture.process.stdout.readline() for _ in range(10)]
    finally:
        _, err = capture.end()
    assert "10 packets captured" in err
    assert seen.stat().st_size == (tmp_path / "x.pcapng").stat().st_size


@pytest.mark.live
@compiled
def test_a_folder_of_somebody_else(testbed, tmp_path):
    """Root writes there as it always could: threads that open files keep the right to, capture threads do not."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, 65534, 65534)
    theirs.chmod(0o755)
    bed = testbed(queues=1)
    nic = bed.nics[0]
    capture = Running("capture", "-i", nic.outside, "-w", str(theirs / "x.pcapng"), "-b", "packets:10",
                      "--summary-json", str(theirs / "summary.json"))  # fmt: skip
    try:
        main = capture.confined(files=bits("CAP_DAC_OVERRIDE"))
        assert int(main["CapPrm"], 16) & bits("CAP_DAC_OVERRIDE")
        with netns.call(bed.name, Wire, nic.inside) as wire:
            wire.send(flow_frames(50))
        until(lambda: lab.received(nic.outside) >= 50)
        until(lambda: len(list(theirs.iterdir())) > 3)
    finally:
        capture.end()
    assert json.loads((theirs / "summary.json").read_text())["packets"]["written"] >= 50


def in_a_thread(function):
    """What it returns; what it gave up ends with the thread."""
    found = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_keeping_some(tmp_path):
    """Only the calling thread gives up, and only what is not named; what it runs cannot get it back."""

    def limited():
        privileges.keep_only(["CAP_NET_RAW"])
        inner = subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True, check=True).stdout
        return Path("/proc/thread-self/status").read_text(), inner

    before = Path("/proc/thread-self/status").read_text()
    own, inner = in_a_thread(limited)
    raw = f"{bits('CAP_NET_RAW'):016x}"
    for text, effective in ((own, raw), (inner, f"{0:016x}")):
        assert f"CapEff:\t{effective}\n" in text
        assert f"CapPrm:\t{effective}\n" in text
    mine = [line for line in before.splitlines() if line.startswith("Cap")]
    assert mine == [line for line in Path("/proc/thread-self/status").read_text().splitlines() if line[:3] == "Cap"]
    (tmp_path / "theirs").mkdir()
    assert privileges.reached_without([str(tmp_path / "x"), str(tmp_path / "new" / "y")])
    os.chown(tmp_path / "theirs", 65534, 65534)
    assert not privileges.reached_without([str(tmp_path / "theirs" / "new" / "x")])


def test_refused_calls():
    """The kernel refuses them to the thread that asked for it, and to no other."""
    libc = ctypes.CDLL(None, use_errno=True)

    def personality():
        return libc.personality(0xFFFFFFFF), ctypes.get_errno()

    def limited():
        libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
        seccomp.refuse(seccomp.NEVER)
        return personality()

    assert in_a_thread(limited) == (-1, 1)
    assert personality()[0] >= 0


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_program_decides_by_number(machine):
    """Interpreted here: named calls fail with EPERM, others pass, another instruction set ends the process."""
    arch = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
    code = seccomp.program(seccomp.BY_CAPTURE_THREADS, machine)
    rows = [struct.unpack_from("HBBI", code, at) for at in range(0, len(code), 8)]

    def decided(number, told):
        at, value = 0, 0
        while True:
            op, yes, no, word = rows[at]
            at += 1
            if op == 0x20:
                value = {0: number, 4: told}[word]
            elif op == 0x06:
                return word
            else:
                at += yes if (value == word if op == 0x15 else value >= word) else no

    column = list(arch).index(machine)
    refused = {pair[column] for name, pair in seccomp._NUMBERS.items() if name in seccomp.BY_CAPTURE_THREADS}
    for number in range(600):
        assert decided(number, arch[machine]) == (0x00050001 if number in refused else 0x7FFF0000), number
    assert decided(1, 0x40000003) == 0x80000000
    if machine == "x86_64":
        assert decided(0x40000001, arch[machine]) == 0x00050001


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the header has this machine's numbers")
def test_numbers_are_the_kernels():
    """As in the kernel's own header, where that is installed."""
    header = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
    if not header.exists():
        pytest.skip("needs linux-libc-dev")
    pairs = dict(line.split()[1:3] for line in header.read_text().splitlines() if line.startswith("#define __NR_"))
    known = {name: pairs.get(f"__NR_{name}") for name in seccomp._NUMBERS}
    wrong = {name: number for name, number in known.items() if number and int(number) != seccomp._NUMBERS[name][0]}
    assert not wrong
