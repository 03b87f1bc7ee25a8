"""What helps against each kind of drop (docs/drops.md), with options that the same command line takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from wirecap.config.capture import CELLS
from wirecap.config.sources import SOURCES
from wirecap.linux.ethtool import SEGMENTS_OFF

Summary = Mapping[str, Any]
Given = Mapping[str, Any]


def remedy(name: str, summary: Summary, given: Given) -> str:
    """Why packets were dropped under this name, and what helps; given: the command's options."""
    if name not in _REMEDIES or "engine" not in summary:  # then nothing is known of the pool
        return ""
    return _REMEDIES[name](summary, given)


def standing_out(name: str, summary: Summary) -> str:
    """``eth1 queue 3`` if most of these drops are one queue's, of several; else an empty string."""
    rows = summary.get("per_queue", ())
    counts = [row.get("drops", {}).get(name, 0) for row in rows]
    if len(rows) < 2 or not any(counts):
        return ""
    most = max(counts)
    if most * len(counts) < 1.5 * sum(counts) or most * 2 < sum(counts):
        return ""
    row = rows[counts.index(most)]
    share = "all" if most == sum(counts) else f"{100 * most // sum(counts)} %"
    return f"{share} on {row['interface']} queue {row['queue']}"


def _larger_pool(summary: Summary, given: Given) -> str:
    kind = SOURCES.get(summary["engine"])
    if kind and kind.ring_is_pool and given.get("ring_cells"):
        return f"raise --ring (now {given['ring_cells']})"
    if given.get("buffer_size"):
        return f"raise -B (now {given['buffer_size'].typed})"
    advised = [one["R"] for row in summary.get("losses", ()) for one in row["advice"] if one["mode"] == summary["mode"]]
    enough = f" to {max(advised)}" if advised else ""
    return f"raise -R{enough} (now {summary['R']})"


def _pool_exhausted(summary: Summary, given: Given) -> str:
    helps = [_larger_pool(summary, given)]
    largest: Summary = max(summary.get("losses", ()), key=lambda one: int(one["packets"]), default={})
    if given.get("write_path") and largest.get("slow") != "handler":
        slow = "writing is slower than the traffic"
        helps.append("keep less of each packet with -s")
    else:
        slow = "the handler is slower than the traffic"
        if summary["mode"] == "basic" and summary["queues"] > 1:
            helps.append("use --mode advanced")
    return f"{slow}; {' or '.join(helps)}"


def _capture_late(summary: Summary, given: Given) -> str:
    helps = []
    if given.get("ring_cells"):
        helps.append(f"raise --ring (now {given['ring_cells']}), or leave it out")
    if summary["queues"] > 1 and given.get("capture_threads") is None:
        helps.append("use fewer --capture-threads than queues")
    return f"the capture thread got no CPU in time; {', or '.join([*helps, 'leave it a CPU of its own with --cpus'])}"


def _ring_full(summary: Summary, given: Given) -> str:
    return (
        f"the handler is slower than the traffic; raise --ring (now {summary['M'] * summary['R']}),"
        " or use --engine xdp, which has a pool"
    )


def _oversize(summary: Summary, given: Given) -> str:
    larger = max(CELLS)
    if known := summary.get("remedies", {}).get("oversize"):
        return f"longer than a cell; {known}"
    helps = [f"use --cell {larger}"] if given.get("cell", larger) < larger else []
    return f"longer than a cell; {', or '.join([*helps, 'switch off the offloads that merge packets (ethtool -K)'])}"


def _tx_ring_full(summary: Summary, given: Given) -> str:
    helps = ["raise --tx-wait"]
    if given.get("queue_by") == "same":
        helps.append("use --tx-queue least")
    return f"the outgoing NIC is slower than the traffic; {' or '.join(helps)}"


def _tx_too_long(summary: Summary, given: Given) -> str:
    if summary.get("xdp_mode") == "generic":
        return f"segments that a local sender leaves to its device; there: ethtool -K INTERFACE {SEGMENTS_OFF}"
    return "longer than the outgoing NIC's MTU; give both NICs the same MTU"


def _handler_failed(summary: Summary, given: Given) -> str:
    return "fix the handler, or count and pass such packets with --keep-going"


def nic_no_buffer(summary: Summary) -> str:
    """What helps against losses of the NIC itself."""
    if summary.get("zero_copy"):
        return (
            "the pool had no free cell, or the NIC was faster than this CPU;"
            f" raise -R (now {summary['R']}), use longer rings (ethtool -G) or more queues (ethtool -L)"
        )
    return "the NIC was faster than this CPU; use longer rings (ethtool -G) or more queues (ethtool -L)"


_REMEDIES: dict[str, Callable[[Summary, Given], str]] = {
    "pool_exhausted": _pool_exhausted,
    "capture_late": _capture_late,
    "rx_ring_full": _capture_late,
    "ring_full": _ring_full,
    "oversize": _oversize,
    "tx_ring_full": _tx_ring_full,
    "handler_failed": _handler_failed,
    "by_handler": lambda summary, given: "a handler decided so; nothing is wrong",
    "tx_refused": lambda summary, given: "the other end is down or full; set it up, or let its reader catch up",
    "tx_too_long": _tx_too_long,
    "tx_unfinished": lambda summary, given: "the outgoing NIC stopped sending; set it up",
    "unaccounted": lambda summary, given: "this must never happen; please report it",
}
