"""``wirecap top``: every running capture and forward of this host, twice a second."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import click

from wirecap.cli.options import Command, json_option, section, write_json
from wirecap.errors import UsageError
from wirecap.observe import counters_file
from wirecap.observe.counters import Counters
from wirecap.observe.rates import SORTS, Rates, between

EVERY_S = 0.5
WIDTH = 1000
"""Columns where the output is no terminal: nothing is cut off."""
NOTES = 5
"""How many lines about captures that are gone are kept on the screen."""

HELP = """Show every running capture and forward of this host: rates, queues, drops, disk.

It reads what captures publish and stops nothing. A user sees their own captures, root sees all.
On a terminal: q quits, s changes the order of the queues.

\b
  wirecap top
  wirecap top -i eth1 --sort drops
  wirecap top --once --json
"""

what = section("What to show")


@click.command(cls=Command, help=HELP)
@what("-i", "--interface", "interfaces", multiple=True, metavar="NAME", help="Only captures on this interface;"
      " repeatable.")  # fmt: skip
@what("--sort", type=click.Choice(SORTS), default="queue", show_default=True, help="The order of a capture's queues.")
@what("--once", is_flag=True, help="Show the state once, with the rates of half a second, and end.")
@json_option("With --once: an object for each capture,")
def command(interfaces: tuple[str, ...], sort: str, once: bool, json_file: str | None) -> None:
    if json_file and not once:
        raise UsageError("--json shows one state", "add --once")
    watch = Watch(counters_file.folder(), interfaces)
    if once:
        _once(watch, sort, json_file)
    else:
        _live(watch, sort)


class Watch:
    """The captures of a folder, on some interfaces or all: call ``look`` again and again."""

    def __init__(self, folder: Path, interfaces: tuple[str, ...] = ()) -> None:
        self._folder, self._interfaces = folder, set(interfaces)
        self._before: dict[Path, Rates] = {}
        self.notes: list[str] = []
        """What happened to captures that were shown, the latest last."""
        self.problems: list[str] = []
        """What cannot be shown now, a line each."""

    def look(self) -> list[Rates]:
        """Every capture, with the rates since the state before.  Raises UsageError if the folder cannot be read."""
        if not self._folder.is_dir():
            raise UsageError(f"{self._folder}: no such folder", "set WIRECAP_RUNTIME_DIR to what the captures use")
        found: dict[Path, Rates] = {}
        closed = 0
        self.problems = []
        for each in counters_file.scan(self._folder, self._died):
            closed += each.closed
            if each.problem and not each.closed:
                self.problems.append(each.problem)
            if each.counters and self._is_wanted(each.counters):
                found[each.path] = _since(self._before.get(each.path), each.counters)
        for path in self._before.keys() - found.keys():
            self.notes.append(f"{self._before[path].now.place} has ended")
        self._before = found
        if closed:
            captures = "1 capture of another user" if closed == 1 else f"{closed} captures of other users"
            self.problems.append(f"{captures} cannot be read: root sees all")
        return list(found.values())

    def _died(self, path: Path) -> None:
        if before := self._before.pop(path, None):
            self.notes.append(f"{before.now.place} has died")

    def _is_wanted(self, counters: Counters) -> bool:
        return not self._interfaces or not self._interfaces.isdisjoint(counters.interfaces)


def _since(before: Rates | None, now: Counters) -> Rates:
    """The rates of a capture that was seen before, perhaps in the state that it still shows."""
    if before and before.now.time_ns == now.time_ns and before.now.pid == now.pid:
        return before
    return between(before.now if before else None, now)


def _console(width: int | None = None) -> Any:
    """rich's own NO_COLOR leaves what is bold or dim."""
    from rich.console import Console

    plain = bool(os.environ.get("NO_COLOR"))
    return Console(highlight=False, width=width, color_system=None if plain else "auto")


def _once(watch: Watch, sort: str, json_file: str | None) -> None:
    if watch.look():
        time.sleep(EVERY_S)
    captures = watch.look()
    if json_file:
        for line in (*watch.notes, *watch.problems):
            click.echo(f"wirecap: {line}", err=True)
        write_json(json_file, [each.to_dict() for each in captures])
        return
    from wirecap.observe.screen import screen

    console = _console(None if sys.stdout.isatty() else WIDTH)
    console.print(screen(captures, (*watch.notes, *watch.problems), sort, keys=False, width=console.width))


def _live(watch: Watch, sort: str) -> None:
    if not sys.stdout.isatty():
        raise UsageError("wirecap top needs a terminal", "use wirecap top --once, with --json for programs")
    from rich.live import Live

    from wirecap.observe.screen import screen

    watch.look()
    for number in (signal.SIGINT, signal.SIGTERM):  # ended by either, it leaves the terminal as it was
        signal.signal(number, signal.default_int_handler)
    console = _console()
    display = Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop")
    with suppress(KeyboardInterrupt), _keys() as pressed, display as live:
        captures, key = watch.look(), ""
        while key != "q":
            lines = (*watch.notes[-NOTES:], *watch.problems)
            shown = screen(captures, lines, sort, keys=sys.stdin.isatty(), width=console.width)
            live.update(shown, refresh=True)
            key = pressed(EVERY_S)
            if key == "s":
                sort = SORTS[(SORTS.index(sort) + 1) % len(SORTS)]
            else:
                captures = watch.look()


@contextmanager
def _keys() -> Iterator[Any]:
    """A function that waits so many seconds for a key, and returns it or nothing."""

    def wait(seconds: float) -> str:
        if not sys.stdin.isatty():
            time.sleep(seconds)
            return ""
        ready = select.select([sys.stdin], [], [], seconds)[0]
        return os.read(sys.stdin.fileno(), 1).decode(errors="replace") if ready else ""

    if not sys.stdin.isatty():
        yield wait
        return
    before = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield wait
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
