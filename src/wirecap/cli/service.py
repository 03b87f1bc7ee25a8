"""``wirecap service``: a capture that systemd starts, watches and starts again."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from wirecap.cli import capture as capture_command
from wirecap.cli.options import Command, Group, section
from wirecap.cli.placing import put_in_place
from wirecap.cli.unit import OURS, Service, is_missing, out_of_reach, program
from wirecap.errors import UsageError

FOLDER = "/etc/systemd/system"
what = section("Options")


@click.group(cls=Group)
def group() -> None:
    """Run a capture as a systemd service: started at boot, watched, started again when it fails.

    FILE is a configuration of 'wirecap capture --config'. The unit wirecap-NAME.service gives the capture
    the capabilities that it takes in place of root, and a watchdog that its capture threads feed.

    \b
      wirecap capture --config eth1.toml --check-config
      sudo wirecap service install --config eth1.toml
      sudo systemctl daemon-reload && sudo systemctl enable --now wirecap-eth1
    """


def _of_a_capture(function: Callable[..., None]) -> Callable[..., None]:
    options: list[Any] = [
        what("--config", "config_file", metavar="FILE", required=True, help="What the capture does."),
        what("--name", help="The service is wirecap-NAME.  [default: the name of FILE]"),
        what("--user", help="The user to run it as.  [default: one that systemd creates for it]"),
    ]
    for option in reversed(options):
        function = option(function)
    return function


_place = what("--dir", "folder", metavar="DIR", default=FOLDER, show_default=True, help="Where units are.")


@group.command(cls=Command)
@_of_a_capture
@_place
def install(config_file: str, name: str | None, user: str | None, folder: str) -> None:
    """Write the unit, or renew it."""
    service = _service(config_file, name, user)
    path = Path(folder) / service.unit
    if os.path.lexists(path) and not _is_ours(path):
        raise UsageError(f"{path} exists and was not made by wirecap", "choose another --name")
    try:
        put_in_place(path, service.text(), 0o644)
    except OSError as error:
        raise _refused(path, error) from None
    _warn(service)
    click.echo(f"{path}: installed; 'systemctl daemon-reload && systemctl enable --now {path.stem}' starts it")


@group.command(cls=Command)
@_of_a_capture
def show(config_file: str, name: str | None, user: str | None) -> None:
    """Print the unit."""
    service = _service(config_file, name, user)
    _warn(service)
    click.echo(service.text(), nl=False)


@group.command(cls=Command)
@what("--name", required=True, help="The service is wirecap-NAME.")
@_place
def uninstall(name: str, folder: str) -> None:
    """Remove the unit; 'systemctl disable --now wirecap-NAME' before that ends the capture."""
    path = Path(folder) / f"wirecap-{_name(name)}.service"
    if not os.path.lexists(path):
        raise UsageError(f"there is no {path}", "name it as 'wirecap service install' did, without 'wirecap-'")
    if not _is_ours(path):
        raise UsageError(f"{path} was not made by wirecap", "it is left alone")
    try:
        path.unlink()
    except OSError as error:
        raise _refused(path, error) from None
    click.echo(f"{path}: removed; 'systemctl daemon-reload' tells systemd")


def _service(config_file: str, name: str | None, user: str | None) -> Service:
    """The service, checked.  Raises UsageError."""
    given, capture = capture_command.of_file(config_file)
    if capture.read_file is not None:
        raise UsageError(f"{config_file} reads the file {capture.read_file}", "a service captures: name an interface")
    if given["write_path"] == "-":
        raise UsageError(f"{config_file} writes packets to standard output", "a service has none: name a file")
    path = Path(config_file).absolute()
    service = Service(_name(path.stem if name is None else name), path, given, capture, user)
    if user is None and (folders := service.folders()):
        raise UsageError(
            f"{config_file} makes files in {folders[0]}, where the user that systemd makes may not",
            f"add --user NAME, or name the file without a folder: then it is in /var/lib/wirecap-{service.name}",
        )
    if user is not None:
        _known(user)
    return service


def _known(user: str) -> None:
    try:
        pwd.getpwnam(user)
    except KeyError:
        raise UsageError(f"--user {user}: there is no such user", f"useradd --system {user}") from None


def _name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", name):
        raise UsageError(f"--name {name!r} is not a name for a service", "use letters, digits, '.', '-' and '_'")
    return name


def _warn(service: Service) -> None:
    """Say what the service will not find, or its user not be able to read."""
    own, files = f"/var/lib/wirecap-{service.name}", list(map(Path, service.read_files()))
    for path in (path for path in files if not path.is_absolute()):
        click.echo(f"wirecap: {path}: the service looks for it in {own} (write its full path)", err=True)
    for path in (Path(program()[0]), service.config_file, *(path for path in files if path.is_absolute())):
        if is_missing(path):
            click.echo(f"wirecap: {path}: no such file (the service needs it)", err=True)
        elif closed := out_of_reach(path, service.user):
            way = "name a user who may with --user, or move it"
            click.echo(f"wirecap: {path}: the user that systemd makes may not read {closed} ({way})", err=True)


def _is_ours(path: Path) -> bool:
    try:
        return path.read_text().startswith(OURS)
    except (OSError, UnicodeDecodeError):
        return False


def _refused(path: Path, error: OSError) -> UsageError:
    reason = (error.strerror or str(error)).lower()
    return UsageError(f"{path}: {reason}", "run it as root, or name a folder with --dir")
