"""``wirecap collect``: flow records of many sensors, from a broker into one dataset."""

from __future__ import annotations

import time
from typing import Any

import click

from wirecap.cli import closing
from wirecap.cli.options import DURATION, OUTPUT, Command, argument, section
from wirecap.errors import UsageError, WirecapError

HELP = """Collect the flow records of many sensors from a NATS broker into one dataset.

The sensors run 'wirecap capture --handler flows --to nats://HOST/flows.SITE.SENSOR'. Each record is stored
once, whatever is killed and begun again on the way; what is missing is reported. Credentials come from the environment:
NATS_CREDS, NATS_NKEY, NATS_USER and NATS_PASSWORD, or NATS_TOKEN; NATS_CA, NATS_CERT and NATS_KEY for TLS.

\b
  wirecap collect 'nats://broker/flows.>' -w 'flows/%Y/%m/%d/%H.parquet'
  wirecap collect 'nats+tls://broker/flows.berlin.*' -w 'berlin/%Y-%m-%d.parquet' --once --json -
"""

where = section("Where to put them")
until = section("When to stop")
output = section("What to show")


@click.command(cls=Command, help=HELP)
@where("-w", "--write", "pattern", metavar="PATTERN", help="The Parquet files, with the codes of strftime(3).")
@where("--every", "every_ns", type=DURATION, default=60_000_000_000, help="Finish a file this often [60s].")
@until("--duration", "duration_ns", type=DURATION, help="Stop after this time.")
@until("--once", is_flag=True, help="Stop when the broker has no more records.")
@output("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@output("--json", "json_path", type=OUTPUT, help="Write what was collected as JSON; - is standard output.")
@argument("addresses", nargs=-1, metavar="nats://HOST/SUBJECT")
def command(
    addresses: tuple[str, ...], pattern: str | None, every_ns: int, duration_ns: int | None, once: bool, quiet: bool,
    json_path: str | None,
) -> None:  # fmt: skip
    if len(addresses) != 1:
        raise UsageError(
            "collect takes the address of one broker",
            "write wirecap collect 'nats://HOST/flows.>' -w 'flows/%H.parquet'",
        )
    if not pattern:
        raise UsageError("no name is given for the files", "add -w 'flows/%Y/%m/%d/%H.parquet'")

    from wirecap.flows import broker
    from wirecap.flows.records import arrow

    address = broker.parse(addresses[0], wildcards=True)
    broker.login(address)
    broker.library()
    arrow()

    from wirecap.flows.collecting import Collector
    from wirecap.flows.dataset import Dataset
    from wirecap.signals import Interrupts

    end = time.monotonic() + duration_ns * 1e-9 if duration_ns else float("inf")

    def tell(line: str) -> None:
        click.echo(f"wirecap: {line}", err=True)

    with Interrupts() as interrupts:
        collector = Collector(
            address, Dataset(pattern), every_ns * 1e-9, once,
            lambda: interrupts.asked.is_set() or time.monotonic() > end, tell,
        )  # fmt: skip
        found = collector.run()
    if not quiet:
        for line in closing_lines(found):
            click.echo(line, err=True)
    if json_path:
        closing.write_json(found, json_path)
    if found["unreadable"]:
        raise WirecapError("some messages could not be read", "the lines above say why")


def closing_lines(found: dict[str, Any]) -> list[str]:
    """What there is of each sensor, in a line."""
    lines = [f"{found['records']} records collected"]
    for each in found["sensors"]:
        dropped = "".join(f", {count} dropped ({name})" for name, count in each["dropped"].items())
        lines.append(
            f"  {each['sensor']}: {each['made']} made = {each['records']} stored + {each['missing_records']} missing"
            f" + {each['spooled']} spooled there{dropped}"
        )
    return lines
