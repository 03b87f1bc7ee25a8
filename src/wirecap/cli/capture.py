"""``wirecap capture``: tcpdump's and dumpcap's options, turned into a CaptureConfig and a WriteConfig."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from wirecap import config
from wirecap.cli import closing, engine_options, listing, rotation
from wirecap.cli.parameters import COUNT, DURATION, OUTPUT, Command, Parsed, refused, section
from wirecap.config import CaptureConfig, QueueSpec, WriteConfig
from wirecap.errors import UsageError
from wirecap.files.names import STANDARD_OUTPUT
from wirecap.files.rotation import format_of
from wirecap.units import parse_size

HELP = """Capture from interfaces or a file, into a file or a handler.

FILTER is tcpdump's language (pcap-filter(7)), in trailing words or after -f. Without -w and --handler
the packets are counted. Ctrl-C ends a capture with everything captured in the file.

\b
  wirecap capture -i eth1 -w out.pcapng tcp port 443
  wirecap capture -i eth1@0-3 -i eth2 --mode advanced -T 60 -w out.pcap -a duration:60
  wirecap capture -r out.pcapng --handler count 'udp and port 53'
"""

source = section("What to capture")
target = section("Where it goes")
until, output = engine_options.until, engine_options.output
engine = section("How")
instead = section("Instead of capturing")


def _snaplen(text: str) -> int:
    return parse_size(text) or config.MAX_SNAPLEN  # tcpdump's -s 0


def _utf8(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError("not UTF-8", "pcapng has text in UTF-8") from None
    return text


INTERFACE = Parsed("INTERFACE", QueueSpec.parse)
PRINTS = "it formats printed packets, and wirecap prints none"


@click.command(cls=Command, help=HELP)
@source("-i", "--interface", "sources", multiple=True, type=INTERFACE,
        help="eth1, eth1@0-3, eth1@0,2, any, or a number of -D; repeatable.")  # fmt: skip
@source("-r", "read_file", metavar="FILE", help="Read a pcap or pcapng file, .gz and .zst too.")
@source("-F", "filter_file", metavar="FILE", help="Read the filter from a file.")
@source("-s", "--snapshot-length", "snaplen", type=Parsed("BYTES", _snaplen), help="Keep so much of a packet; 0: all.")
@source(
    "-Q",
    "--direction",
    type=click.Choice(config.DIRECTIONS),
    help="Packets that come in, go out, or both; AF_XDP sees the incoming ones only.",
)
@source("-j", "--time-stamp-type", "time_stamps", type=click.Choice(config.TIME_STAMPS), default="host",
        show_default=True, help="host: the kernel's; host_lowprec: cheaper, one for many packets; adapter_unsynced: the"
        " NIC's own.")  # fmt: skip
@source("-y", "--linktype", "link_type", metavar="NAME", help="Refuse interfaces with another link type.")
@target("-w", "write_path", metavar="FILE", help="Write packets; - is stdout, .pcap makes pcap, .zst compresses.")
@target("-P", "as_pcap", is_flag=True, help="Write pcap, whatever the name; pcapng is the default.")
@target("--per-queue", is_flag=True, help="One file for each receive queue.")
@target(
    "--handler",
    "handlers",
    multiple=True,
    type=engine_options.HANDLER,
    help="count, write, pkt_handler:x=300, ./my.py:object",
)
@target("-C", "split_bytes", type=Parsed("SIZE", rotation.parse_tcpdump_size), help="Next file at this size (MB).")
@target("-G", "split_ns", type=DURATION, help="Next file after so many seconds; strftime in its name.")
@target("-W", "split_files", type=COUNT, help="With -C: files kept; with -G: files made.")
@target("-b", "--ring-buffer", "ring", multiple=True, metavar="WHAT:N", help="Next file by duration, interval, filesize"
        " (kB) or packets; files:N are kept; printname:FILE tells of each.")  # fmt: skip
@target("--nano", "precision", flag_value="nano", help="A pcap file with nanoseconds; pcapng always has them.")
@target("--micro", "precision", flag_value="micro", help="A pcap file with microseconds, as it has them anyway.")
@target("--time-stamp-precision", "precision", type=click.Choice(["micro", "nano"]), help="The same in one option.")
@target("--capture-comment", "comments", multiple=True, type=Parsed("TEXT", _utf8), help="A comment in a pcapng file;"
        " repeatable.")  # fmt: skip
@target("-U", "--packet-buffered", is_flag=True, help="Write each chunk at once.")
@engine("--engine", type=click.Choice(config.ENGINES), default="auto", show_default=True,
        help="xdp: AF_XDP, for capture ports. packet: TPACKET_V3, for the host's own traffic; with a small --ring it is"
        " the paper's Type I (PF_RING). direct: handlers on a bare ring, its Type II (DNA, netmap).")  # fmt: skip
@engine("--ring", "ring_cells", type=COUNT,
        help="xdp: cells attached to a queue [16384]; packet: packets; direct: descriptors [1024].")  # fmt: skip
@engine("--fanout", type=click.Choice(config.FANOUTS),
        help="How the packet engine finds a queue: by flow [default], CPU, NIC queue, at random.")  # fmt: skip
@engine("--decisions", "decisions_file", type=OUTPUT, help="Keep the last offload decisions, for a replay.")
@engine("--keep-going", is_flag=True, help="Count and skip a packet on which a handler fails.")
@engine_options.options(source, engine)
@until("-a", "--autostop", multiple=True, metavar="WHAT:N", help="End by duration, filesize (kB), files or packets.")
@output("--count", "count_only", is_flag=True, help="Print the number of packets on the standard output.")
@output("-n", "-K", "--dont-verify-checksums", "--immediate-mode", "no_effect", count=True,
        help="Nothing: no address is resolved, no checksum verified, no packet held back.")  # fmt: skip
@instead("-D", "--list-interfaces", is_flag=True, help="List the interfaces and their queues.")
@instead("-J", "--list-time-stamp-types", is_flag=True, help="List what -j takes, on the interfaces given.")
@instead("-L", "--list-data-link-types", is_flag=True, help="List the link types of the interfaces given.")
@instead("-d", "dump", count=True, help="Print the filter's classic BPF; -ddd as numbers.")
@instead("-O", "--no-optimize", "unoptimised", is_flag=True, help="With -d: do not optimise.")
@refused("-A", "-e", "-l", "-N", "-S", "-t", "-u", "-x", "-X", "-H", "-#", "--number", "--print", "-E=", "-m=",
         "--absolute-tcp-sequence-numbers", message=PRINTS, hint="tcpdump -r prints the file")  # fmt: skip
@refused(
    "-I", "--monitor-mode", "-k=", message="monitor mode is not supported", hint="capture on an Ethernet interface"
)
@refused("-z=", message="no command is run after a file", hint="-b printname:FILE tells of each file")
@refused(
    "-Z=", "--relinquish-privileges=", message="wirecap does not change user",
    hint="run it as that user with CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF",
)  # fmt: skip
@refused("-V=", message="one file is read", hint="mergecap -w - FILES | wirecap capture -r - reads several")
@refused("-g", message="the umask says who may read a file", hint="umask 027 lets the group read")
@refused("--ifname=", "--ifdescr=", message="an interface stands in the file under its own name",
         hint="ip link set eth1 name NAME renames it")  # fmt: skip
@refused("--temp-dir=", message="no temporary file is made", hint="-w FILE names the file")
@click.argument("words", nargs=-1, metavar="[FILTER]...")
def command(**given: Any) -> None:
    if given["list_interfaces"]:
        listing.interfaces(given["netns"])
        return
    given["sources"] = listing.by_number(given["sources"], given["netns"])
    given["buddies"] = tuple(listing.by_number(group, given["netns"]) for group in given["buddies"])
    if given["list_time_stamp_types"]:
        listing.time_stamps(given["sources"], given["netns"])
        return
    if given["list_data_link_types"]:
        listing.link_types(given["sources"], given["netns"])
        return
    expression = _expression(given)
    if given["dump"]:
        optimise, given_link = not given["unoptimised"], (given["link_type"], given["read_file"])
        listing.program(expression, given["dump"], given["snaplen"], optimise, *given_link)
        return
    given |= {"stop": rotation.parse_autostop(given["autostop"]), "ring": rotation.parse_ring(given["ring"])}
    capture, write = _capture_config(given, expression), _write_config(given)
    if write is None and any(spec.name == "write" for spec in capture.handlers):
        raise UsageError("--handler write has no file", "add -w FILE")

    from wirecap.linux import netns
    from wirecap.source import link_types

    for spec in capture.sources if given["link_type"] else ():
        netns.call(capture.netns, link_types.check, given["link_type"], spec)

    closing.run(given, capture, write)


def _expression(given: dict[str, Any]) -> str:
    ways = [given["filter_text"], " ".join(given["words"]) or None, given["filter_file"]]
    if sum(way is not None for way in ways) > 1:
        raise UsageError("the filter is given in two ways", "take one of -f, -F and trailing words")
    if given["filter_file"] is not None:
        try:
            return re.sub("#.*", " ", Path(given["filter_file"]).read_text()).strip()  # tcpdump blanks comments
        except UnicodeDecodeError:
            raise UsageError(f"-F {given['filter_file']}: not a text file", "it holds one filter expression") from None
    return (ways[0] or ways[1] or "").strip()


def _capture_config(given: dict[str, Any], expression: str) -> CaptureConfig:
    if not given["sources"] and given["read_file"] is None:
        raise UsageError("nothing to capture from", "give -i INTERFACE or -r FILE; wirecap capture -D lists interfaces")
    _check_standard_output(given)
    return CaptureConfig(
        sources=given["sources"],
        read_file=given["read_file"],
        filter=expression,
        duration_ns=_sooner(given["duration_ns"], given["stop"].pop("ns", None)),
        count=_sooner(given["count"], given["stop"].pop("packets", None)),
        snaplen=given["snaplen"] or config.MAX_SNAPLEN,
        time_stamps=given["time_stamps"],
        fanout=given["fanout"],
        direction=given["direction"],
        decisions_file=given["decisions_file"],
        **engine_options.config_of(given),
    )


def _check_standard_output(given: dict[str, Any]) -> None:
    takes = {
        "-w -": given["write_path"] == "-",
        "--summary-json -": given["summary_json"] == "-",
        "-b printname:-": given["ring"].get("ring_print") in STANDARD_OUTPUT,
        "--count": given["count_only"],
    }
    taking = [option for option, taken in takes.items() if taken]
    if len(taking) > 1:
        raise UsageError(f"{taking[0]} and {taking[1]} both take the standard output", "name a file, or leave one out")


def _sooner(one: int | None, other: int | None) -> int | None:
    return min((limit for limit in (one, other) if limit is not None), default=None)


def _write_config(given: dict[str, Any]) -> WriteConfig | None:
    path, stop, ring = given["write_path"], given["stop"], given["ring"]
    split = {name: given[name] for name in ("split_bytes", "split_ns", "split_files")}
    if path is None:
        asked = [ring, stop, given["per_queue"], given["as_pcap"], given["comments"]]
        if any(asked) or any(value is not None for value in split.values()):
            raise UsageError("options for a file, and no file", "add -w FILE")
        return None
    return WriteConfig(
        path=path,
        format="pcap" if given["as_pcap"] else format_of(path),
        per_queue=given["per_queue"],
        snaplen=given["snaplen"] or config.MAX_SNAPLEN,
        packet_buffered=given["packet_buffered"],
        nanoseconds=given["precision"] == "nano",
        comments=given["comments"],
        **split,
        **ring,
        **{f"stop_{name}": value for name, value in stop.items()},
    )
