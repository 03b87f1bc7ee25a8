from __future__ import annotations

import os
import pkgutil
import subprocess
import sys

import wirecap.kernels
from wirecap.cli.warmup import import_kernels


def test_every_kernel_module_is_imported():
    """No module of kernels/ is forgotten."""
    import_kernels()
    for module in pkgutil.iter_modules(wirecap.kernels.__path__):
        assert f"wirecap.kernels.{module.name}" in sys.modules


def test_second_warmup_compiles_nothing():
    """After a warmup in the cache at hand, a second one finds every kernel there."""
    command = [sys.executable, "-m", "wirecap", "warmup"]
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_DISABLE_JIT"}
    first = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    second = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert " kernels ready in " in first.stdout
    assert ": 0 compiled, " in second.stdout
    assert second.stderr == ""


def test_nothing_to_compile_as_plain_python():
    """Under NUMBA_DISABLE_JIT=1 warmup says that there is nothing to do."""
    command = [sys.executable, "-m", "wirecap", "warmup"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | {"NUMBA_DISABLE_JIT": "1"}
    )
    assert "nothing to compile" in done.stderr
