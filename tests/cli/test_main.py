from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time

import click
import pytest

from wirecap import __version__
from wirecap.cli import main
from wirecap.errors import SystemCallError, UsageError, WirecapError


def wirecap(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "wirecap", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | environment,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["captur"], "did you mean capture?"),
        (["frobnicate"], "wirecap --help"),
        (["--hlp"], "did you mean --help?"),
        (["capture", "--handlr", "count"], "did you mean --handler?"),
        (["capture"], "-i INTERFACE"),
        (["capture", "-i"], "requires an argument"),
        (["capture", "-i", "eth1@x"], "eth1@0-3"),
        (["capture", "-i", "eth1", "-T", "0"], "1 to 100"),
        (["capture", "-i", "eth1", "--engine", "dpdk"], "xdp"),
        (["capture", "-i", "eth1", "--duration", "long"], "30s"),
    ],
)
def test_bad_usage_is_one_line_and_exit_2(arguments, says):
    """Bad usage ends with exit status 2 and one line on stderr that says what to do."""
    done = wirecap(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("wirecap: ")
    assert says in done.stderr


def test_help_names_every_command_by_section():
    """The help text has a line for each command, and a bare command shows it."""
    done, bare = wirecap("--help"), wirecap()
    assert done.returncode == bare.returncode == 0
    assert done.stdout == bare.stdout
    for section, commands in main.SECTIONS.items():
        assert f"{section}:" in done.stdout
        for name in commands:
            assert f"  {name} " in done.stdout


@pytest.mark.parametrize("name", [name for commands in main.SECTIONS.values() for name in commands])
def test_every_command_has_help(name):
    """Each command in the table loads and has a help text."""
    done = wirecap(name, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"Usage: wirecap {name}")


def test_version():
    """--version prints the version of the package."""
    assert wirecap("--version").stdout == f"wirecap {__version__}\n"


def test_help_imports_nothing_heavy():
    """--help answers without NumPy, Numba, pyroute2 or rich."""
    script = (
        "import sys; from wirecap.cli.main import run; run(['--help']); run(['capture', '--help'])\n"
        "print(sorted({'numpy', 'numba', 'pyroute2', 'rich', 'pcapy'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"


def test_help_is_quick():
    """--help takes less than 0.2 s more than the bare interpreter (best of five)."""

    def best(*command: str) -> float:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            subprocess.run([sys.executable, *command], capture_output=True, check=True)
            times.append(time.perf_counter() - start)
        return min(times)

    assert best("-m", "wirecap", "--help") - best("-c", "pass") < 0.2


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (
            UsageError("eth9: no such interface", "did you mean eth1?"),
            2,
            "eth9: no such interface (did you mean eth1?)",
        ),
        (WirecapError("the disk is full"), 1, "the disk is full"),
        (SystemCallError("bind: refused", errno.EPERM, "run as root"), 2, "bind: refused (run as root)"),
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "a.pcap"),
            2,
            "a.pcap: no such file or directory",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "no space left on device"),
        (KeyboardInterrupt(), 1, "interrupted"),
        (MemoryError(), 1, "out of memory (take a smaller M or R, or fewer queues)"),
        (click.UsageError("two\nlines"), 2, "two lines (wirecap --help tells the usage)"),
        (
            ZeroDivisionError("division by zero"),
            1,
            (
                "internal error: ZeroDivisionError: division by zero"
                " (please report it; WIRECAP_DEBUG=1 shows the traceback)"
            ),
        ),
    ],
)
def test_errors_become_one_line(error, status, line, capsys, monkeypatch):
    """Whatever ends a command becomes one line and the exit status that it deserves."""
    monkeypatch.delenv("WIRECAP_DEBUG", raising=False)
    assert main.report(error) == status
    assert capsys.readouterr().err == f"wirecap: {line}\n"


def test_debug_shows_the_traceback():
    """WIRECAP_DEBUG=1 adds the traceback; without it there is none."""
    quiet, loud = wirecap("capture", "-i", "eth1@x"), wirecap("capture", "-i", "eth1@x", WIRECAP_DEBUG="1")
    assert "Traceback" not in quiet.stderr
    assert "Traceback" in loud.stderr


def test_reader_that_goes_away():
    """A reader that closes the pipe early causes neither a traceback nor a complaint by the interpreter."""
    script = f"{sys.executable} -m wirecap capture --help | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() in ("0", "1")
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize("seconds", [0.15, 0.25, 0.4, 0.6])
def test_interrupted_start_is_one_line(seconds, mixed_trace, tmp_path):
    """Ctrl-C while modules are imported or kernels compiled: exit status 1, and 'interrupted' as the last line."""
    command = [sys.executable, "-m", "wirecap", "capture", "-q", "-r", str(mixed_trace)]
    environment = os.environ | {"WIRECAP_CACHE_DIR": str(tmp_path)}  # cold: it compiles for seconds
    running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    time.sleep(seconds)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 1
    assert errors == "wirecap: interrupted\n"
