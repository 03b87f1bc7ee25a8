"""WireCAP: lossless packet capture on commodity NICs.

``wirecap.open`` captures from an interface or a file.  Nothing heavy is imported before it is used:
``wirecap --help`` answers at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wirecap.api import Capture, Chunk, open
    from wirecap.errors import SystemCallError, UsageError, WirecapError

__version__ = "0.1.0"

__all__ = ["Capture", "Chunk", "SystemCallError", "UsageError", "WirecapError", "__version__", "open"]

# name -> the module that defines it
_HOMES = {
    "Capture": "wirecap.api",
    "Chunk": "wirecap.api",
    "SystemCallError": "wirecap.errors",
    "UsageError": "wirecap.errors",
    "WirecapError": "wirecap.errors",
    "open": "wirecap.api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'wirecap' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
