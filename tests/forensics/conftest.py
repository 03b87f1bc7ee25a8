from __future__ import annotations

from rig import time_limit

__all__ = ["time_limit"]
