"""Faults on real testbeds; each test has a limit of time."""

from __future__ import annotations

from rig import time_limit

__all__ = ["time_limit"]
