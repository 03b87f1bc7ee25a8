from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import wirecap.kernels
from wirecap.cli.warmup import import_kernels
from wirecap.kernels.base import cache

KERNELS = Path(wirecap.kernels.__path__[0])


def test_every_kernel_module_is_imported():
    """No module under kernels/ is forgotten, however deep it lies."""
    import_kernels()
    for path in KERNELS.rglob("*.py"):
        parts = path.relative_to(KERNELS).with_suffix("").parts
        name = ".".join(["wirecap.kernels", *(part for part in parts if part != "__init__")])
        assert name in sys.modules


def test_every_entry_point_is_known():
    """Each function that is decorated with ``@kernel(...)``, in any file, is an entry point of its own name."""
    code = "from wirecap.cli.warmup import import_kernels; print(len(import_kernels().entry_points()))"
    known = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    written = sum(
        isinstance(decorator, ast.Call) and isinstance(decorator.func, ast.Name) and decorator.func.id == "kernel"
        for path in KERNELS.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
        for decorator in node.decorator_list
    )
    assert written == int(known) > 0


def digest_of(folder: Path) -> str:
    return cache.digest_of(cache.text_of(folder))


@pytest.mark.parametrize("path", sorted(KERNELS.rglob("*.py")), ids=lambda path: str(path.relative_to(KERNELS)))
def test_an_edit_in_any_kernel_changes_the_digest(path, tmp_path):
    """Compiled code is never taken from the cache once a file under kernels/ has changed, or has moved."""
    copy = tmp_path / "kernels"
    shutil.copytree(KERNELS, copy, ignore=shutil.ignore_patterns("__pycache__"))
    assert digest_of(copy) == digest_of(KERNELS)
    edited = copy / path.relative_to(KERNELS)
    edited.write_text(edited.read_text() + "# edited\n")
    changed = digest_of(copy)
    edited.rename(edited.with_name("moved.py"))
    assert len({digest_of(KERNELS), changed, digest_of(copy)}) == 3


def test_second_warmup_compiles_nothing():
    """After a warmup in the cache at hand, a second one finds every kernel there."""
    command = [sys.executable, "-m", "wirecap", "warmup"]
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_DISABLE_JIT"}
    first = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    second = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True, env=environment)
    assert " kernels ready in " in first.stdout
    found = json.loads(second.stdout)
    assert found["compiled"] == []
    assert found["found"] == found["kernels"] > 0
    assert second.stderr == ""


def test_nothing_to_compile_as_plain_python():
    """Under NUMBA_DISABLE_JIT=1 warmup says that there is nothing to do."""
    command = [sys.executable, "-m", "wirecap", "warmup"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | {"NUMBA_DISABLE_JIT": "1"}
    )
    assert "nothing to compile" in done.stderr
