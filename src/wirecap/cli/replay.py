"""``wirecap replay``: sends capture files to an interface, with tcpreplay's options where it has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from wirecap.cli import sending
from wirecap.cli.options import COUNT, Command, Parsed, argument, refused, section
from wirecap.errors import UsageError

if TYPE_CHECKING:
    from wirecap.linux.netlink import Interface
    from wirecap.traffic.conversion import Conversion
    from wirecap.traffic.splitting import Split
    from wirecap.traffic.steering import Recorded, Rss
    from wirecap.traffic.timing import Timing


HELP = """Replay capture files onto an interface.

FILES are pcap or pcapng files of any size, also compressed; - is standard input. Without --speed, --pps, --rate
or --topspeed, packets go out with the timing of the recording. Recordings of 'any', raw IP and loopback are sent too:
onto Ethernet with --dmac.

\b
  wirecap replay -i eth1 trace.pcap
  wirecap replay -i eth1 --pps 500k --loop 10 trace.pcapng
  wirecap replay -i eth1 --topspeed --queues 0-3 --queue-by symmetric a.pcap b.pcap
  wirecap replay -i eth1 -I eth2 --cachefile a.cache a.pcap
"""
RULES = ("direction", "flow", "interface")
QUEUE_BY = ("rss", "symmetric", "recorded")
REWRITES = (
    "-r=", "--portmap=", "-s=", "--seed=", "-N=", "--pnat=", "-S=", "--srcipmap=", "-D=", "--dstipmap=",
    "-e=", "--endpoints=", "--tcp-sequence=", "-b", "--skipbroadcast", "-C", "--fixcsum", "-m=", "--mtu=",
    "--mtu-trunc", "-E", "--efcs", "--ttl=", "--tos=", "--tclass=", "--flowlabel=", "-F=", "--fixlen=",
    "--fuzz-seed=", "--fuzz-factor=", "--skipl2broadcast", "--dlt=", "--enet-subsmac=", "--enet-mac-seed=",
    "--enet-mac-seed-keep-bytes=", "--enet-vlan=", "--enet-vlan-tag=", "--enet-vlan-cfi=", "--enet-vlan-pri=",
    "--enet-vlan-proto=", "--hdlc-control=", "--hdlc-address=", "--user-dlt=", "--user-dlink=",
)  # fmt: skip
"""tcpreplay-edit's options."""
no_effect = section("No effect, from tcpreplay")
TIMER = "wirecap has only one way to wait: sleep, then watch the clock"


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise UsageError(f"{text!r} is not a speed factor", "1.0 is as recorded, 2.0 is twice as fast")
    return value


def _milliseconds(text: str) -> int:
    """tcpreplay's --maxsleep and --loopdelay-ms are in milliseconds; other units can be given."""
    from wirecap.units import parse_duration_ns

    return parse_duration_ns(f"{text}ms" if text.strip().isdecimal() else text)


def _table(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(
            f"{text!r} is not an indirection table", "write it as positions in --queues: 0,1,1,0"
        ) from None


def _key(text: str) -> bytes:
    try:
        return bytes.fromhex(text.replace(":", ""))
    except ValueError:
        raise UsageError(f"{text!r} is not an RSS key", "write 40 bytes in hex, as ethtool -x prints them") from None


@click.command(cls=Command, help=HELP)
@sending.options
@sending.where("-I", "--intf2", "second", metavar="INTERFACE",
               help="A second interface: the other direction of the traffic leaves there.")  # fmt: skip
@sending.where("-c", "--cachefile", "cache", metavar="FILE", help="Which packet goes where: tcpprep's cache file.")
@sending.where("--split-by", type=click.Choice(RULES),
               help="Or the recorded direction, client and server of the flow, or the recording interface."
               "  [default: direction where it is recorded, else flow]")  # fmt: skip
@sending.when("-x", "--speed", "--multiplier", "speed", type=Parsed("FACTOR", _positive),
              help="How many times as fast as recorded.  [default: 1.0]")  # fmt: skip
@sending.when("--max-gap", "--maxsleep", "most_gap_ns", type=Parsed("TIME", _milliseconds),
              help="Shorten longer pauses in the recording to this (ms).")  # fmt: skip
@sending.where(
    "--queue-by",
    type=click.Choice(QUEUE_BY),
    help="Choose queues as a NIC's RSS would (standard or symmetric key), or as in the file.  [default: rss]",
)
@sending.where("--rss-key", type=Parsed("HEX", _key), help="Another key: 40 bytes in hex, as ethtool -x prints them.")
@sending.where("--rss-table", type=Parsed("LIST", _table),
               help="Indirection table: positions in --queues; its length is a power of two.")  # fmt: skip
@sending.until("-l", "--loop", "loops", type=COUNT, default=1, show_default=True, help="How often; 0: for ever.")
@sending.until("--loop-delay", "--loopdelay-ms", "loop_pause_ns", type=Parsed("TIME", _milliseconds), default=0,
               help="Pause between loops (ms).")  # fmt: skip
@sending.until("-L", "--limit", type=COUNT, help="Stop after this many packets.")
@sending.frame("--smac", "--enet-smac", "source_mac", type=sending.MACS,
               help="Source address of every frame; two with -I.")  # fmt: skip
@sending.frame("--dmac", "--enet-dmac", "destination_mac", type=sending.MACS,
               help="Destination address of every frame; two with -I.")  # fmt: skip
@sending.frame("--unique-ip", "unique", is_flag=True, help="Use other IP addresses in each loop, as tcpreplay does.")
@sending.frame("--unique-ip-loops", "unique_loops", type=COUNT, help="Change the addresses only every N loops.")
@no_effect("-K", "--preload-pcap", is_flag=True, expose_value=False, help="Files are always read ahead.")
@no_effect("--no-flow-stats", is_flag=True, expose_value=False, help="Flows are never counted.")
@refused("-T=", "--timer=", message=TIMER, hint="leave it out")
@refused("-o", "--oneatatime", message="wirecap does not send packets by hand", hint="use --pps 1")
@refused(
    "-2",
    "--dualfile",
    message="a replay reads one file after the other",
    hint="mergecap -I none -w both.pcapng A B makes one file of two: replay that with -I and --split-by interface",
)
@refused("--listnics", message="a replay lists no interfaces", hint="wirecap capture -D does")
@refused(
    "--pktlen",
    message="bytes that the capture cut are not in the file",
    hint="leave it out; what is sent truncated is counted",
)
@refused("--flow-expiry=", message="flows are not counted", hint="wirecap capture --handler counts what you like")
@refused("-P", "--pid", message="the shell knows the process number", hint="use $! after '&'")
@refused("-d=", "--dbug=", message="there are no levels of debugging", hint="WIRECAP_DEBUG=1 shows tracebacks")
@refused("-A=", "--decode=", message="packets are not printed", hint="tcpdump -nr FILE prints them")
@refused("-V", "--version", message="this is an option of wirecap itself", hint="use wirecap --version")
@refused("-H", "--more-help", "--less-help", message="there is one help", hint="use wirecap replay --help")
@refused(
    "--save-opts",
    "--load-opts=",
    "--no-load-opts",
    message="options are not kept in files",
    hint="put the command into a script",
)
@refused(
    *REWRITES,
    message="packets are sent as they are in the file, but for --smac, --dmac and --unique-ip",
    hint="tcprewrite takes this option and writes another file: replay that",
)
@argument("files", nargs=-1, metavar="FILES...")
def command(**given: Any) -> None:
    if not given["files"]:
        raise UsageError("no file to replay", "use 'wirecap replay -i INTERFACE FILE'")
    timing = sending.timing(given, default_speed=1.0)
    _check(given, timing)

    def make(facts: list[Interface]) -> sending.Opened:
        from wirecap.traffic.recording import Recording
        from wirecap.traffic.sender import Macs
        from wirecap.traffic.ways import Wish, longest_frame

        conversion, macs = _conversion(given, facts), Macs(given["source_mac"], given["destination_mac"])
        split = _split(given) if len(facts) > 1 else None
        plan = Recording(
            given["files"], timing, [one.mtu for one in facts] if split else facts[0].mtu, loops=given["loops"],
            loop_pause_ns=given["loop_pause_ns"], limit=given["limit"],
            duration_ns=given["duration_ns"] if timing.paced else None, steering=_steering(given),
            queues=len(facts if split else given["queues"] or (0,)), split=split, conversion=conversion,
            unique=_unique(given),
        )  # fmt: skip
        longest = max(longest_frame(one) for one in facts)
        return plan, Wish(given["queues"], longest, timing.paced, _mean_pps(timing), macs)

    sending.send(given, make)


def _conversion(given: dict[str, Any], facts: list[Interface]) -> Conversion:
    from wirecap.traffic.conversion import Conversion
    from wirecap.traffic.ways import link_header

    headers = {link_header(one) for one in facts}
    if len(headers) > 1:
        raise UsageError(
            "one of the interfaces takes Ethernet frames, the other one IP packets", "use two of the same kind"
        )
    if not max(headers) and (given["source_mac"] or given["destination_mac"]):
        raise UsageError(f"{facts[0].name} takes IP packets, which have no Ethernet addresses",
                         "leave --smac and --dmac out")  # fmt: skip
    own = [bytes.fromhex(one.mac.replace(":", "")) if max(headers) and one.mac else bytes(6) for one in facts]
    return Conversion(max(headers), own, given["destination_mac"] is not None)


def _split(given: dict[str, Any]) -> Split:
    from wirecap.traffic.splitting import rule

    return rule(given["split_by"], given["cache"])


def _steering(given: dict[str, Any]) -> Rss | Recorded | None:
    from wirecap.traffic.steering import KEYS, Recorded, Rss

    queues, queue_by = given["queues"], given["queue_by"] or "rss"
    if queues is None or len(queues) < 2:
        return None
    if queue_by == "recorded":
        return Recorded(len(queues))
    return Rss(len(queues), given["rss_key"] or KEYS[queue_by], given["rss_table"])


def _unique(given: dict[str, Any]) -> int:
    """Passes that share their IP addresses; 0: all have those of the file."""
    return (given["unique_loops"] or 1) if given["unique"] else 0


def _check(given: dict[str, Any], timing: Timing) -> None:
    """Raise UsageError for an option that would have no effect."""
    _check_two(given)
    if given["unique"] and given["loops"] == 1:
        raise UsageError("--unique-ip changes the addresses from the second loop on", "add --loop N")
    if given["unique_loops"] is not None and not (given["unique"] and given["unique_loops"]):
        raise UsageError("--unique-ip-loops needs --unique-ip, and at least 1 loop", "add --unique-ip")
    choosing = [name for name in ("queue_by", "rss_key", "rss_table") if given[name] is not None]
    if choosing and len(given["queues"] or ()) < 2:
        raise UsageError(f"{_flag(choosing[0])} needs several queues to choose from", "add --queues 0-3")
    if given["queue_by"] == "recorded" and len(choosing) > 1:
        raise UsageError(f"{_flag(choosing[1])} and --queue-by recorded cannot be combined", "use only one of them")
    if timing.most_gap_ns is not None and timing.speed is None:
        raise UsageError("--max-gap applies only to a recording's own pauses", "leave it out, or use --speed")
    if given["loop_pause_ns"] and given["loops"] == 1:
        raise UsageError("--loop-delay has no effect without --loop", "leave it out, or add --loop N")


def _check_two(given: dict[str, Any]) -> None:
    """The same, for what two interfaces need or exclude."""
    if not given["second"]:
        for name, flag in (("cache", "--cachefile"), ("split_by", "--split-by")):
            if given[name]:
                raise UsageError(f"{flag} needs a second interface", "add -I INTERFACE")
        if any(len(given[name] or b"") > 6 for name in ("source_mac", "destination_mac")):
            raise UsageError("there are two Ethernet addresses and one interface", "add -I, or give one address")
    elif given["cache"] and given["split_by"]:
        raise UsageError("--cachefile and --split-by cannot be combined", "use only one of them")
    elif len(given["queues"] or ()) > 1:
        raise UsageError("-I and several --queues cannot be combined", "leave one of them out")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _mean_pps(timing: Timing) -> float | None:
    """The mean rate if it is known beforehand; a bit rate is converted for packets of 500 bytes."""
    return timing.pps or (timing.bps / 4000 if timing.bps else None)
