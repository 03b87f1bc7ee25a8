"""Manual pages: every command has one, with the text of its help, and man, groff and mandoc have no complaint."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from wirecap.cli import main, manual


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("man") / "man1"
    manual.write(found)
    return found


def lines(command: list[str]) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()


def test_man_writes_a_page_for_each_command(tmp_path, capsys):
    """``wirecap man DIR`` writes wirecap.1 and wirecap-COMMAND.1, and says where they are."""
    assert main.run(["man", str(tmp_path / "man1")]) == 0
    names = [name for commands in main.SECTIONS.values() for name in commands]
    assert {path.name for path in (tmp_path / "man1").iterdir()} == {
        "wirecap.1", *(f"wirecap-{name}.1" for name in names),
    }  # fmt: skip
    assert capsys.readouterr().out == f"{len(names) + 1} pages in {tmp_path}/man1\n"


BUILD = """
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path

class ClickOnly(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        first = name.partition(".")[0]
        if first not in {"wirecap", "click", "wcwidth"} and first not in sys.stdlib_module_names:
            raise ModuleNotFoundError(f"a wheel's build has no {first}", name=first)

sys.meta_path.insert(0, ClickOnly())
from wirecap.cli import completing, main, manual

assert manual.write(Path(sys.argv[1]))
assert all(completing.script(shell, main.main) for shell in ("bash", "fish", "zsh"))
"""


def test_a_wheel_is_built_with_click_alone(tmp_path):
    """``pip install .`` makes the pages where click is, and no other library (hatch_build.py)."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", BUILD, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment)
    assert done.returncode == 0, done.stderr


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, capsys):
    """A file in the place of the folder: exit status 2, and one line that names it."""
    (tmp_path / "file").touch()
    assert main.run(["man", str(tmp_path / "file" / "man1")]) == 2
    assert (
        capsys.readouterr().err
        == f"wirecap: {tmp_path}/file/man1: not a directory (name a folder with wirecap man DIR)\n"
    )


@pytest.mark.parametrize("program", ["man", "groff", "mandoc"])
def test_no_warnings(program, folder):
    """The pages have no mistake in their markup."""
    if not shutil.which(program):
        pytest.skip(f"needs {program}")
    pages = sorted(map(str, folder.iterdir()))
    found = []
    for page in pages if program == "man" else [""]:
        command = {
            "man": ["man", "--warnings", "-l", "-P", "cat", page],
            "groff": ["groff", "-man", "-Tutf8", "-ww", *pages],
            "mandoc": ["mandoc", "-T", "lint", "-W", "error", *pages],
        }[program]
        found += lines(command)
    assert found == []


def test_same_text_as_the_help(folder):
    """A page has each option of the command with its help, each example as it is typed, and each exit status."""
    if not shutil.which("groff"):
        pytest.skip("needs groff")
    page = str(folder / "wirecap-capture.1")
    options = ["-man", "-Tascii", "-rLL=1000n", "-P-cbou"]
    shown = subprocess.run(["groff", *options, page], capture_output=True, text=True, timeout=60, check=True).stdout
    words = " ".join(shown.split())
    command = main.main.get_command(main.main.make_context("wirecap", ["capture", "-D"]), "capture")
    for param in command.params:
        if getattr(param, "hidden", False) or not getattr(param, "help", None):
            continue
        assert " ".join(param.help.split()) in words
        assert param.opts[0] in words
    assert "wirecap capture -r out.pcapng --handler count 'udp and port 53'" in shown


def test_markdown_has_every_command():
    """The page of the documentation has a section for each command, with its options."""
    text = manual.markdown()
    for page in manual.pages():
        assert f"\n## {page.name}\n" in f"\n{text}"
    assert "`-i, --interface INTERFACE`" in text
