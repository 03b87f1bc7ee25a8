"""Making the wheel and installing it, for tests of what a user gets."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from wirecap.kernels.base.cache import cache_root

ROOT = Path(__file__).parent.parent


def run(
    *command: object, environment: dict[str, str] | None = None, **options: object
) -> subprocess.CompletedProcess[str]:
    """Run a command as a user's shell would, with the compiled code that is kept already."""
    given = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    given |= {"WIRECAP_CACHE_DIR": str(cache_root()), **(environment or {})}
    return subprocess.run(
        list(map(str, command)), env=given, capture_output=True, text=True, timeout=300, check=False, **options
    )


def built(source: Path, folder: Path, *targets: str, environment: dict[str, str] | None = None) -> Path:
    """Build an sdist or a wheel from a source tree into a folder."""
    if not importlib.util.find_spec("hatchling"):
        pytest.skip("needs hatchling")
    wanted = [word for target in targets for word in ("-t", target)]
    done = run(sys.executable, "-m", "hatchling", "build", *wanted, "-d", folder, cwd=source, environment=environment)
    assert done.returncode == 0, done.stderr
    return folder


def installed_alone(wheel: Path, folder: Path) -> Path:
    """An environment with the wheel and what it depends on, and nothing else."""
    if not importlib.util.find_spec("uv"):
        pytest.skip("needs uv")
    assert run(sys.executable, "-m", "uv", "venv", "-q", "--python", sys.executable, folder).returncode == 0
    done = run(sys.executable, "-m", "uv", "pip", "install", "-q", "--python", folder / "bin/python", wheel)
    if re.search("[Ff]ailed to (fetch|download)|error sending request|dns error", done.stderr):
        pytest.skip(f"no package index can be reached: {done.stderr.splitlines()[-1].strip()}")
    assert done.returncode == 0, done.stderr
    return folder
