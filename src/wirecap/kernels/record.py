"""A thread's record as Python sees it: its fields as attributes, in memory that a compiled handler shares."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np


class Record:
    """Numbers as Python's own, arrays as views.  (NumPy's records hide fields named size, max or sum.)"""

    __slots__ = ("_row",)

    def __init__(self, address: int, kind: np.dtype[Any]) -> None:
        octets = np.ctypeslib.as_array((ctypes.c_uint8 * kind.itemsize).from_address(address))
        object.__setattr__(self, "_row", octets.view(kind)[0])

    def __getattr__(self, name: str) -> Any:
        if name not in (self._row.dtype.names or ()):
            raise AttributeError(f"state has no {name!r}")
        field = self._row[name]
        return field if isinstance(field, np.ndarray) else field.item()

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in (self._row.dtype.names or ()):
            raise AttributeError(f"state has no {name!r}")
        self._row[name] = value

    def __repr__(self) -> str:
        return f"Record({', '.join(f'{name}={getattr(self, name)!r}' for name in self._row.dtype.names or ())})"
