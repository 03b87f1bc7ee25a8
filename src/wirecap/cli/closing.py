"""A capture as a command runs it, and what it says: tcpdump's counters, every drop by its name, the summary as JSON."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from wirecap.config import CaptureConfig, WriteConfig
from wirecap.files.names import STANDARD_OUTPUT
from wirecap.forward_config import ForwardConfig
from wirecap.observe import progress


def run(
    given: Mapping[str, Any], config: CaptureConfig, write: WriteConfig | None = None,
    forward: ForwardConfig | None = None,
) -> None:  # fmt: skip
    """Capture and tell: the counters when SIGUSR1 comes, everything at the end, also that of a run that failed."""
    from wirecap import api  # brings in NumPy and Numba

    display = progress.choose(given["quiet"])

    def tell(summary: dict[str, Any], ended: bool) -> None:
        display.close()
        if not ended:
            with contextlib.suppress(OSError):  # nobody reads it any more: the capture goes on
                _say(counters(summary))
            return
        if "handlers" in summary:
            from wirecap.handlers.state import plain

            summary = {**summary, "handlers": plain(summary["handlers"])}
        try:
            _tell_end(summary, given, write)
        finally:  # also when nobody reads what is printed any more
            if given["summary_json"]:
                write_json(summary, given["summary_json"])

    try:
        api.run_capture(config, write, display, forward, tell)
    finally:
        display.close()


def _tell_end(summary: Mapping[str, Any], given: Mapping[str, Any], write: WriteConfig | None) -> None:
    lines = counters(summary, writing=write is not None)
    if given["verbose"]:
        lines += per_queue(summary) + outputs(summary)
    if given["keep_going"]:
        lines += failures(summary)
    _say(lines)
    taken = given["summary_json"] == "-" or (write and (write.path == "-" or write.ring_print in STANDARD_OUTPUT))
    if given.get("count_only"):
        click.echo(_packets(summary["packets"]["delivered"]))
    for line in () if taken else results(summary):
        click.echo(line)


def _say(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(line, err=True)


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
    if packets.get("written_late"):
        lines.append(_line(packets["written_late"], "written behind later ones"))
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
    """One line for each transmit queue of a forwarder."""
    return [
        f"{row['interface']} transmit queue {row['queue']}: {row['forwarded']} forwarded,"
        f" {sum(row['drops'].values())} dropped"
        for row in summary.get("outputs", ())
    ]


def failures(summary: Mapping[str, Any]) -> list[str]:
    """One line for each handler that failed and went on."""
    return [
        f"handler {row['name']} failed {row['failures']} time{'' if row['failures'] == 1 else 's'}, and went on"
        for row in summary.get("handlers", ())
        if row["failures"]
    ]


def results(summary: Mapping[str, Any]) -> list[str]:
    """What users' handlers came to: one JSON object for each that has a result."""
    rows = [row for row in summary.get("handlers", ()) if row["result"] is not None]
    return [json.dumps({row["name"]: row["result"]}) for row in rows]


def _packets(number: int) -> str:
    return f"{number} packet{'' if number == 1 else 's'}"


def _line(number: int, what: str) -> str:
    return f"{_packets(number)} {what}"


def write_json(summary: Mapping[str, Any], path: str, indent: int | None = None) -> None:
    """Write the summary as one JSON object, into a file or (``-``) to the standard output."""
    text = json.dumps(summary, indent=indent) + "\n"
    if path == "-":
        sys.stdout.write(text)
        sys.stdout.flush()
    else:
        Path(path).write_text(text)
