"""``wirecap trigger``: have a running capture save what it keeps."""

from __future__ import annotations

import click

from wirecap.cli import options
from wirecap.errors import UsageError, WirecapError
from wirecap.observe import log

which = options.section("Which capture")


@click.command("trigger", cls=options.Command, help="Have a running capture with --keep save what it keeps. NAME goes"
               " into the file, to say why.")  # fmt: skip
@which("--pid", type=click.IntRange(1), metavar="PID", help="The capture's process id; needed if there are several.")
@which("--all", "all_of_them", is_flag=True, help="Every capture of yours that keeps packets.")
@which("--to", "broker", metavar="nats://HOST/triggers.SITE.SENSOR", help="Sensors on other hosts, which send their"
       " flows to this broker; triggers.SITE is all of a site, triggers all.")  # fmt: skip
@options.argument("name", metavar="[NAME]", default="trigger")
def command(pid: int | None, all_of_them: bool, broker: str | None, name: str) -> None:
    from wirecap.config.keep import trigger_name

    if broker is not None:
        if pid is not None or all_of_them:
            raise UsageError("--to is for captures on other hosts", "leave --pid and --all out")
        _send(broker, trigger_name(name))
        return
    from wirecap.observe import trigger_socket

    if pid is not None and all_of_them:
        raise UsageError("--pid and --all are both given", "leave one of them out")
    name = trigger_name(name)
    found = trigger_socket.running()
    if pid is not None and pid not in found:
        others = f"those that do: {', '.join(map(str, found))}" if found else "start it with wirecap capture --keep 60s"
        raise WirecapError(f"process {pid} is not a capture of yours that keeps packets", others)
    if not found:
        raise WirecapError("none of your captures keeps packets", "start one with wirecap capture --keep 60s")
    if pid is None and not all_of_them and len(found) > 1:
        raise UsageError(
            f"several captures keep packets: {', '.join(map(str, found))}", "name one with --pid, or --all"
        )
    for process in [pid] if pid is not None else list(found):
        trigger_socket.send(found[process], name)
        click.echo(f"capture {process} saves what it keeps")


def _send(address: str, name: str) -> None:
    from wirecap.flows import link

    answers = link.send_trigger(address, name)
    for sensor, answer in answers:
        click.echo(log.shown(f"{sensor} {answer}"))
    if not answers:
        raise WirecapError(
            f"{address}: no sensor that keeps packets answered", "check that they run with --keep and --to"
        )
