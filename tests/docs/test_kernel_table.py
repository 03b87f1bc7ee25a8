"""The table of docs/kernels.md: what the machines of ``make test-kernels`` report, and which rows it replaces."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / ".ci" / "kernels"
TESTS = """
import os
import pytest

@pytest.mark.parametrize("nic", ["igb"])
@pytest.mark.parametrize("way", ["zero-copy", "packet"])
class TestNic:
    def test_passes(self, nic, way): ...

    def test_fails(self, nic, way):
        assert way == "packet", "only one way"

    def test_skips(self, nic, way):
        pytest.skip("not here")

@pytest.mark.parametrize("nic", ["igb"])
def test_ends_python(nic):
    os._exit(3)

@pytest.mark.parametrize("nic", ["igb"])
def test_after_that(nic): ...

def test_of_the_suite(): ...
"""


@pytest.fixture
def run(monkeypatch):
    """The script as a module; by its own name there is a folder of tests."""
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location("kernels_run", FOLDER / "run.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def test_a_machine_whose_python_ends(run, tmp_path):
    """A test that ends Python is a failure; the next run goes on behind it, and each test stands once in the table."""
    (tmp_path / "test_small.py").write_text(TESTS)
    environment = {**os.environ, "WIRECAP_RESULTS": str(tmp_path / "tests"), "PYTHONPATH": str(FOLDER)}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "report", "-p", "no:cacheprovider", "--rootdir", "."]
    ended = []
    while not (tmp_path / "ended").exists():
        assert len(ended) < run.RUNS
        done = subprocess.run(
            [*command, "test_small.py"], cwd=tmp_path, env=environment, timeout=100, capture_output=True
        )
        ended.append(done.returncode)
    assert ended == [3, 0]
    rows = {place: str(row) for place, row in run.read(tmp_path / "tests", in_time=True).items()}
    failed = "**failed: test_fails[zero-copy-igb]: AssertionError: only one way"
    assert rows.pop(("igb", "zero-copy")).startswith(failed)
    assert rows == {
        ("igb", "packet"): "2 passed; 1 skipped: not here",
        ("igb", "auto"): "**failed: test_ends_python[igb]: Python, or the machine, ended in it**; 1 passed",
        ("veth", "the suite's"): "1 passed",
    }


def test_a_machine_that_was_stopped(run, tmp_path):
    """What it did not come to is no failure, and what it was in neither; a row of nothing else is none."""
    line = '{{"id": "{}", "nic": "igb", "mode": "{}", "test": "one", "outcome": "{}", "reason": ""}}\n'
    said = [("a", "packet", "planned"), ("b", "packet", "planned"), ("c", "generic", "planned")]
    said += [("a", "packet", "begun"), ("a", "packet", "passed"), ("b", "packet", "begun")]
    (tmp_path / "tests").write_text("".join(line.format(*words) for words in said))
    (row,) = run.row_lines("6.12.1", run.read(tmp_path / "tests", in_time=False))
    assert row.startswith("| 6.12.1 | igb | packet | 1 passed; 1 not run: the machine was stopped before | ")


BEFORE = """Text.

<!-- below: made by make test-kernels -->

The last run was made with nothing.

| kernel | NIC | mode | result | run on |
|---|---|---|---|---|
| 6.1.0-1 | igb | all | 1 skipped: nobody knows | 2026-01-01 |
| 6.12.1 | veth | native | 1 passed | 2026-01-01 |
| 6.12.1 | veth | generic | 1 passed | 2026-01-01 |
| 6.18.1 | veth | native | 1 passed | 2026-01-01 |
"""


def test_rows_that_are_replaced(run, tmp_path, monkeypatch):
    """Those of the same series, NIC and mode; one for all modes replaces them, and they replace it."""
    page = tmp_path / "kernels.md"
    monkeypatch.setattr(run, "PAGE", page)
    page.write_text(BEFORE)
    run.write_page(
        ["| 6.12.9 | veth | generic | new | 2026-02-02 |", "| 6.1.0-9 | igb | native | new | x |"], ["QEMU 9"]
    )
    text, _, table = page.read_text().partition("|---|---|---|---|---|\n")
    assert text.startswith("Text.\n\n<!-- below")
    assert "The last run was made with QEMU 9." in text
    assert table.splitlines() == [
        "| 6.1.0-9 | igb | native | new | x |",
        "| 6.12.1 | veth | native | 1 passed | 2026-01-01 |",
        "| 6.12.9 | veth | generic | new | 2026-02-02 |",
        "| 6.18.1 | veth | native | 1 passed | 2026-01-01 |",
    ]
    run.write_page(["| 6.12.9 | veth | all | 1 skipped: no such kernel | x |"], ["QEMU 9"])
    assert [row for row in page.read_text().splitlines() if row.startswith("| 6.12")] == [
        "| 6.12.9 | veth | all | 1 skipped: no such kernel | x |"
    ]
