"""docs/tutorial.md does what it says: its programs are written, its commands run, and their output is compared."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from doc_pages import read

DOCUMENT = Path(__file__).parent.parent / "docs" / "tutorial.md"
PROGRESS = re.compile(r"^wirecap: compiling .*\n", re.MULTILINE)


@pytest.fixture
def shell(tmp_path):
    """Runs a command line in a folder of its own, where ``python`` and ``wirecap`` are those of the test."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, words in (("python", '"$@"'), ("wirecap", '-m wirecap "$@"')):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {words}\n')
        (programs / name).chmod(0o755)
    here = tmp_path / "here"
    here.mkdir()
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}

    def run(command: str) -> str:
        ended = subprocess.run(
            command, shell=True, cwd=here, env=environment, text=True, timeout=300, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert ended.returncode == 0, f"{command}\n{ended.stdout}"
        return PROGRESS.sub("", ended.stdout).strip()

    run.folder = here
    return run


def test_the_tutorial(shell):
    """Each program is written and each command prints what stands below it."""
    ran = 0
    for block in read(DOCUMENT).blocks:
        if block.file:
            assert block.text.startswith(f"# {block.file}\n")
            (shell.folder / block.file).write_text(block.text)
            continue
        assert block.language in ("console", "sh"), block
        if block.language == "sh":  # needs an interface: tests/docs/test_commands.py has one
            continue
        for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            assert shell(command) == output.strip()
            ran += 1
    assert ran >= 7
    assert (shell.folder / "all.json").exists()


def test_handlers_are_short():
    """The tutorial's handlers have at most ten lines, as it says."""
    handlers = [block for block in read(DOCUMENT).blocks if "@wirecap.handler" in block.text]
    assert len(handlers) == 2
    assert all(len(block.text.splitlines()) <= 10 for block in handlers)
