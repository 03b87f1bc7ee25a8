"""``wirecap metrics``: what Prometheus and Grafana need to watch captures with ``--metrics``."""

from __future__ import annotations

from importlib.resources import files

import click

from wirecap.cli.options import Group
from wirecap.errors import UsageError


@click.group(cls=Group)
def group() -> None:
    """Print what Prometheus and Grafana need to watch captures that run with --metrics.

    \b
      wirecap capture -i eth1 -w out.pcapng --metrics 9464
      wirecap metrics alerts > /etc/prometheus/wirecap.yml
      wirecap metrics dashboard > wirecap.json
    """


@group.command()
def alerts() -> None:
    """Print alert rules for Prometheus: drops, a pool that is nearly full, a capture that does not answer."""
    click.echo(text("alerts.yml"), nl=False)


@group.command()
def dashboard() -> None:
    """Print a dashboard to import into Grafana."""
    click.echo(text("dashboard.json"), nl=False)


def text(name: str) -> str:
    """A file that comes with the package.  Raises UsageError for a package without it."""
    try:
        return (files("wirecap") / "observe" / "prometheus" / name).read_text()
    except OSError:
        raise UsageError(f"this installation has no {name}", "install the package again") from None
