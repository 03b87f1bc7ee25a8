"""Child processes: watched by what they print, ended within bounds, in the namespace and on the CPU asked for."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from wirecap.errors import WirecapError
from wirecap.lab.process import Child, run
from wirecap.linux import netns

SLEEP = "import time; print('ready', flush=True); time.sleep(1000)"


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_ready_is_seen_while_it_runs() -> None:
    """wait_for() returns as soon as the line is there, and end() gives what the signal made of the process."""
    with Child(python(SLEEP)) as child:
        assert child.wait_for("^rea(dy)$")[1] == "dy"
        assert child.running
        ended = child.end(signal.SIGTERM)
    assert ended.status == -signal.SIGTERM


def test_an_early_end_shows_the_last_words() -> None:
    """A process that ends instead of getting ready is an error with its status and its last lines."""
    with (
        pytest.raises(WirecapError, match=r"exited with status 3: .*no device"),
        Child(python("import sys; print('no device'); sys.exit(3)")) as child,
    ):
        child.wait_for("ready")


def test_an_interrupt_while_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C between the fork and the end of the constructor leaves no process behind."""
    started, spawn = [], Child._spawn

    def interrupted(self, *arguments):
        started.append(spawn(self, *arguments))
        signal.raise_signal(signal.SIGINT)
        return started[0]

    monkeypatch.setattr(Child, "_spawn", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            Child(python(SLEEP))
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert started[0].poll() == -signal.SIGKILL


def test_silence_is_bounded() -> None:
    """A process that says nothing is given up, and killed."""
    with (
        pytest.raises(WirecapError, match=r"not ready in 0\.3 s"),
        Child(python("import time; time.sleep(60)")) as child,
    ):
        child.wait_for("ready", timeout_s=0.3)
    assert not child.running


def test_who_ignores_the_signal_is_killed() -> None:
    """end() kills what does not end in time."""
    code = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); " + SLEEP
    with Child(python(code)) as child:
        child.wait_for("ready")
        assert child.end(signal.SIGINT, timeout_s=0.3).status == -signal.SIGKILL


def test_a_terminal_shows_held_back_lines() -> None:
    """With a pseudo-terminal a line shows that the program would hold back from a pipe."""
    code = "import time; print('ready'); time.sleep(60)"
    with Child(python(code), terminal=True) as child:
        child.wait_for("^ready$")


def test_no_such_program() -> None:
    """A program that is not there is one line."""
    with pytest.raises(WirecapError, match="program not found: no-such-program"):
        Child(["no-such-program"])


def test_cpu_time_and_pinning() -> None:
    """The child runs on the CPU asked for, and its CPU time is its own."""
    cpu = max(os.sched_getaffinity(0))
    code = (
        "import os, time\nprint(os.sched_getaffinity(0))\nwhile time.process_time() < 0.5: pass\n"
        "print(time.process_time())"
    )
    ended = run(python(code), cpus={cpu})
    allowed, used_s = ended.output.splitlines()
    assert allowed == f"{{{cpu}}}"
    assert ended.cpu_s == pytest.approx(float(used_s), abs=0.4)


@pytest.mark.live
def test_it_runs_in_the_namespace(fresh_name: str) -> None:
    """The child is in the named namespace, its parent is not."""
    netns.create(fresh_name)
    code = "import socket; print(socket.if_nameindex())"
    assert run(python(code), namespace=fresh_name).output.strip() == "[(1, 'lo')]"
