"""The handlers that ``--handler`` names, as text: nothing heavy is imported before one is used."""

from __future__ import annotations

HANDLERS: dict[str, str] = {
    "count": "wirecap.handlers.count:Count",
    "flows": "wirecap.handlers.flows:Flows",
    "pkt_handler": "wirecap.handlers.pkt_handler:PktHandler",
    "queue_profiler": "wirecap.handlers.queue_profiler:QueueProfiler",
    "serve": "wirecap.handlers.serve:Server",
    "share": "wirecap.handlers.share:Share",
    "write": "wirecap.handlers.write:Writer",
}
"""Each name's class, as ``package.module:Class``.  A new handler is a file with a class of ``Handler``, a line here,
and a test."""
