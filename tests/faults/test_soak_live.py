"""bench/soak.py for some seconds: all that is attached, at full speed, counters near the end of their range."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[2] / "bench" / "soak.py"


@pytest.mark.live
@pytest.mark.parametrize("near", ["2^32", "2^63"])
def test_a_short_soak(tmp_path: Path, near: str) -> None:
    """The accounting is exact, no counter wraps, and descriptors and threads stay as many as they were.

    Memory is judged by the long form: here the pool and the caches are still being touched for the first time.
    """
    found = tmp_path / "found.json"
    command = [sys.executable, str(SOAK), "--minutes", "0.05", "--every", "0.4", "--near", near]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [*command, "--folder", str(tmp_path), "--json", str(found)],
        capture_output=True, text=True, env=environment, timeout=110, check=False,
    )  # fmt: skip
    assert found.exists(), done.stderr
    assert "Traceback" not in done.stderr
    result = json.loads(found.read_text())
    assert [line for line in result["failed"] if not line.startswith("rss")] == []
    assert result["packets"]["received"] == result["sent"] > 0
    assert "unaccounted" not in result["packets"]["drops"]
