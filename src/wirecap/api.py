"""The Python interface: ``wirecap.open``."""

from __future__ import annotations

from wirecap.run import run_capture

__all__ = ["run_capture"]
