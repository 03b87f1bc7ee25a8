"""``wirecap doctor --fix``: asks, applies, looks whether it took effect, and says how to undo it."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from wirecap.cli.options import write_json
from wirecap.errors import SystemCallError, UsageError
from wirecap.linux import netns as namespaces

if TYPE_CHECKING:
    from wirecap.linux.tuning import Change


@dataclass(frozen=True)
class Outcome:
    """What became of a change: applied, declined, refused (``said`` has the reason), or without effect."""

    change: Change
    how: str
    said: str = ""

    def as_dict(self) -> dict[str, Any]:
        change = self.change
        undo = change.undo if self.how == "applied" else ""
        return {"name": change.subject, "found": change.said, "command": change.command, "outcome": self.how,
                "now": self.said, "undo": undo}  # fmt: skip


def run(changes: list[Change], netns: str | None, yes: bool, json_file: str | None) -> None:
    """Apply changes in a namespace; exit status 1 if one that was wanted has not taken effect.

    Raises UsageError if nobody can be asked.
    """
    if changes and not yes and (json_file == "-" or not (sys.stdin and sys.stdin.isatty())):
        raise UsageError("--fix asks before each change, and there is no terminal to answer at", "add --yes")
    done: list[Outcome] = []
    try:
        for change in changes:
            done.append(_one(change, netns, yes))
            if json_file != "-":
                _say(done[-1])
    finally:  # also after Ctrl-C: what was changed can be undone
        _tell_undo(done, netns, quiet=json_file == "-")
    if json_file:
        write_json(json_file, [each.as_dict() for each in done])
    if not changes and json_file != "-":
        click.echo("nothing to change")
    if any(each.how in ("refused", "no effect") for each in done):
        raise SystemExit(1)


def _one(change: Change, netns: str | None, yes: bool) -> Outcome:
    if not yes:
        click.echo(f"{change.subject}: {change.said}")
        if not click.confirm(f"  {change.command}", default=False):
            return Outcome(change, "declined")
    try:
        namespaces.call(netns, change.apply)
        took, state = namespaces.call(netns, change.took), namespaces.call(netns, change.state)
    except (OSError, SystemCallError) as error:
        return Outcome(change, "refused", _reason(error))
    return Outcome(change, "applied" if took else "no effect", state)


def _reason(error: OSError | SystemCallError) -> str:
    if isinstance(error, SystemCallError):
        return str(error)
    hint = " (run it as root)" if isinstance(error, PermissionError) else ""
    return os.strerror(error.errno or 0).lower() + hint


def _say(outcome: Outcome) -> None:
    marks = {"applied": ("ok", "green"), "declined": ("--", "yellow")}
    mark, colour = marks.get(outcome.how, ("NO", "red"))
    words = {"applied": f"{outcome.change.command}: now {outcome.said}", "declined": "left as it is"}
    said = words.get(outcome.how, f"{outcome.change.command}: {outcome.how}: {outcome.said}")
    click.echo(f"{click.style(mark, fg=colour)}  {outcome.change.subject}: {said}")


def _tell_undo(done: list[Outcome], netns: str | None, quiet: bool) -> None:
    undo = [each.change.undo for each in reversed(done) if each.how == "applied"]
    if not undo or quiet:
        return
    click.echo("\nTo undo this:")
    for line in undo:
        inside = f"ip netns exec {netns} " if netns and line.startswith("ethtool") else ""
        click.echo(f"  {inside}{line}")
