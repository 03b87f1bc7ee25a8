"""``wirecap generate``: synthetic traffic, with the same packets for the same seed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from wirecap.cli import sending
from wirecap.cli.options import COUNT, Command, Parsed, section
from wirecap.errors import UsageError
from wirecap.units import parse_link

if TYPE_CHECKING:
    from wirecap.linux.netlink import Interface
    from wirecap.traffic.batch import SendPlan
    from wirecap.traffic.timing import Timing


HELP = """Generate UDP traffic on an interface.

Without --pps, --rate or --link it goes out as fast as possible; without --count or --duration, until Ctrl-C. The
payload is the packet's number, 8 bytes in network byte order, followed by zeros.

\b
  wirecap generate -i eth1 --size 60 --count 10M
  wirecap generate -i eth1 --size imix --flows 10k --zipf 1.1 --pps 500k --duration 30s
  wirecap generate -i eth1 --queues 0-3 --shares 80,10,5,5 --rate 2Gbps --duration 10s
  wirecap generate -i eth1 --queues 0-5 --profile border-router
"""
PROFILES = ("border-router",)
content = section("What to send")


def _sizes(text: str) -> Any:
    from wirecap.traffic.synthetic import parse_sizes

    return parse_sizes(text)


def _shares(text: str) -> tuple[float, ...]:
    try:
        shares = tuple(float(part.strip().removesuffix("%")) for part in text.split(","))
    except ValueError:
        shares = ()
    if not shares or min(shares) < 0 or not 0 < sum(shares) < 1e12:
        raise UsageError(f"{text!r} is not a list of shares", "write it as 80,10,5,5")
    return shares


@click.command(cls=Command, help=HELP)
@content("--size", "sizes", metavar="BYTES", help="60, imix, 64-1500 or 60:7,590:4; without the check sequence."
         "  [default: 60, or more if the headers are longer]")  # fmt: skip
@content("--flows", type=COUNT, default=1, show_default=True, help="Number of flows, by addresses and ports.")
@content("--zipf", type=float, default=0.0, help="Distribute flows by Zipf's law with this exponent; 0: uniform.")
@content("-6", "--ipv6", is_flag=True, help="Use IPv6 instead of IPv4.")
@content("--vlan", type=int, metavar="ID", help="Put a VLAN tag on every frame.")
@content("--seed", type=int, default=1, show_default=True, help="A different seed gives different packets.")
@content("--profile", type=click.Choice(PROFILES), help="Use changing rates: 32 s of a border router's traffic.")
@sending.options
@sending.when(
    "--link", "link_bps", type=Parsed("NAME", parse_link), help="Send at a link's line rate: 1GbE, 10GbE, 100GbE."
)
@sending.where("--shares", type=Parsed("LIST", _shares), help="Share of each queue; RSS chooses if not given.")
@sending.until("-c", "-n", "--count", "count", type=COUNT, help="Stop after this many packets.")
def command(**given: Any) -> None:
    _check(given)
    if given["link_bps"] is not None:
        from wirecap.traffic.timing import ETHERNET_OVERHEAD_BYTES

        if given["bps"] or given["mbps"]:
            raise UsageError("--link and --rate cannot be combined", "use only one of them")
        given |= {"bps": given["link_bps"], "overhead_bytes": ETHERNET_OVERHEAD_BYTES}
    timing = sending.timing(given, default_speed=None)
    if given["profile"] and (timing.paced or given["topspeed"]):
        raise UsageError("--profile sets its own rates", "leave --pps, --rate, --link and --topspeed out")

    def make(facts: list[Interface]) -> sending.Opened:
        from wirecap.traffic.ways import Wish, link_header

        if not link_header(facts[0]):
            raise UsageError(
                f"{facts[0].name} takes IP packets, and these are Ethernet frames", "replay a recording of such traffic"
            )
        plan, longest, pps = _plan(given, timing, facts[0])
        return plan, Wish(given["queues"], longest, plan.paced, pps)

    sending.send(given, make)


def _check(given: dict[str, Any]) -> None:
    """Raise UsageError for options that contradict each other or would have no effect."""
    profile, shares, one_flow = given["profile"], given["shares"], given["flows"] == 1
    if profile and (not one_flow or given["zipf"] or shares or given["ipv6"]):
        raise UsageError("--profile sets its own flows", "leave --flows, --zipf, --shares and --ipv6 out")
    if shares and not given["queues"]:
        raise UsageError("--shares needs queues to share among", "add --queues 0-3")
    if one_flow and not shares and not profile:
        if given["zipf"]:
            raise UsageError("--zipf needs more than one flow", "add --flows 10k")
        if len(given["queues"] or ()) > 1:
            raise UsageError(
                "a single flow uses only one queue", "add --flows 1k, or --shares 1,1 with a share for each queue"
            )


def _plan(given: dict[str, Any], timing: Timing, facts: Interface) -> tuple[SendPlan, int, float | None]:
    """The plan, its longest frame in bytes, and its mean rate in packets per second (None: full speed, or unknown)."""
    from wirecap.traffic.border_router import BorderRouter
    from wirecap.traffic.steering import Rss
    from wirecap.traffic.synthetic import IMIX, Synthetic, Traffic, at_least, headers_bytes

    sizes = _sizes(given["sizes"] or ("imix" if given["profile"] else "60"))
    if not given["sizes"] or sizes == IMIX:
        sizes = at_least(headers_bytes(given["ipv6"], given["vlan"]), sizes)
    longest = max(size for size, _ in sizes)
    queues = len(given["queues"] or (0,))
    if given["profile"]:
        router = BorderRouter(
            queues, facts.mtu, sizes, given["seed"], given["count"], given["duration_ns"], given["vlan"]
        )
        return router, longest, None
    traffic = Traffic(
        sizes, given["flows"], given["zipf"], given["ipv6"], given["vlan"], given["seed"], given["shares"]
    )
    duration_ns = given["duration_ns"] if timing.paced else None
    rss = Rss(queues) if queues > 1 and not given["shares"] else None
    plan = Synthetic(traffic, timing, facts.mtu, count=given["count"], duration_ns=duration_ns, queues=queues, rss=rss)
    mean_bits = 8 * (sum(s * w for s, w in sizes) / sum(w for _, w in sizes) + timing.overhead_bytes)
    return plan, longest, timing.pps or (timing.bps / mean_bits if timing.bps else None)
