"""``wirecap testbed``: veth NICs to capture on, in their own network namespace."""

from __future__ import annotations

import dataclasses

import click

from wirecap.cli import options
from wirecap.cli.typed import as_typed
from wirecap.lab import testbed


@click.group(cls=options.Group)
def group() -> None:
    """Create, remove and show veth NICs with several queues, to capture on.

    Testbed X has, for each NIC k, the pair Xk (in network namespace X, to capture on) and Xkp (outside, to
    send from).  Capture with 'wirecap capture --netns X -i X0', send with 'wirecap replay -i X0p'.
    """


name_option = click.option("--name", default=testbed.NAME, show_default=True, help="Name of namespace and interfaces.")
json_option = options.json_option("Write the testbed", "Options")


@group.command()
@name_option
@click.option("--queues", default=testbed.QUEUES, show_default=True, help="Receive and transmit queues of each end.")
@click.option("--nics", default=1, show_default=True, help="Number of pairs.")
@click.option("--mtu", default=testbed.MTU, show_default=True, help="Bytes per frame, without the Ethernet header.")
@click.option("--gro", is_flag=True, help="Turn on GRO on the capture side, for XDP senders with AF_PACKET readers.")
@json_option
def up(name: str, queues: int, nics: int, mtu: int, gro: bool, json_file: str | None) -> None:
    """Create the testbed, or change it to this shape."""
    _show(testbed.up(name, queues, nics, mtu, gro), json_file)


@group.command()
@name_option
@json_option
def down(name: str, json_file: str | None) -> None:
    """Remove the testbed, even if it is incomplete."""
    removed = testbed.down(name)
    if json_file:
        options.write_json(json_file, {"name": name, "removed": removed})
    if json_file != "-":
        click.echo(f"testbed {name}: " + ("removed" if removed else "does not exist"))


@group.command()
@name_option
@json_option
def status(name: str, json_file: str | None) -> None:
    """Show the testbed; the exit status is 1 if there is none."""
    found = testbed.status(name)
    _show(found, json_file)
    if not found.nics:
        if json_file != "-" and (others := testbed.names()):
            click.echo(f"there {'are' if len(others) > 1 else 'is'} {', '.join(others)} (--name {others[0]} shows it)")
        raise SystemExit(1)


def _show(found: testbed.Testbed, json_file: str | None) -> None:
    if json_file:
        options.write_json(json_file, dataclasses.asdict(found))
    if json_file == "-":
        return
    if not found.nics:
        state = "a namespace without NICs" if found.namespace else "does not exist"
        hint = as_typed(f"'wirecap testbed up --name {found.name}' creates it")
        click.echo(f"testbed {found.name}: {state} ({hint})")
        return
    click.echo(f"testbed {found.name}: namespace {found.name}")
    for nic in found.nics:
        queues = f"{nic.queues} queue{'s' * (nic.queues != 1)}"
        xdp = f", XDP {nic.xdp}" if nic.xdp else ""
        state = "up" if nic.up else "DOWN"
        click.echo(f"  send on {nic.outside} -> capture on {nic.inside}: {queues}, MTU {nic.mtu}, {state}{xdp}")
