"""What import-linter cannot say: kernels import only NumPy and Numba, files stay small, commands are in the table."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

from wirecap.cli import main

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "wirecap"
MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.parent.name != "examples"]
MAX_LINES = 600
"""About 500 at most, with room for the one sentence more that makes a thing clear."""


def imported(path: Path) -> set[str]:
    """The full names of the modules that a file imports, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module or ""}
    return found


@pytest.mark.parametrize(
    "path", sorted((PACKAGE / "kernels").rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_kernels_import_only_numpy_and_numba(path):
    """A module of kernels/ imports the standard library, NumPy, Numba, llvmlite and other kernels."""
    allowed = {"numpy", "numba", "llvmlite"} | set(sys.stdlib_module_names)
    foreign = {
        name for name in imported(path) if name.split(".")[0] not in allowed and not name.startswith("wirecap.kernels")
    }
    assert not foreign


def test_compiled_code_is_in_kernels_only():
    """No module outside kernels/ compiles with Numba by itself."""
    compilers = {"jit", "njit", "vectorize", "guvectorize", "cfunc", "stencil", "generated_jit"}
    users = set()
    for path in MODULES:
        if PACKAGE / "kernels" in path.parents:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            named = isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "numba"
            names = {alias.name for alias in node.names} if named else set()
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "numba":
                names = {node.attr}
            if names & compilers:
                users.add(str(path.relative_to(PACKAGE)))
    assert not users


STARTS_PROGRAMS = (
    "files/finished.py",  # --on-file: the process that runs the commands
    "files/command_runner.py",
    "handlers/printer.py",  # --print
    "mapping/workers.py",  # wirecap map: a process for each core
)


def test_no_shelling_out():
    """The product starts no program that nobody asked for; lab/ does, for the peers that are measured beside it."""
    asked_for = {PACKAGE / name for name in STARTS_PROGRAMS}
    for path in MODULES:
        if PACKAGE / "lab" in path.parents or path in asked_for:
            continue
        assert "subprocess" not in imported(path), path
        assert "os.system(" not in path.read_text(), path


def test_a_python_that_is_started_takes_no_module_from_the_working_directory():
    """Everybody may write to some folders, and root captures there: -P comes first."""
    found = 0
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.List) and node.elts and ast.unparse(node.elts[0]) == "sys.executable":
                assert ast.unparse(node.elts[1]) == "'-P'", path
                found += 1
    assert found


WITH_TESTS = [*MODULES, *(path for part in ("tests", "bench") for path in sorted((ROOT / part).rglob("*.py")))]


@pytest.mark.parametrize("path", WITH_TESTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_fits_in_a_head(path):
    """No module, test or benchmark is longer than one idea takes."""
    assert len(path.read_text().splitlines()) <= MAX_LINES


def test_every_command_is_in_the_table():
    """Each module of cli/ with a click command is in the help text, and each name there has its module."""
    listed = {name for commands in main.SECTIONS.values() for name in commands}
    defined = {
        path.stem
        for path in (PACKAGE / "cli").rglob("*.py")
        if any(
            isinstance(node, ast.FunctionDef) and node.name in ("command", "group") and node.decorator_list
            for node in ast.parse(path.read_text()).body
        )
    }
    assert listed == defined


def test_the_map_has_every_file():
    """docs/architecture.md names each module, and none that there is not."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    named = set(re.findall(r"`([\w/]+\.py)`", text[text.index("## The map") :]))
    assert named == {str(path.relative_to(PACKAGE)) for path in MODULES if path.name != "__init__.py"}
