from __future__ import annotations

from patience import patience

__all__ = ["patience"]
