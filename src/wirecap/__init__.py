"""WireCAP: lossless packet capture on commodity NICs.

``wirecap.open`` captures from an interface or a file.  Nothing heavy is imported before it is used:
``wirecap --help`` answers at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wirecap.api import Capture, Chunk, Outcome, capture, open
    from wirecap.errors import SystemCallError, UsageError, WirecapError
    from wirecap.handlers.user import chunk_handler, handler, packet_handler

__version__ = "0.1.0"

__all__ = [
    "Capture", "Chunk", "Outcome", "SystemCallError", "UsageError", "WirecapError", "__version__", "capture",
    "chunk_handler", "handler", "open", "packet_handler",
]  # fmt: skip

# name -> the module that defines it
_HOMES = {
    "Capture": "wirecap.api",
    "Chunk": "wirecap.api",
    "Outcome": "wirecap.api",
    "SystemCallError": "wirecap.errors",
    "UsageError": "wirecap.errors",
    "WirecapError": "wirecap.errors",
    "capture": "wirecap.api",
    "chunk_handler": "wirecap.handlers.user",
    "handler": "wirecap.handlers.user",
    "open": "wirecap.api",
    "packet_handler": "wirecap.handlers.user",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'wirecap' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
