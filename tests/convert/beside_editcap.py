"""Conversions beside editcap, mergecap and tcpdump."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from wirecap.cli import main


def peer(*command: str | Path, status: int = 0) -> str:
    """Run one of Wireshark's programs; its output.  Skips where it is not installed."""
    try:
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        pytest.skip(f"{command[0]} is not installed")
    assert done.returncode == status, done.stderr
    return done.stdout


def ours(*arguments: str | Path, status: int = 0) -> None:
    assert main.run(["convert", *map(str, arguments)]) == status
