from __future__ import annotations

import sys
from pathlib import Path

from patience import patience
from rig import time_limit

__all__ = ["patience", "time_limit"]

sys.path.insert(0, str(Path(__file__).parent))
