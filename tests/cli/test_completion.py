"""Completion in real shells; the scripts, the suggestions, how fast they come."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wirecap.cli import completing, main
from wirecap.cli.options import Argument, Option
from wirecap.config.sources import MODELS

FILE_OPTIONS = {
    "capture": {"-r", "-F", "-w", "--json", "--decisions", "--ready-file", "--html", "--config"},
    "convert": {"-w", "--json", "--anonymise", "files"},
    "replay": {"--cachefile", "--json", "files"},
    "simulate": {"-r", "--json"},
    "plan": {"--from-summary", "--json"},
}


@pytest.fixture
def folder(tmp_path):
    """A folder with files to complete, and a PATH on which ``wirecap`` is this one."""
    (tmp_path / "my.py").write_text("def plain(packet): ...\n@wirecap.handler\ndef dns(packet, state): ...\n")
    (tmp_path / "trace one.pcap").touch()
    (tmp_path / "monday.pcap").touch()
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "wirecap"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m wirecap "$@"\n')
    command.chmod(0o755)
    return tmp_path


def typed(folder: Path, shell: list[str], setup: str, lines: list[str]) -> list[str]:
    """What each line is after a TAB, as ``echo`` shows it in an interactive shell on a terminal of its own."""
    environment = os.environ | {"PATH": f"{folder}/bin:{os.environ['PATH']}", "TERM": "dumb", "HISTFILE": "/dev/null"}
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.execvpe(shell[0], shell, environment | {"HOME": str(folder), "ZDOTDIR": str(folder), "COLUMNS": "500"})
    text = ""

    def wait(mark: str) -> str:
        nonlocal text
        limit = time.monotonic() + 60
        while not re.search(mark, text):
            assert select.select([terminal], [], [], max(0.0, limit - time.monotonic()))[0], text
            text += os.read(terminal, 65536).decode().replace("\r", "")
        return text

    try:
        os.write(terminal, f"stty cols 500; {setup}; echo is''ready\n".encode())
        wait("isready")
        for number, line in enumerate(lines):
            os.write(terminal, f"{line}\t\x01echo n{number} '\x05'; echo 'end'{number}\n".encode())
            wait(f"\nend{number}\n")
        return [re.search(f"\nn{number} (.*)\nend{number}\n", text)[1] for number in range(len(lines))]
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(terminal)


LINES = {
    "wirecap conv": "wirecap convert ",
    "wirecap capture --summary-": "wirecap capture --summary-json ",
    "wirecap capture -i lo": "wirecap capture -i lo ",
    "wirecap capture -i lo@": "wirecap capture -i lo@0 ",
    "wirecap capture --handler pkt_": "wirecap capture --handler pkt_handler ",
    "wirecap capture --handler ./my.py:d": "wirecap capture --handler ./my.py:dns ",
    "wirecap capture -r mon": "wirecap capture -r monday.pcap ",
    "wirecap convert mon": "wirecap convert monday.pcap ",
    "wirecap capture -i lo portr": "wirecap capture -i lo portrange ",
    "wirecap capture --engine=pac": "wirecap capture --engine=packet ",
}


def test_bash(folder):
    """A real bash completes commands, options, interfaces, queues, handlers, files and words of a filter."""
    found = typed(folder, ["bash", "--norc", "-i"], "source <(wirecap completion bash)", list(LINES))
    assert found == list(LINES.values())


def test_zsh(folder):
    """So does a real zsh."""
    if not shutil.which("zsh"):
        pytest.skip("needs zsh")
    setup = "autoload -U compinit; compinit -u -D; source <(wirecap completion zsh)"
    lines = [line for line in LINES if "--engine=" not in line]
    found = typed(folder, ["zsh", "-f", "-i"], setup, lines)
    assert [line.strip() for line in found] == [LINES[line].strip() for line in lines]


def test_fish(folder):
    """So does a real fish."""
    if not shutil.which("fish"):
        pytest.skip("needs fish")
    asked = [line for line in LINES if "--engine=" not in line]
    script = "wirecap completion fish | source\n" + "".join(f"complete -C '{line}'; echo end\n" for line in asked)
    environment = os.environ | {"PATH": f"{folder}/bin:{os.environ['PATH']}", "HOME": str(folder)}
    done = subprocess.run(["fish", "--no-config", "-c", script], cwd=folder, env=environment, capture_output=True,
                          text=True, timeout=100, check=True)  # fmt: skip
    answers = done.stdout.split("end\n")
    for line, answer in zip(asked, answers, strict=False):
        wanted = LINES[line].split()[-1]
        assert wanted in [found.partition("\t")[0] for found in answer.splitlines()], (line, answer)


@pytest.mark.parametrize("shell", sorted(completing.SHELLS))
def test_scripts_have_no_syntax_errors(shell, capsys):
    """Where the shell is installed, it reads the script without a complaint."""
    assert main.run(["completion", shell]) == 0
    script = capsys.readouterr().out
    if not shutil.which(shell):
        pytest.skip(f"needs {shell}")
    done = subprocess.run([shell, "-n"], input=script, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def suggested(monkeypatch, capsys, line: str) -> list[str]:
    monkeypatch.setenv("_WIRECAP_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_WORDBREAKS", " \t\n")
    assert main.run([]) == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("line", "some"),
    [
        ("wirecap ", {"plain,capture", "plain,completion", "plain,doctor"}),
        ("wirecap testbed ", {"plain,up", "plain,down", "plain,status"}),
        ("wirecap --", {"plain,--version", "plain,--help"}),
        ("wirecap forward lo,l", {"plain,lo,lo"}),
        ("wirecap forward lo l", {"plain,lo"}),
        ("wirecap forward eth1 eth2 po", {"plain,port", "plain,portrange"}),
        ("wirecap forward eth1 --to lo,l", {"plain,lo,lo"}),
        ("wirecap capture --buddies lo+l", {"plain,lo+lo"}),
        ("wirecap capture -i an", {"plain,any"}),
        ("wirecap simulate --engine net", {"plain,netmap"}),
        ("wirecap simulate --handler p", {"plain,pkt_handler"}),
        ("wirecap figure 1", {"plain,10", "plain,14"}),
        ("wirecap completion ", {"plain,bash", "plain,fish", "plain,zsh"}),
        ("wirecap man ", {"dir,"}),
        ("wirecap find udp ", {"file,"}),
        ("wirecap map count ", {"file,"}),
        ("wirecap map qu", {"plain,queue_profiler"}),
        ("wirecap capture -y EN", {"plain,EN10MB"}),
        ("wirecap examples dn", {"plain,dns", "plain,dns_sources"}),
        ("wirecap capture --handler nonesuch.py:", set()),
        ("wirecap nonesuch --", set()),
        ("wirecap capture --netns nonesuch -i ", set()),
        ("wirecap capture -T 1000 -i lo@x 'tcp ", set()),
        ("", {"plain,capture"}),
    ],
)
def test_suggestions(line, some, monkeypatch, capsys):
    """What is offered where; a line that makes no sense gets no suggestion, no message and no traceback."""
    monkeypatch.setenv("_WIRECAP_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setenv("COMP_WORDBREAKS", " \t\n")
    main.run([])
    shown = capsys.readouterr()
    assert some <= set(shown.out.splitlines())
    assert shown.err == ""
    if not some:
        assert "plain," not in shown.out or line.endswith("'tcp ")


def test_every_file_is_completed(monkeypatch, capsys):
    """Options and arguments that take a file have the shell complete files."""
    for name, wanted in FILE_OPTIONS.items():
        for option in wanted:
            words = f"wirecap {name} " if option == "files" else f"wirecap {name} {option} "
            assert suggested(monkeypatch, capsys, words) == ["file,"], words


def test_what_takes_a_file_says_so():
    """An option whose value is called FILE, INTERFACE or the like has completion: it is made by ``section``."""
    context = main.main.make_context("wirecap", [], resilient_parsing=True)
    for page in main.main.list_commands(context):
        command = main.main.get_command(context, page)
        for param in command.get_params(context):
            if re.search("FILE|INTERFACE|DIR|FOLDER|NETNS", param.make_metavar(context)):
                assert isinstance(param, Option | Argument), f"{page} {param.opts}: use section() or argument()"


def test_models_of_the_help_are_those_of_the_table():
    """``simulate`` names the models without loading them; no model is missing."""
    from wirecap.sim.models import TABLE

    assert tuple(TABLE) == MODELS


def test_an_answer_loads_nothing_heavy():
    """Completion is quick because it imports click and no more: no NumPy, no Numba; nor asyncio, email or the like."""
    script = "import sys; from wirecap.cli.main import run; run([])\nprint(*sorted(sys.modules), file=sys.stderr)"
    environment = os.environ | {"_WIRECAP_COMPLETE": "bash_complete", "COMP_LINE": "wirecap capture -i l"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert "plain,lo" in done.stdout
    assert not {"numpy", "numba", "pyroute2", "cypcap", "asyncio"} & set(done.stderr.split())
