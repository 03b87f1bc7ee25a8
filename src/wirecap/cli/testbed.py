"""``wirecap testbed``: veth NICs to capture on, in a network namespace of their own."""

from __future__ import annotations

import dataclasses
import json

import click

from wirecap.lab import testbed


@click.group()
def group() -> None:
    """Make, remove and show veth NICs with several queues, to capture on.

    Testbed X has, for each NIC k, the pair Xk (in network namespace X, to capture on) and Xkp (outside, to
    send from).  Capture with 'wirecap capture --netns X -i X0', send with 'wirecap replay -i X0p'.
    """


name_option = click.option("--name", default=testbed.NAME, show_default=True, help="Name of namespace and interfaces.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@group.command()
@name_option
@click.option("--queues", default=testbed.QUEUES, show_default=True, help="Receive and transmit queues of each end.")
@click.option("--nics", default=1, show_default=True, help="Number of pairs.")
@click.option("--mtu", default=testbed.MTU, show_default=True, help="Bytes of a frame without its Ethernet header.")
@click.option("--gro", is_flag=True, help="Receive offload at the capture side, for XDP senders to AF_PACKET readers.")
@json_option
def up(name: str, queues: int, nics: int, mtu: int, gro: bool, as_json: bool) -> None:
    """Make the testbed, or change it to this shape."""
    _show(testbed.up(name, queues, nics, mtu, gro), as_json)


@group.command()
@name_option
def down(name: str) -> None:
    """Remove the testbed, whole or half made."""
    click.echo(f"testbed {name}: " + ("removed" if testbed.down(name) else "there was none"))


@group.command()
@name_option
@json_option
def status(name: str, as_json: bool) -> None:
    """Show the testbed; exit status 1 where there is none."""
    found = testbed.status(name)
    _show(found, as_json)
    if not found.nics:
        raise SystemExit(1)


def _show(found: testbed.Testbed, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(found)))
        return
    if not found.nics:
        state = "a namespace without NICs" if found.namespace else "not there"
        click.echo(f"testbed {found.name}: {state} ('wirecap testbed up --name {found.name}' makes it)")
        return
    click.echo(f"testbed {found.name}: namespace {found.name}")
    for nic in found.nics:
        queues = f"{nic.queues} queue{'s' * (nic.queues != 1)}"
        xdp = f", XDP {nic.xdp}" if nic.xdp else ""
        state = "up" if nic.up else "DOWN"
        click.echo(f"  send on {nic.outside} -> capture on {nic.inside}: {queues}, MTU {nic.mtu}, {state}{xdp}")
