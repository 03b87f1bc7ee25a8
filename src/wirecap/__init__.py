"""WireCAP: lossless packet capture on commodity NICs.

``wirecap.open`` captures from an interface or a file.  Nothing heavy is imported before it is used, so that
``wirecap --help`` answers at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from wirecap.version import __version__

if TYPE_CHECKING:
    from wirecap.api import Capture, Chunk, Outcome, capture, open
    from wirecap.config.keep import keep
    from wirecap.engine.fields import Fields
    from wirecap.engine.packet import Packet
    from wirecap.errors import SystemCallError, UsageError, WirecapError
    from wirecap.handlers.tables import Counter, Histogram, Top, Trigger
    from wirecap.handlers.triggers import trigger
    from wirecap.handlers.user import chunk_handler, handler, packet_handler
    from wirecap.mapping.map import map
    from wirecap.run.packet_writer import PacketWriter, write


__all__ = [
    "Capture", "Chunk", "Counter", "Fields", "Histogram", "Outcome", "Packet", "PacketWriter", "SystemCallError", "Top",
    "Trigger", "UsageError", "WirecapError", "__version__", "capture", "chunk_handler", "handler", "keep", "map",
    "open", "packet_handler", "trigger", "write",
]  # fmt: skip

# name -> the module that defines it
_HOMES = {
    "Capture": "wirecap.api",
    "Chunk": "wirecap.api",
    "Counter": "wirecap.handlers.tables",
    "Fields": "wirecap.engine.fields",
    "Histogram": "wirecap.handlers.tables",
    "Outcome": "wirecap.api",
    "Packet": "wirecap.engine.packet",
    "PacketWriter": "wirecap.run.packet_writer",
    "SystemCallError": "wirecap.errors",
    "Top": "wirecap.handlers.tables",
    "Trigger": "wirecap.handlers.tables",
    "UsageError": "wirecap.errors",
    "WirecapError": "wirecap.errors",
    "capture": "wirecap.api",
    "chunk_handler": "wirecap.handlers.user",
    "handler": "wirecap.handlers.user",
    "keep": "wirecap.config.keep",
    "map": "wirecap.mapping.map",
    "open": "wirecap.api",
    "packet_handler": "wirecap.handlers.user",
    "trigger": "wirecap.handlers.triggers",
    "write": "wirecap.run.packet_writer",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'wirecap' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
