from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest

from rig import PCAP_HEADER, cpu_seconds, pcap_records, until
from wirecap import __version__
from wirecap.cli import main, typed
from wirecap.cli.typed import as_typed, command_here
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
        (["capture", "-i"], "-i needs a value (wirecap capture --help"),
        (["help"], "did you mean 'wirecap --help'?"),
        (["version"], "did you mean 'wirecap --version'?"),
        (["help", "captur"], "did you mean capture?"),
        (["capture", "-r", "x", "--json"], "--json needs a value (a file, or - for standard output)"),
        (["capture", __file__], f"did you mean wirecap capture -r {__file__}?"),
        (["capture", "-i", "lo", "-T", "rpc"], "wirecap capture -w - | tcpdump -T rpc -r -"),
        (["capture", "-i", "lo", "-M", "secret"], "tcpdump -M secret -r FILE"),
        (["capture", "-i", "lo", "-f", "tcp", "port", "80"], "tcpdump's flag -f can be left out"),
        (["capture", "-i", "lo", "-k"], "-k: monitor mode is not supported"),
        (["capture", "-i", "lo", "-k", "x"], "-k: monitor mode is not supported"),
        (["capture", "-r", "x", "-y", "FOO"], "leave out -y"),
        (["capture", "-r", "x", "--count", "--print"], "both use standard output (leave one of them out)"),
        (["convert", "x", "1-10"], "1-10: no such file (packets are chosen with --packets 1-10)"),
        (["wireshark", "instal"], "unknown command 'instal' (did you mean install?)"),
        (["wireshark", "xyz"], "unknown command 'xyz' (wirecap wireshark --help lists the commands)"),
        (["wireshark", "install", "--user", "--global"], "--user and --global cannot be combined"),
        (["testbed", "pu"], "unknown command 'pu'"),
        (["capture", "--print=x"], "--print takes no value"),
        (["convert", "-F", "foo", "x"], "-F: 'foo' is not known (use pcap, nsecpcap, pcapng or parquet)"),
        (["generate", "--profile", "x"], "--profile: 'x' is not known (use border-router)"),
        (["generate", "--vlan", "x"], "--vlan: 'x' is not a whole number (write it as --vlan 10)"),
        (["generate", "--zipf", "x"], "--zipf: 'x' is not a number"),
        (["generate", "--stats", "0"], "--stats: 0 is out of range (give a number with x>=1)"),
        (["doctor", "x"], "'x' is not expected here (wirecap doctor --help"),
        (["capture", "-i", "eth1@x"], "eth1@0-3"),
        (["capture", "-i", "eth1", "-T", "0"], "1 to 100"),
        (["capture", "-i", "eth1", "--engine", "dpdk"], "xdp"),
        (["capture", "-i", "eth1", "--duration", "long"], "30s"),
        (["-i", "lo", "tcp port 80"], "wirecap capture -i lo 'tcp port 80'"),
        (["-A"], "did you mean 'wirecap capture -A'"),
        (["-e", "-i", "lo"], "wirecap capture -e -i lo"),
        (["-r", "x", "-X"], "wirecap capture -r x -X"),
        (["--count", "5"], "wirecap capture -c 5"),
        (["--count=100"], "wirecap capture -c 100"),
        (["-i", "lo", "--foo"], "unknown option --foo (wirecap capture --help"),
        (["--nosuch"], "wirecap --help"),
        (["capture", "-i", "lo", "--count", "5"], "-c 5"),
        (["capture", "-i", "lo", "--count=5"], "-c 5"),
        (["capture", "-i", "lo", "--count", "5", ""], "-c 5"),
        (["capture", "-i", "lo", "--count=100"], "-c 100"),
        (["capture", "--hand", "count"], "did you mean --handler?"),
        (["capture", "--summary", "x"], "did you mean --summary-json?"),
        (["capture", "--foo"], "unknown option --foo (wirecap capture --help"),
        (["capture", "--jsn"], "did you mean --json?"),
        (["capture", "-i", "lo", "-B", "1TB"], "-B 1TB"),
        (["capture", "-i", "lo", "-B", "400GiB"], "-B 400GiB"),
        (["capture", "-i", "lo", "-B", "1KB"], "-B 1KB"),
    ],
)
def test_bad_usage_is_one_line_and_exit_2(arguments, says):
    """Bad usage ends with exit status 2 and one line on stderr that says what to do."""
    done = wirecap(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("wirecap: ")
    assert says in done.stderr.replace(command_here(), "wirecap")


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
        "print(sorted({'numpy', 'numba', 'pyroute2', 'rich', 'cypcap'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"


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
            "a.pcap: no such file or directory (name one that exists)",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            1,
            "no space left on device (free some space, or write to another disk)",
        ),
        (KeyboardInterrupt(), 1, "interrupted"),
        (MemoryError(), 1, "out of memory (use a smaller M or R, or fewer queues)"),
        (click.UsageError("two\nlines"), 2, "two lines (wirecap --help shows the usage)"),
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


def test_hints_can_be_typed(tmp_path):
    """Commands in hints and in help are by name where the PATH has this wirecap, else by its path."""
    script = Path(sys.executable).with_name("wirecap")
    (tmp_path / "wirecap").symlink_to(script)
    other, own = f"{tmp_path}:/usr/bin:/bin", "/usr/bin:/bin"
    assert "; wirecap capture -D lists" in wirecap("capture", PATH=other).stderr
    assert f"; {command_here(on_path=False)} capture -D lists" in wirecap("capture", PATH=own).stderr
    assert f"\n    {command_here(on_path=False)} capture -i eth1 -w" in wirecap("capture", "--help", PATH=own).stdout


def test_hints_beside_the_script(monkeypatch):
    """In the script's own folder a hint names it with ./, as a shell wants it."""
    monkeypatch.chdir(Path(sys.executable).parent)
    assert command_here(on_path=False) == "./wirecap"


@pytest.mark.parametrize("option", [["--count"], ["--summary-json", "-"]])
def test_without_standard_error(option, tmp_path):
    """With 2>&- the result is still printed, and the exit status is 0."""
    (tmp_path / "a.pcap").write_bytes(PCAP_HEADER + pcap_records(176))
    command = [sys.executable, "-m", "wirecap", "capture", "-r", str(tmp_path / "a.pcap"), *option]
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" 2>&-', "sh", *command], stdout=subprocess.PIPE, text=True, timeout=100, check=True
    )
    assert "176" in done.stdout


def test_without_proc():
    """A root file system without /proc is told in one line, with what to do."""
    apart = ["unshare", "--mount", "sh", "-c", 'umount -l /proc && exec "$@"', "sh"]
    if subprocess.run([*apart, "true"], capture_output=True, timeout=60, check=False).returncode:
        pytest.skip("needs root, and a kernel that lets it unmount /proc")
    command = [*apart, sys.executable, "-m", "wirecap", "capture", "-i", "lo", "-c", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "(mount -t proc proc /proc)" in done.stderr


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
    for number in range(5):
        environment = os.environ | {"WIRECAP_CACHE_DIR": str(tmp_path / str(number))}  # cold: it compiles for seconds
        running = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        until(lambda running=running: cpu_seconds(running.pid) > seconds, 60)
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=60)
        if running.returncode:  # else this test stood still, and the capture was faster
            break
    assert running.returncode == 1
    assert errors == "wirecap: interrupted\n"


def test_every_command_is_shown_as_it_can_be_typed(monkeypatch):
    """No command is left out: a help text would show some with their path, and others without."""
    monkeypatch.setattr(sys, "argv", ["/x/bin/wirecap"])
    monkeypatch.setattr(typed, "command_here", lambda: "HERE")
    for name in main.main.list_commands(click.Context(main.main)):
        assert as_typed(f"use wirecap {name} FILE") == f"use HERE {name} FILE"


def test_libraries_are_installed_where_wirecap_is(monkeypatch):
    """A hint on a missing library names the pip of this Python, and this checkout for an extra of its own."""
    checkout = Path(__file__).parents[2]
    monkeypatch.setattr(sys, "argv", ["/x/bin/wirecap"])
    monkeypatch.chdir(checkout)
    pip = f"{sys.executable} -m pip install"
    assert as_typed("plots need it (pip install 'wirecap[plot]')") in {
        f"plots need it ({pip} '.[plot]')", f"plots need it ({pip.removeprefix(f'{checkout}/')} '.[plot]')",
    }  # fmt: skip
    monkeypatch.chdir("/")
    assert as_typed("pip install lz4").endswith("python -m pip install lz4")
    monkeypatch.setattr(sys, "argv", ["/x/bin/pytest"])
    assert as_typed("pip install lz4") == "pip install lz4"


def test_hints_on_libraries_leave_the_interpreter_out():
    """as_typed puts it before every "pip install": one that stands there already would be typed twice."""
    source = Path(main.__file__).parents[1]
    hints = [
        text for path in source.rglob("*.py") for text in re.findall(r'"[^"]*pip install \'wirecap', path.read_text())
    ]
    assert len(hints) > 5
    assert not [text for text in hints if "-m pip" in text]


def test_help_is_a_word_too(capsys):
    """``wirecap help COMMAND`` is ``wirecap COMMAND --help``."""
    assert main.run(["help", "metrics"]) == 0
    shown = capsys.readouterr().out
    assert main.run(["metrics", "--help"]) == 0
    assert shown == capsys.readouterr().out


@pytest.mark.parametrize("group", ["metrics", "service", "testbed", "wireshark"])
def test_sentences_of_subcommands_are_whole(group, capsys):
    """A list of subcommands has each one's whole first sentence."""
    assert main.run([group, "--help"]) == 0
    assert "..." not in capsys.readouterr().out.partition("Commands:")[2]
