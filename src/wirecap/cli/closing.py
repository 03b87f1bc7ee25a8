"""What a capture says at its end: tcpdump's counters, every drop by its name, and the summary as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def counters(summary: Mapping[str, Any], writing: bool = False) -> list[str]:
    """The closing lines for a summary object, in tcpdump's words; a drop that is zero is not shown.

    writing: the packets went to a file; how many is said where it is not all of them.
    """
    packets = summary["packets"]
    lines = [
        _line(packets["delivered"], "captured"),
        _line(packets["received"] - packets["filtered_out"], "received by filter"),
    ]
    if packets["filtered_out"]:
        lines.append(_line(packets["filtered_out"], "not wanted by filter"))
    if packets["offloaded"]:
        lines.append(_line(packets["offloaded"], "handed to a buddy"))
    if packets["forwarded"] or "outputs" in summary:
        lines.append(_line(packets["forwarded"], "forwarded"))
    if packets.get("reordered"):
        lines.append(_line(packets["reordered"], "sent behind later ones of their queue"))
    if writing and packets["written"] != packets["delivered"]:
        lines.append(_line(packets["written"], "written"))
        lines.append(_line(packets["delivered"] - packets["written"], "not written"))
    drops = {name: number for name, number in packets["drops"].items() if number}
    if unread := drops.pop("unread_at_stop", 0):  # behind the last packet of -c: nothing is wrong
        lines.append(_line(unread, "unread when the capture ended"))
    lost = [_line(number, f"dropped: {name.replace('_', ' ')}") for name, number in drops.items()]
    return lines + (lost or [_line(0, "dropped")])


def per_queue(summary: Mapping[str, Any]) -> list[str]:
    """One line for each receive queue."""
    return [
        f"{row['interface']} queue {row['queue']}: {row['received']} received, {row['delivered']} captured,"
        f" {row['offloaded']} handed to a buddy, {row['dropped']} dropped"
        for row in summary["per_queue"]
    ]


def outputs(summary: Mapping[str, Any]) -> list[str]:
    """One line for each transmit queue."""
    return [
        f"{row['interface']} transmit queue {row['queue']}: {row['forwarded']} forwarded,"
        f" {sum(row['drops'].values())} dropped"
        for row in summary["outputs"]
    ]


def failures(summary: Mapping[str, Any]) -> list[str]:
    """One line for each handler that failed and went on."""
    return [
        f"handler {row['name']} failed {row['failures']} time{'' if row['failures'] == 1 else 's'}, and went on"
        for row in summary["handlers"]
        if row["failures"]
    ]


def results(summary: Mapping[str, Any]) -> list[str]:
    """What users' handlers came to: one JSON object for each that has a result."""
    return [json.dumps({row["name"]: row["result"]}) for row in summary["handlers"] if row["result"] is not None]


def _line(number: int, what: str) -> str:
    return f"{number} packet{'' if number == 1 else 's'} {what}"


def write_json(summary: Mapping[str, Any], path: str) -> None:
    """Write the summary as one JSON object, into a file or (``-``) to the standard output."""
    text = json.dumps(summary) + "\n"
    if path == "-":
        sys.stdout.write(text)
        sys.stdout.flush()
    else:
        Path(path).write_text(text)
