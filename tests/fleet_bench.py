"""bench/fleet.py as a module: its broker, sensors and collector."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

BENCH = Path(__file__).parents[1] / "bench" / "fleet.py"


def _bench() -> Any:
    spec = importlib.util.spec_from_file_location("bench_fleet", BENCH)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fleet = _bench()
