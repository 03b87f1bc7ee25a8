"""Runs a capture for a command and reports on it: tcpdump's counters, every drop by name, the summary as JSON."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from wirecap.cli.remedies import nic_no_buffer, remedy, standing_out
from wirecap.config.capture import CaptureConfig, WriteConfig
from wirecap.config.forward import ForwardConfig
from wirecap.files.finished import STANDARD_ERROR, STANDARD_OUTPUT
from wirecap.files.rotation import naming
from wirecap.files.shared import write_text
from wirecap.observe import live_line, log
from wirecap.observe.manager import Manager
from wirecap.observe.ready import Ready

if TYPE_CHECKING:
    from wirecap.linux.confinement import Confinement
    from wirecap.run.reload import Reload


def run(
    given: Mapping[str, Any], config: CaptureConfig, write: WriteConfig | None = None,
    forward: ForwardConfig | None = None, reload: Reload | None = None,
) -> None:  # fmt: skip
    """Capture and report: the counters on SIGUSR1, and everything at the end, even of a run that failed."""
    log.begin_run()
    confinement = _confinement(given, config, write)
    with _one_thread() if confinement else contextlib.nullcontext():
        from wirecap import api  # brings in NumPy

    if log.is_json():
        from wirecap.kernels.base import cache

        cache.say = lambda line: log.tell(line, "cache", "warning")
    ready = Ready(given["ready_file"])
    on_screen = bool(
        write and write.printing and sys.stdout and sys.stdout.isatty()
    )  # packets would tear the live line
    display = live_line.open_display(given["quiet"], ready=ready.tell, live=not on_screen)

    def tell(summary: dict[str, Any], ended: bool) -> None:
        display.close()
        if not ended:
            with contextlib.suppress(OSError):  # if nobody reads it any more, the capture goes on
                _say(so_far(summary, given), "counters", summary, given)
            return
        tables: list[str] = []
        if "handlers" in summary:
            from wirecap.handlers.state import plain, tables_as_lines

            tables = tables_as_lines(summary["handlers"])
            summary = {**summary, "handlers": plain(summary["handlers"])}
        try:
            _tell_end(summary, given, config, write, tables)
        finally:  # even if nobody reads the output any more
            if given["summary_json"]:
                write_json(summary, given["summary_json"])

    try:
        api.run_capture(
            config, write, display, forward, tell, manager=Manager(), reload=reload,
            confinement=confinement,
        )  # fmt: skip
    finally:
        display.close()
        ready.close()


def _confinement(
    given: Mapping[str, Any], config: CaptureConfig, write: WriteConfig | None
) -> Confinement | None:  # fmt: skip
    """What the process keeps of its rights, if it is a command's own; None if a program has called us."""
    if not click.get_current_context().find_root().obj:
        return None
    from wirecap.linux.confinement import Confinement

    asked = ("summary_json", "decisions_file", "html_file", "ready_file", "config_file", "filter_file")
    paths = [given.get(name) for name in asked] + [target[5:] for target in config.to if target.startswith("file:")]
    if config.spool:
        paths.append(config.spool)
    if write:
        paths += [write.path, write.ring_print]
    return Confinement(
        engine=config.engine if config.sources else "", netns=config.netns is not None,
        port=config.metrics.port if config.metrics else 0, printing=bool(write and write.printing),
        paths=[path for path in paths if path and path not in (*STANDARD_OUTPUT, STANDARD_ERROR)],
        seccomp=given["seccomp"],
    )  # fmt: skip


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Keep NumPy's OpenBLAS, while it is loaded, from starting threads: nothing uses them, and they keep all rights."""
    name = "OPENBLAS_NUM_THREADS"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


def _tell_end(
    summary: Mapping[str, Any], given: Mapping[str, Any], config: CaptureConfig, write: WriteConfig | None,
    tables: list[str],
) -> None:  # fmt: skip
    """tables: the lines for handlers' counters by key."""
    lines = counters(summary, given, writing=write is not None and not write.only_printed)
    if write and (write.rotates or write.file_for_each or write.bounds or write.per_queue):
        files = summary["files_written"]
        named = f", the first called {naming(write)}" if write.bounds and not (write.rotates or write.per_queue) else ""
        lines.append(f"{files} file{'' if files == 1 else 's'} written{named}")
    if given["verbose"]:
        lines += per_queue(summary) + outputs(summary)
    if given["keep_going"]:
        lines += failures(summary)
    _say(lines + served(summary) + flows(summary) + tables, "ended", summary, given)
    taken = (
        given["summary_json"] == "-"
        or "-" in config.to
        or (write and (write.path == "-" or write.ring_print in STANDARD_OUTPUT))
    )
    if given.get("count_only"):
        click.echo(_packets(summary["packets"]["delivered"]))
    for line in () if taken else results(summary):
        click.echo(line)


def _say(lines: Iterable[str], event: str, summary: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """The lines; as JSON one object with the counters, and one more for each kind of drop."""
    if not log.is_json():
        for line in lines:
            click.echo(line, err=True)
        return
    known = {
        name: summary[name]
        for name in ("packets", "nic_drops", "files_written", "duration_s", "notes")
        if name in summary
    }
    log.tell("; ".join(lines), event, **known)
    for name, number in summary["packets"]["drops"].items():
        if number and name != "unread_at_stop":
            fields = {"reason": name, "packets": number, "remedy": remedy(name, summary, given)}
            log.tell(_drop(name, number, summary, given), "dropped", "warning", **fields)


def counters(
    summary: Mapping[str, Any], given: Mapping[str, Any] | None = None, writing: bool = False
) -> list[str]:  # fmt: skip
    """The closing lines for a summary object, in tcpdump's words; drops of zero are left out.

    given: the command's options, for what helps against drops.  writing: packets went to a file; if not all of them
    did, a line says how many.
    """
    packets = summary["packets"]
    reading = summary.get("engine") == "file"
    lines = [
        _line(packets["received"], "read") if reading else _line(packets["delivered"], "captured"),
        _line(packets["received"] - packets["filtered_out"], "received by filter"),
    ]
    if packets["filtered_out"]:
        lines.append(_line(packets["filtered_out"], "rejected by filter"))
    if packets["offloaded"]:
        lines.append(_line(packets["offloaded"], "handed to a buddy"))
    if packets["forwarded"] or "outputs" in summary:
        lines.append(_line(packets["forwarded"], "forwarded"))
    if len(ways := summary.get("directions", ())) > 1:
        lines += [
            f"{way['from']} -> {', '.join(way['to'])}: {way['received']} received, {way['forwarded']} forwarded"
            for way in ways
        ]
    if packets.get("checksums_finished"):
        lines.append(_line(packets["checksums_finished"], "had a checksum to be finished"))
    if packets.get("reordered"):
        lines.append(_line(packets["reordered"], "sent out of order"))
    if kept := summary.get("kept"):
        lines += saved(packets, kept)
    elif writing and packets["written"] != packets["delivered"]:
        lines.append(_line(packets["written"], "written"))
        lines.append(_line(packets["delivered"] - packets["written"], "not written"))
    if late := min(packets.get("written_late", 0), packets.get("written", 0)):
        lines.append(_line(late, "written out of order"))
    not_printed = packets.get("not_printed", {})
    lines += [
        f"not printed: {_packets(number)} ({name})"
        for name, number in not_printed.items()
        if number and name != "output_closed"
    ]
    drops = {name: number for name, number in packets["drops"].items() if number}
    if unread := drops.pop("unread_at_stop", 0):  # packets after the last one of -c: nothing is wrong
        lines.append(_line(unread, "unread when the capture ended"))
    if waiting := packets.get("pending"):
        lines.append(_line(waiting, "waiting in the pool"))
    lost = [_drop(name, number, summary, given or {}) for name, number in drops.items()]
    far = [_line(number, f"dropped by the server: {_spoken(name)}") for name, number in _server_drops(summary).items()]
    near = _nic_drops(summary)
    return [*lines, *(lost or [_line(0, "dropped")]), *near, *far, *_losses(summary), *summary.get("notes", ())]


def _nic_drops(summary: Mapping[str, Any]) -> list[str]:
    """What NICs lost before the hook, and what helps."""
    if not summary.get("nic_drops"):
        return []
    from wirecap.linux.nic_losses import told

    return [f"{line}: {nic_no_buffer(summary)}" for line in told(summary["nic_drops"])]


def _server_drops(summary: Mapping[str, Any]) -> Mapping[str, int]:
    found: Mapping[str, int] = summary.get("server_drops", {})
    return found


def _spoken(name: str) -> str:
    return name.replace("_", " ")


def _losses(summary: Mapping[str, Any]) -> list[str]:
    """When packets were lost, who was slow, and what would have held them."""
    if not summary.get("losses"):
        return []
    from wirecap.forensics.explain import lines

    return lines(summary["losses"], summary["losses_left_out"])


def so_far(summary: Mapping[str, Any], given: Mapping[str, Any] | None = None) -> list[str]:
    """The counters of a run that goes on."""
    first, *others = counters(summary, given)
    return [f"{first} so far", *others]


def _drop(name: str, number: int, summary: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """``5 packets dropped: pool exhausted (all on eth1 queue 3): why; what helps``."""
    where, help = standing_out(name, summary), remedy(name, summary, given)
    line = _line(number, f"dropped: {name.replace('_', ' ')}") + (f" ({where})" if where else "")
    return f"{line}: {help}" if help else line


def per_queue(summary: Mapping[str, Any]) -> list[str]:
    """One line per receive queue."""
    came, taken = ("read", "handled") if summary.get("engine") == "file" else ("received", "captured")
    return [
        f"{row['interface']} queue {row['queue']}: {row['received']} {came}, {row['delivered']} {taken},"
        f" {row['offloaded']} handed to a buddy, {row['dropped']} dropped"
        for row in summary["per_queue"]
    ]


def outputs(summary: Mapping[str, Any]) -> list[str]:
    """One line per transmit queue of a forwarder."""
    return [
        f"{row['interface']} transmit queue {row['queue']}: {row['forwarded']} forwarded,"
        f" {sum(row['drops'].values())} dropped"
        for row in summary.get("outputs", ())
    ]


def saved(packets: Mapping[str, Any], kept: Mapping[str, Any]) -> list[str]:
    """What became of packets that were kept in memory."""
    times = f"{kept['triggered']} trigger{'' if kept['triggered'] == 1 else 's'}"
    lines = [f"{_packets(packets['written'])} saved ({times})", _line(kept["packets"], "still kept, and not saved")]
    if kept["let_go"]:
        lines.append(_line(kept["let_go"], "no longer kept, and not saved"))
    if (rest := packets["delivered"] - packets["written"] - kept["packets"] - kept["let_go"]) > 0:
        lines.append(_line(rest, "not written"))
    return lines


def failures(summary: Mapping[str, Any]) -> list[str]:
    """One line per handler that failed and carried on."""
    return [
        f"handler {row['name']} failed {row['failures']} time{'' if row['failures'] == 1 else 's'} and carried on"
        for row in summary.get("handlers", ())
        if row["failures"]
    ]


def results(summary: Mapping[str, Any]) -> list[str]:
    """The results of users' handlers: one JSON object for each that has one."""
    rows = [row for row in summary.get("handlers", ()) if row["result"] is not None]
    return [json.dumps({row["name"]: row["result"]}) for row in rows]


MOST_CLIENTS = 20
"""Clients that have a line each at the end; --json has them all."""


def served(summary: Mapping[str, Any]) -> list[str]:
    """What became of the packets client by client."""
    serving = summary.get("serving")
    if serving is None:
        return []
    rows = serving["clients"]
    lines = [
        f"client {row['address']}{': ' if row['filter'] else ''}{row['filter']}: {_packets(row['sent'])} sent"
        + (f", {row['filtered_out']} rejected by its filter" if row["filtered_out"] else "")
        + "".join(f", {number} dropped: {_spoken(name)}" for name, number in row["drops"].items())
        for row in rows[-MOST_CLIENTS:]
    ]
    served = serving["served"]
    if served > len(lines):
        lines.insert(0, f"{served - len(lines)} more clients served before these")
    if not served:
        lines.append("no client was served")
    if refused := sum(serving["refused"].values()):
        lines.append(f"{refused} client{'' if refused == 1 else 's'} refused{_named(serving['refused'])}")
    return lines


FLOW_COUNTERS = {"records", "ended", "without", "dropped"}


def flows(summary: Mapping[str, Any]) -> list[str]:
    """What became of flow records, and which packets had none."""
    results = [row["result"] for row in summary.get("handlers", ()) if row["name"] == "flows"]
    found = next((one for one in results if isinstance(one, Mapping) and one.keys() >= FLOW_COUNTERS), None)
    if found is None:  # a user's own may have that name, but not all of these
        return []
    lines = [f"{_records(found['records'])}{_named(found['ended'])}"]
    if others := sum(found["without"].values()):
        lines.append(_line(others, f"without a flow{_named(found['without'])}"))
    if lost := sum(found["dropped"].values()):
        lines.append(f"{_records(lost)} dropped{_named(found['dropped'])}")
    for way in found.get("brokers", {}).values():
        if way["spooled"]:
            why = f": {way['trouble']}" if "trouble" in way else ""
            verb = "is" if way["spooled"] == 1 else "are"
            lines.append(f"{_records(way['spooled'])} {verb} in the spool for the next capture{why}")
    return lines


def _records(number: int) -> str:
    return f"{number} flow record{'' if number == 1 else 's'}"


def _named(numbers: Mapping[str, int]) -> str:
    parts = [f"{number} {name.replace('_', ' ')}" for name, number in numbers.items() if number]
    return f": {', '.join(parts)}" if parts else ""


def _packets(number: int) -> str:
    return f"{number} packet{'' if number == 1 else 's'}"


def _line(number: int, what: str) -> str:
    return f"{_packets(number)} {what}"


def write_json(summary: Any, path: str, indent: int | None = None) -> None:
    """Write a summary or a list as JSON, to a file or (``-``) to standard output."""
    text = json.dumps(summary, indent=indent) + "\n"
    if path == "-":
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    try:
        write_text(path, text)
    except OSError as error:  # where the disk is full it does not name the file
        error.filename = path
        raise
