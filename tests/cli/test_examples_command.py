"""``wirecap examples``: what comes with the package is listed, printed and copied, and nothing is overwritten."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from click.testing import CliRunner

import wirecap
from wirecap.cli import examples
from wirecap.cli.main import main

FOLDER = Path(wirecap.__file__).parent / "examples"


def run(*arguments: str) -> tuple[int, str, str]:
    found = CliRunner().invoke(main, ["examples", *arguments])
    message = str(found.exception) if found.exception and not isinstance(found.exception, SystemExit) else ""
    return found.exit_code, found.stdout, message


def test_list_and_print():
    """Each has a line that says what it does; a name prints its text."""
    listed = run()[1]
    for path in FOLDER.glob("*.py"):
        assert f"\n{path.stem} " in f"\n{listed}"
    assert "DNS queries by source" in listed
    assert run("dns")[1] == run("dns.py")[1] == (FOLDER / "dns.py").read_text()
    rows = json.loads(run("--json")[1])
    assert {row["name"] for row in rows} == {path.stem for path in FOLDER.glob("*.py")}
    assert all(row["about"] and "wirecap capture" not in row["about"] for row in rows)


def test_copy(tmp_path):
    """All or the named ones are copied; a file that is there is left alone, and then nothing is copied."""
    status, _, message = run("--copy", str(tmp_path / "new"), "dns", "router")
    assert (status, message) == (0, "")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["dns.py", "router.py"]
    (tmp_path / "new" / "dns.py").write_text("mine")
    status, _, message = run("--copy", str(tmp_path / "new"))
    assert status != 0
    assert "dns.py already exists" in message
    assert len(list((tmp_path / "new").iterdir())) == 2
    assert (tmp_path / "new" / "dns.py").read_text() == "mine"


def test_bad_names(tmp_path, monkeypatch):
    """A name that there is not, a folder that cannot be made, and a package without examples are one line each."""
    assert "there is no example 'dsn' (did you mean dns?)" in run("dsn")[2]
    (tmp_path / "file").touch()
    assert "Not a directory" in run("--copy", str(tmp_path / "file" / "x"))[2]
    monkeypatch.setattr(examples, "files", lambda name: tmp_path / "nowhere")
    assert "this installation has no examples" in run()[2]


def test_they_run_as_they_are_copied(tmp_path):
    """A copy has no need of the package's folder: it imports wirecap alone."""
    for path in FOLDER.glob("*.py"):
        shutil.copy(path, tmp_path)
        assert "import wirecap\n" in path.read_text()
        assert "from wirecap" not in path.read_text()


def test_compiled_examples_are_none(tmp_path, monkeypatch):
    """Python's own folder beside the programs, which installing makes, changes nothing."""
    shutil.copytree(FOLDER, tmp_path / "examples", dirs_exist_ok=True)
    (tmp_path / "examples" / "__pycache__").mkdir(exist_ok=True)
    monkeypatch.setattr(examples, "files", lambda package: tmp_path)
    assert set(examples.texts()) == {path.stem for path in FOLDER.glob("*.py")}
