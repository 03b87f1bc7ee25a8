"""``wirecap libpcap``: prints the shared object to preload."""

from __future__ import annotations

import click

HELP = """Print the path of a shared object that puts programs which use libpcap on a running capture.

A program that is started with it finds the capture of the interface that it opens, and reads packets from
that capture's pool. Interfaces that nobody captures with '--handler share', and files, are read as usual.

\b
  wirecap capture -i eth1 --handler share
  LD_PRELOAD=$(wirecap libpcap) tcpdump -ni eth1 port 53
"""


@click.command(help=HELP)
def command() -> None:
    from wirecap.compat.libpcap import build

    click.echo(build.shared_object(lambda line: click.echo(line, err=True)))
