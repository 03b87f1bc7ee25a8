"""All commands: results as JSON, standard output for results alone, no colours where NO_COLOR is set."""

from __future__ import annotations

import json
import os
import pty
import re
import sys
from pathlib import Path

import pytest

from rig import PCAP_HEADER, free_port, pcap_records
from wirecap.cli import demo, main
from wirecap.kernels.base.jit import PURE

pytestmark = pytest.mark.skipif(PURE, reason="the commands run compiled")

REPORTS = {
    "capture": "capture -r {trace} --json -",
    "capture into a file": "capture -r {trace} -w {folder}/out.pcapng --json -",
    "capture -D": "capture -D --json -",
    "capture -L": "capture -L -i lo --json -",
    "capture -J": "capture -J -i lo --json -",
    "capture -d": "capture -d --json - tcp port 80",
    "convert": "convert {trace} -w {folder}/converted.pcap --json -",
    "simulate": "simulate --workload burst:packets=10,rate=10 --handler count --json",
    "figure": "figure 8 --no-plot -o {folder}/figures --json -",
    "plan": "plan --handler-rate 1M --burst 1k --json",
    "demo": "demo --memory --json",
    "doctor": "doctor --json",
    "examples": "examples --json",
    "map": "map count {trace} --json -",
    "find": "find udp {trace} --json -",
    "index": "index {trace} --json -",
    "testbed status": "testbed status --name {none} --json",
    "testbed down": "testbed down --name {none} --json",
    "top": "top --once --json",
}
"""A line for each command that reports something, where {trace} is a capture file and {none} the name of no testbed."""
LIVE = {
    "capture live": "capture --netns {bed} -i {inside} --duration 0.2 --json -",
    "forward": "forward --netns {bed} {inside} {other} --duration 0.2 --json -",
    "serve": "serve {inside} --netns {bed} --listen {port} --duration 0.2 --json -",
    "generate": "generate -i {outside} --count 10 --json -",
    "replay": "replay -i {outside} -t {trace} --json -",
    "testbed up": "testbed up --name {bed} --nics 2 --json",
}
SILENT = {"completion": "prints a script", "man": "writes files", "wireshark": "puts a file into a folder",
          "libpcap": "prints a path", "service": "writes a unit",
          "metrics": "prints files", "trigger": "tells a capture",
          "collect": "needs a broker: tests/flows/test_fleet.py",
          "warmup": "compiles what tests declare, too: tests/cli/test_warmup.py has a process of its own"}  # fmt: skip
"""Commands that report nothing, or are tried elsewhere, and why."""


def test_no_command_is_forgotten():
    """Each command of the help is tried below, or has a reason not to be."""
    tried = {line.split()[0] for line in (*REPORTS.values(), *LIVE.values())}
    there = {name for commands in main.SECTIONS.values() for name in commands}
    assert tried | set(SILENT) == there, "give the command --json, and add a line to REPORTS or LIVE"


@pytest.fixture
def places(tmp_path, fresh_name):
    trace = tmp_path / "trace.pcap"
    trace.write_bytes(PCAP_HEADER + pcap_records(20))
    return {"trace": str(trace), "folder": str(tmp_path), "none": fresh_name}


def check(line: str, capfd: pytest.CaptureFixture[str], statuses: tuple[int, ...] = (0,)) -> None:
    assert main.run(line.split()) in statuses
    shown = capfd.readouterr()
    found = json.loads(shown.out)
    assert isinstance(found, dict | list)
    assert "\x1b" not in shown.out + shown.err


@pytest.mark.parametrize("name", REPORTS)
def test_json_alone_on_standard_output(name, places, capfd, monkeypatch):
    """With --json on standard output, that is one JSON document and nothing else; progress is on standard error."""
    for constant, value in (("BURST", 2000), ("FILE_PACKETS", 1000), ("SKEW_S", 0.1), ("FLOOD", 1000)):
        monkeypatch.setattr(demo, constant, value)
    status = (0, 1) if name in ("doctor", "testbed status") else (0,)  # 1 is an answer of theirs
    check(REPORTS[name].format(**places), capfd, status)


@pytest.mark.live
@pytest.mark.parametrize("name", LIVE)
def test_json_alone_live(name, places, testbed, capfd):
    """The same of commands that need interfaces."""
    bed = testbed(queues=1, nics=2)
    first, second = bed.nics
    ends = {"inside": first.inside, "other": second.inside, "outside": first.outside}
    names = {"port": free_port(), "bed": bed.name, **ends}
    check(LIVE[name].format(**places, **names), capfd)


def on_a_terminal(lines: list[str], folder: Path, **environment: str) -> str:
    """What commands print on a terminal, one after the other in one process."""
    script = "import sys; from wirecap.cli.main import run\nfor line in sys.argv[1:]: run(line.split())"
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        bare = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
        os.execve(sys.executable, [sys.executable, "-c", script, *lines], bare | {"TERM": "xterm"} | environment)
    text = b""
    try:
        while piece := os.read(terminal, 65536):
            text += piece
    except OSError:  # the terminal's end
        pass
    finally:
        os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return text.decode()


COLOUR = "\x1b\\[[0-9;]*m"


def test_no_colour(places, tmp_path):
    """NO_COLOR=1 takes the colours out of what is printed on a terminal; doctor has some without it."""
    lines = [line.format(**places).partition(" --json")[0] for name, line in REPORTS.items() if name != "demo"]
    shown = on_a_terminal([*lines, "--help", "capture", "nonesuch"], tmp_path, NO_COLOR="1")
    assert "ok  kernel" in shown
    assert not re.search(COLOUR, shown)
    assert re.search(COLOUR, on_a_terminal(["doctor"], tmp_path))


def test_a_result_that_cannot_be_written(places, capfd):
    """--json into a folder that is not there, or onto a full disk: one line, and exit status 2."""
    for path, says in (("/nonexistent/x", "no such folder"), ("/dev/full", "no space left")):
        assert main.run(["testbed", "down", "--name", places["none"], "--json", path]) == 2
        line = capfd.readouterr().err
        assert says in line
        assert line.count("\n") == 1
