from __future__ import annotations

from certificates import certificates
from rig import time_limit

__all__ = ["certificates", "time_limit"]
