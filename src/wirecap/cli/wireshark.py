"""``wirecap wireshark``: puts ``wirecap-extcap`` into a folder in which Wireshark looks for it, or removes it."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from wirecap.cli.options import Group
from wirecap.cli.placing import put_in_place
from wirecap.errors import UsageError

NAME = "wirecap-extcap"
OURS = "# Made by 'wirecap wireshark install'; 'wirecap wireshark uninstall' removes it."


@click.group(cls=Group)
def group() -> None:
    """Capture with WireCAP from within Wireshark and tshark.

    After 'wirecap wireshark install', Wireshark lists wirecap-eth1 beside eth1, with a dialog for engine, pool,
    filter and namespace. The toolbar 'WireCAP' (View, Interface Toolbars) shows counters and the log.
    """


def _places(function: Callable[..., None]) -> Callable[..., None]:
    options: list[Any] = [
        click.option(
            "--user", "place", flag_value="user", help="In your own folder; the default, unless you are root."
        ),
        click.option("--global", "place", flag_value="everybody", help="In the folder for all users."),
        click.option("--folder", metavar="DIR", help="In this folder; Wireshark is not asked for its own."),
        click.option("--program", metavar="PATH", help="Which wireshark or tshark to ask for its folders."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


@group.command()
@_places
def install(place: str | None, folder: str | None, program: str | None) -> None:
    """Put wirecap-extcap into Wireshark's folder, or renew it there."""
    where, version = _choose(place, folder, program)
    path = where[0] / NAME
    if not _is_ours(path):
        raise UsageError(f"{path} exists and was not made by wirecap", "move it away, or choose --user or --global")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        put_in_place(path, _launcher(), 0o755)
    except OSError as error:
        raise _refused(path, error) from None
    click.echo(f"{path}: installed for {version}: 'tshark -D' lists its interfaces, wirecap-any among them")


@group.command()
@_places
def uninstall(place: str | None, folder: str | None, program: str | None) -> None:
    """Remove wirecap-extcap from Wireshark's folders: both of them, unless one is named."""
    where, _ = _choose(place, folder, program)
    paths = [one / NAME for one in (where[:1] if place else where)]
    there = [path for path in paths if os.path.lexists(path)]
    ours = [path for path in there if _is_ours(path)]
    for path in ours:
        try:
            path.unlink()
        except OSError as error:
            raise _refused(path, error) from None
        click.echo(f"{path}: removed")
    if there and not ours:
        raise UsageError(f"{there[0]} was not made by wirecap", "it is left alone")
    if not there:
        click.echo(f"not installed: there is no {' and no '.join(map(str, paths))}")


def _choose(place: str | None, folder: str | None, program: str | None) -> tuple[list[Path], str]:
    """Folders, the one that is meant first; and the version of the Wireshark that has them."""
    if folder is not None:
        if place or program:
            raise UsageError("--folder already says where", "leave out --user, --global and --program")
        if not Path(folder).is_dir():
            raise UsageError(f"{folder}: no such folder", "name the extcap folder that 'tshark -G folders' prints")
        return [Path(folder)], "Wireshark"
    from wirecap.lab import wireshark

    found = wireshark.installed(program)
    for_all = place == "everybody" or (place is None and os.geteuid() == 0)
    return [found.everybody, found.user] if for_all else [found.user, found.everybody], found.version


def _is_ours(path: Path) -> bool:
    """Whether a file may be replaced or removed: we made it, or it is not there."""
    try:
        return OURS in path.read_bytes()[:400].decode(errors="replace").splitlines()
    except FileNotFoundError:
        return not path.is_symlink()
    except OSError:
        return False


def _launcher() -> str:
    """A script that becomes ``wirecap-extcap`` of this Python, so that Wireshark's signals reach it."""
    script = Path(sys.executable).with_name(NAME)
    command = [str(script)] if script.exists() else [sys.executable, "-P", "-m", "wirecap.extcap"]
    return f'#!/bin/sh\n{OURS}\nexec {shlex.join(command)} "$@"\n'


def _refused(path: Path, error: OSError) -> UsageError:
    hint = (
        "run it as root, or use --user" if isinstance(error, PermissionError) else "name another folder: --folder DIR"
    )
    return UsageError(f"{path}: {os.strerror(error.errno or 0).lower()}", hint)
