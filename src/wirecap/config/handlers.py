"""The handlers that ``--handler`` names: what each asks of a capture, and where its class is.

A new handler is a file with a class of ``Handler``, a line here, and a test.  Classes are named as text, so that
nothing heavy is imported before it is used.
"""

from __future__ import annotations

from dataclasses import dataclass

from wirecap.config.specs import HandlerSpec


@dataclass(frozen=True)
class HandlerKind:
    """What a handler asks of a capture; ``home`` is its class, as ``package.module:Class``, "" for a user's own."""

    home: str = ""
    keeping: str = ""
    """Its class where packets are kept in memory: --keep."""
    writes: bool = False
    """It is what -w asks for, and needs a file."""
    lends: bool = False
    """It lends whole chunks to other processes, and so works alone."""
    serves: bool = False
    """Clients connect to it: wirecap serve."""
    exports: bool = False
    """It has records to put where --to says."""
    unmapped: str = ""
    """Why it cannot be mapped over files, or what does that instead; "" if it can be."""


HANDLERS: dict[str, HandlerKind] = {
    "count": HandlerKind("wirecap.handlers.count:Count"),
    "flows": HandlerKind("wirecap.handlers.flows:Flows", exports=True),
    "pkt_handler": HandlerKind("wirecap.handlers.pkt_handler:PktHandler"),
    "queue_profiler": HandlerKind(
        "wirecap.handlers.queue_profiler:QueueProfiler", unmapped="an archive has no queues to tell apart"
    ),
    "serve": HandlerKind("wirecap.handlers.serve:Server", serves=True),
    "share": HandlerKind("wirecap.handlers.share:Share", lends=True, unmapped="capture -r with it shares one file"),
    "write": HandlerKind(
        "wirecap.handlers.write:Writer", keeping="wirecap.handlers.keeping:Keeping", writes=True,
        unmapped="wirecap convert writes files",
    ),
}  # fmt: skip


def is_users(spec: HandlerSpec) -> bool:
    """Whether the handler is a user's own: ``package.module:object``, ``./file.py:object``, or passed by a program."""
    return spec.given is not None or ":" in spec.name


def kind_of(spec: HandlerSpec) -> HandlerKind:
    """The handler's line of the table; a user's own has none, whatever it is called."""
    return HandlerKind() if is_users(spec) else HANDLERS.get(spec.name, HandlerKind())
