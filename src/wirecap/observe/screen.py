"""How ``wirecap top`` looks: lines of rich's text, for each capture."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rich.console import Group
from rich.text import Text

from wirecap.observe.counters import Counters, QueueCounters
from wirecap.observe.rates import QueueRates, Rates, ordered
from wirecap.units import format_bit_rate, format_duration_ns, format_packet_rate, format_size

BAR, SHORT_BAR = 20, 8
"""Characters of the bar of a queue's depth."""
STALE_S = 2.0
"""Counters that are older than this are said to be."""


def screen(captures: Sequence[Rates], notes: Iterable[str], sort: str, keys: bool, width: int) -> Group:
    """Everything, one below the other.  notes: lines at the end.  keys: whether there are any.  width: columns."""
    lines = [line for each in captures for line in capture(each, sort, width)]
    if not captures:
        lines.append(Text("no capture is running"))
    lines += [Text(note, "yellow") for note in notes]
    if keys:
        lines.append(Text(f"q: quit   s: sort (now by {sort})", "dim"))
    return Group(*lines)


def capture(rates: Rates, sort: str, width: int) -> list[Text]:
    """The lines of one capture."""
    now = rates.now
    up = format_duration_ns(max(0, round(now.elapsed_s * 1e9)))
    state = "   ending" if now.ending else ""
    if (age := age_s(now)) > STALE_S:  # stopped, or out of processor time
        state += f"   no news for {age:.0f} s"
    pool = f"{now.engine}, {now.mode}   M {now.M}  R {now.R}  T {now.T} %"
    lines = [Text(now.place, "bold cyan"), Text(f"{pool}   up {up}{state}"), *_queues(rates, sort, width)]
    lines += [Text(line) for line in (*_nics(rates), *_outputs(rates), *_disk(rates), *_serving(now))]
    return [*lines, _threads(now), Text("")]


HEADINGS = ("NIC", "queue", "packets", "bits", "depth, T", "free", "filling", "busy", "dropped", "offloading")
TO_THE_LEFT = ("NIC", "depth, T", "dropped", "offloading")
_CHUNKS = ("free", "filling", "busy")


class TableForm(NamedTuple):
    """How the table is made: the bar's characters, columns that are left out, and whether drops by name and offloading
    are on lines of their own below a queue."""

    bar: int
    left_out: tuple[str, ...] = ()
    below: bool = False


FORMS = (
    TableForm(BAR), TableForm(SHORT_BAR), TableForm(SHORT_BAR, (), True), TableForm(SHORT_BAR, _CHUNKS),
    TableForm(SHORT_BAR, _CHUNKS, True), TableForm(SHORT_BAR, (*_CHUNKS, "bits"), True),
)  # fmt: skip
"""The widest first."""


def _queues(rates: Rates, sort: str, width: int) -> list[Text]:
    """The table in the widest form that fits."""
    queues = ordered(rates.queues, sort)
    lines: list[Text] = []
    for form in FORMS:
        lines = _table(queues, rates.now, form)
        if max(len(line) for line in lines if line.no_wrap) <= width:
            break
    return lines


def _table(queues: Sequence[QueueRates], now: Counters, form: TableForm) -> list[Text]:
    """Not rich's: laying that out twice a second takes a multiple of the time."""
    left_out = (*form.left_out, *(("offloading",) if form.below else ()))
    headings = [name for name in HEADINGS if name not in left_out]
    rows = [{name: Text(name, "bold") for name in headings}]
    rows += [_row(each, now, form) for each in queues]
    widths = {name: max(len(row[name]) for row in rows) for name in headings}
    lines = []
    for each, row in zip((None, *queues), rows, strict=True):
        line = Text(no_wrap=True, overflow="crop")
        for name in headings:
            cell, space = row[name], " " * (widths[name] - len(row[name]))
            line.append_text(cell).append(space) if name in TO_THE_LEFT else line.append(space).append_text(cell)
            line.append("  ")
        line.rstrip()
        lines.append(line)
        if each and form.below:
            lines += _below(each, now)
    return lines


def _row(each: QueueRates, now: Counters, form: TableForm) -> dict[str, Text]:
    counters = each.counters
    plain = {
        "NIC": counters.interface, "queue": str(counters.queue), "packets": format_packet_rate(each.received),
        "bits": format_bit_rate(each.bits), "free": str(counters.free_chunks),
        "filling": str(counters.slots.get("filling", 0)), "busy": str(counters.slots.get("captured", 0)),
    }  # fmt: skip
    dropped = Text(f"{counters.dropped:,}", "red") if form.below and counters.dropped else _drops(counters)
    drawn = {"depth, T": bar(each.depth, now.R, now.T, form.bar), "dropped": dropped}
    return {name: Text(text) for name, text in plain.items()} | drawn | {"offloading": _offloading(each, now)}


def _below(each: QueueRates, now: Counters) -> list[Text]:
    """Drops by name and offloading, where there are any."""
    lines = [Text.assemble("  dropped: ", _drops(each.counters))] if each.counters.dropped else []
    return [*lines, *([Text.assemble("  offloading: ", _offloading(each, now))] if each.counters.offloaded else [])]


def bar(depth: int, R: int, T: int, size: int = BAR) -> Text:
    """``####---|----  12``: how much of R waits, with a line at T."""
    filled, line = min(size, -(-depth * size // R)), min(size - 1, T * size // 100)
    style = "red" if depth * 100 > T * R else "green"
    cells = "█" * filled + "·" * (size - filled)
    text = Text(f"{cells[:line]}│{cells[line + 1 :]} {depth}", style)
    text.stylize("yellow", line, line + 1)
    return text


def _offloading(each: QueueRates, now: Counters) -> Text:
    if not each.counters.offloaded:
        return Text("-")
    near = each.counters.interface
    homes = {queue.consumer: f"{queue.interface} {queue.queue}".removeprefix(f"{near} ") for queue in now.queues}
    to = [f"{format_packet_rate(rate)} to {homes.get(who, str(who))}" for who, rate in each.to.items()]
    return Text(", ".join(to) or f"{each.counters.offloaded:,} so far", "cyan")


def _drops(counters: QueueCounters) -> Text:
    lost = [f"{number:,} {name.replace('_', ' ')}" for name, number in counters.drops.items() if number]
    return Text(", ".join(lost), "red") if lost else Text("none", "green")


def _nics(rates: Rates) -> list[str]:
    """The sum over each NIC that has several queues."""
    lines = []
    for name in rates.now.interfaces:
        rows = rates.of_interface(name)
        if len(rows) > 1:
            packets, bits = sum(each.received for each in rows), sum(each.bits for each in rows)
            total = sum(each.counters.received for each in rows)
            rate = f"{format_packet_rate(packets)}, {format_bit_rate(bits)}"
            lines.append(f"{name}: {rate}, {total:,} packets received")
    return lines


def _outputs(rates: Rates) -> list[str]:
    lines = []
    for each, rate in zip(rates.now.outputs, rates.sent, strict=True):
        lost = [f"{number:,} {name.replace('_', ' ')}" for name, number in each.drops.items() if number]
        drops = f"; dropped: {', '.join(lost)}" if lost else ""
        sent = f"{format_packet_rate(rate)}, {each.forwarded:,} packets sent"
        lines.append(f"out {each.interface} queue {each.queue}: {sent}{drops}")
    return lines


def _disk(rates: Rates) -> list[str]:
    if (disk := rates.now.disk) is None:
        return []
    files = f"{disk.files} file{'' if disk.files == 1 else 's'}"
    written = f"{format_size(round(rates.written_bytes))}/s, {format_size(disk.bytes)} in {files}"
    lines = [f"{disk.path}: {written}"]
    if disk.size > 0:
        lines[0] += f"; disk {format_size(disk.free)} free of {format_size(disk.size)}"
    bounds = []
    if disk.limit >= 0:
        held = f", {format_size(disk.held)} taken" if disk.held >= 0 else ""
        bounds.append(f"at most {format_size(disk.limit)}{held}")
    if disk.min_free >= 0:
        bounds.append(f"{format_size(disk.min_free)} left free")
    if disk.max_age_ns >= 0:
        bounds.append(f"not older than {format_duration_ns(disk.max_age_ns)}")
    if bounds:
        removed = f"{disk.removed_files} file{'' if disk.removed_files == 1 else 's'} removed"
        lines.append(f"bounds: {'; '.join(bounds)}; {removed}")
    return lines


MOST_CLIENTS = 8


def _serving(now: Counters) -> list[str]:
    """Those clients that have lost most, if there are many."""
    if (serving := now.serving) is None:
        return []
    lost = sum(serving.drops.values())
    who = f"{_count(len(serving.clients), 'client')}, {serving.served:,} so far"
    lines = [f"serving on {serving.listen}: {who}; {serving.sent:,} packets sent, {lost:,} lost by clients"]
    clients = sorted(serving.clients, key=lambda each: -sum(each.drops.values()))
    for each in clients[:MOST_CLIENTS]:
        drops = ", ".join(f"{number:,} {name.replace('_', ' ')}" for name, number in each.drops.items() if number)
        wants = f" ({each.filter})" if each.filter else ""
        waiting = f", {each.waiting:,} waiting" if each.waiting else ""
        lines.append(f"  {each.address}{wants}: {each.sent:,} sent{waiting}; dropped: {drops or 'none'}")
    if len(clients) > MOST_CLIENTS:
        lines.append(f"  and {_count(len(clients) - MOST_CLIENTS, 'more client')}")
    return lines


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _threads(now: Counters) -> Text:
    """Processor time of each thread since the start, in percent, kind by kind."""
    seconds = now.capture_seconds | {each.name: each.seconds for each in now.consumers}
    kinds: dict[str, list[str]] = {}
    for name, spent in seconds.items():
        kinds.setdefault(name.partition(" ")[0], []).append(f"{100 * spent / max(now.elapsed_s, 1e-9):.0f}")
    shares = "; ".join(f"{kind} {' '.join(found)}" for kind, found in kinds.items())
    return Text(f"% of a core: {shares}", "dim")


def age_s(counters: Counters) -> float:
    """How long ago the counters were taken."""
    return time.monotonic() - counters.time_ns * 1e-9
