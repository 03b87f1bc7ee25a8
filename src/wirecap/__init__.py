"""WireCAP: lossless packet capture on commodity NICs.

``wirecap.open`` captures from an interface or a file; ``wirecap.handler`` compiles a user's handler.
Nothing heavy is imported before it is used: ``wirecap --help`` answers at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# name -> the module that defines it
_HOMES: dict[str, str] = {
    "open": "wirecap.api",
    "WirecapError": "wirecap.errors",
    "UsageError": "wirecap.errors",
    "SystemCallError": "wirecap.errors",
}

__all__ = ["SystemCallError", "UsageError", "WirecapError", "__version__", "open"]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'wirecap' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
