"""``wirecap capture``: tcpdump's and dumpcap's options, turned into a CaptureConfig and a WriteConfig."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from wirecap import config
from wirecap.cli import closing, engine_options, listing, rotation
from wirecap.cli.parameters import COUNT, DURATION, OUTPUT, PERCENT, SIZE, Command, Parsed, refused, section
from wirecap.config import CaptureConfig, HandlerSpec, QueueSpec, WriteConfig
from wirecap.errors import UsageError, WirecapError
from wirecap.files.rotation import format_of
from wirecap.observe import progress
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
until = section("Until when")
engine = section("How")
output = section("What is shown")
instead = section("Instead of capturing")


def _snaplen(text: str) -> int:
    return parse_size(text) or config.MAX_SNAPLEN  # tcpdump's -s 0


INTERFACE = Parsed("INTERFACE", QueueSpec.parse)
HANDLER = Parsed("NAME[:KEY=VALUE,...]", HandlerSpec.parse)
PRINTS = "it formats printed packets, and wirecap prints none"


@click.command(cls=Command, help=HELP)
@source("-i", "--interface", "sources", multiple=True, type=INTERFACE,
        help="eth1, eth1@0-3, eth1@0,2, any, or a number of -D; repeatable.")  # fmt: skip
@source("-r", "read_file", metavar="FILE", help="Read a pcap or pcapng file, .gz and .zst too.")
@source("-f", "filter_text", metavar="FILTER", help="The filter, as dumpcap takes it.")
@source("-F", "filter_file", metavar="FILE", help="Read the filter from a file.")
@source("-s", "--snapshot-length", "snaplen", type=Parsed("BYTES", _snaplen), help="Keep so much of a packet; 0: all.")
@source("-p", "--no-promiscuous-mode", "not_promiscuous", is_flag=True, help="Leave promiscuous mode alone.")
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
@source("--netns", metavar="NAME", help="Network namespace of the interfaces.")
@source("--take-over", is_flag=True, help="Take an interface that the host uses: the host loses its packets.")
@target("-w", "write_path", metavar="FILE", help="Write packets; - is stdout, .pcap makes pcap, .zst compresses.")
@target("-P", "as_pcap", is_flag=True, help="Write pcap, whatever the name; pcapng is the default.")
@target("--per-queue", is_flag=True, help="One file for each receive queue.")
@target("--handler", "handlers", multiple=True, type=HANDLER, help="count, write, pkt_handler:x=300, ./my.py:object")
@target("-C", "split_bytes", type=Parsed("SIZE", rotation.parse_tcpdump_size), help="Next file at this size (MB).")
@target("-G", "split_ns", type=DURATION, help="Next file after so many seconds; strftime in its name.")
@target("-W", "split_files", type=COUNT, help="With -C: files kept; with -G: files made.")
@target("-b", "--ring-buffer", "ring", multiple=True, metavar="WHAT:N", help="Next file by duration, interval, filesize"
        " (kB) or packets; files:N are kept.")  # fmt: skip
@target("--nano", "nanoseconds", is_flag=True, help="A pcap file with nanoseconds; pcapng always has them.")
@target("-U", "--packet-buffered", is_flag=True, help="Write each chunk at once.")
@until("-c", "count", type=COUNT, help="End after so many packets.")
@until("--duration", "duration_ns", type=DURATION, help="End after this time: 30s, 5m.")
@until("-a", "--autostop", multiple=True, metavar="WHAT:N", help="End by duration, filesize (kB), files or packets.")
@engine("--engine", type=click.Choice(config.ENGINES), default="auto", show_default=True,
        help="xdp: AF_XDP, for capture ports. packet: TPACKET_V3, for the host's own traffic; with a small --ring it is"
        " the paper's Type I (PF_RING). direct: handlers on a bare ring, its Type II (DNA, netmap).")  # fmt: skip
@engine("--mode", type=click.Choice(config.MODES), default="basic", show_default=True,
        help="advanced: queues in trouble hand chunks to idle ones.")  # fmt: skip
@engine("-M", "M", type=COUNT, default=256, show_default=True, help="Packets of a chunk.")
@engine("-R", "R", type=COUNT, help="Chunks of a queue.  [default: 100]")
@engine("-T", "T", type=PERCENT, default=60, show_default=True, help="Queue length that calls for a buddy, % of R.")
@engine("--buddies", multiple=True, metavar="eth1@0-3+eth2", type=Parsed("GROUP", engine_options.parse_buddies),
        help="A buddy group; repeatable. One of all queues if not given.")  # fmt: skip
@engine("-B", "--buffer-size", type=Parsed("SIZE", engine_options.parse_buffer),
        help="Buffer of a queue, in place of -R: 64MiB, or a number of KiB.")  # fmt: skip
@engine("--cell", type=SIZE, default=2048, show_default=True, help="Bytes for a packet: 2048 or 4096.")
@engine("--ring", "ring_cells", type=COUNT,
        help="xdp: cells attached to a queue [16384]; packet: packets; direct: descriptors [1024].")  # fmt: skip
@engine("--fanout", type=click.Choice(config.FANOUTS),
        help="How the packet engine finds a queue: by flow [default], CPU, NIC queue, at random.")  # fmt: skip
@engine("--xdp-mode", type=click.Choice(config.XDP_MODES), default="auto", show_default=True, help="Where XDP runs.")
@engine("--decisions", "decisions_file", type=OUTPUT, help="Keep the last offload decisions, for a replay.")
@engine("--kernel-filter", type=click.Choice(["drop", "host"]),
        help="Run the filter in the XDP program; what it does not want is dropped, or goes to the host.")  # fmt: skip
@engine("--capture-threads", type=COUNT, help="One for each queue if not given.")
@engine("--cpus", type=Parsed("LIST", engine_options.parse_cpus), default=(), help="CPUs to pin threads to: 0,1.")
@engine("--timeout", "timeout_ns", type=DURATION, default=1_000_000, help="Wait for a full chunk.  [default: 1ms]")
@engine("--keep-going", is_flag=True, help="Count and skip a packet on which a handler fails.")
@output("-q", "--quiet", is_flag=True, help="No live line; the counters at the end only.")
@output("-v", "verbose", count=True, help="Counters of each queue at the end.")
@output("--summary-json", type=OUTPUT, help="Write the summary as JSON; - is the standard output.")
@output("-n", "no_names", count=True, help="Nothing: addresses are never resolved.")
@instead("-D", "--list-interfaces", is_flag=True, help="List the interfaces and their queues.")
@instead("-J", "--list-time-stamp-types", is_flag=True, help="List what -j takes, on the interfaces given.")
@instead("-L", "--list-data-link-types", is_flag=True, help="List the link types of the interfaces given.")
@instead("-d", "dump", count=True, help="Print the filter's classic BPF; -ddd as numbers.")
@instead("-O", "unoptimised", is_flag=True, help="With -d: do not optimise.")
@refused("-A", "-e", "-l", "-N", "-S", "-t", "-u", "-x", "-X", "-H", message=PRINTS, hint="tcpdump -r prints the file")
@refused("-I", message="monitor mode is not supported", hint="capture on an Ethernet interface")
@refused("-z=", message="no command is run after a file", hint="-b printname:FILE tells of each file")
@refused(
    "-Z=", message="wirecap does not change user", hint="run it as that user with CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF"
)
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

    from wirecap import api  # brings in NumPy and Numba
    from wirecap.linux import netns
    from wirecap.source import link_types

    for spec in capture.sources if given["link_type"] else ():
        netns.call(capture.netns, link_types.check, given["link_type"], spec)

    display = progress.choose(given["quiet"])
    try:
        summary = api.run_capture(capture, write, display)
    except WirecapError as error:
        _close(display, getattr(error, "summary", None), given)
        raise
    finally:
        display.close()
    _close(display, summary, given)


def _close(display: progress.Progress, summary: dict[str, Any] | None, given: dict[str, Any]) -> None:
    """Take the live line away and tell what was captured, also by a run that failed half-way."""
    display.close()
    if summary is None:
        return
    lines = closing.counters(summary, writing=given["write_path"] is not None)
    for line in lines + (closing.per_queue(summary) if given["verbose"] else []):
        click.echo(line, err=True)
    if "handlers" in summary:
        from wirecap.handlers.state import plain

        summary = {**summary, "handlers": plain(summary["handlers"])}
        for line in closing.failures(summary) if given["keep_going"] else ():
            click.echo(line, err=True)
        if "-" not in (given["write_path"], given["summary_json"]):
            for line in closing.results(summary):
                click.echo(line)
    if given["summary_json"]:
        closing.write_json(summary, given["summary_json"])


def _expression(given: dict[str, Any]) -> str:
    ways = [given["filter_text"], " ".join(given["words"]) or None, given["filter_file"]]
    if sum(way is not None for way in ways) > 1:
        raise UsageError("the filter is given in two ways", "take one of -f, -F and trailing words")
    if given["filter_file"] is not None:
        try:
            return Path(given["filter_file"]).read_text().strip()
        except UnicodeDecodeError:
            raise UsageError(f"-F {given['filter_file']}: not a text file", "it holds one filter expression") from None
    return (ways[0] or ways[1] or "").strip()


def _capture_config(given: dict[str, Any], expression: str) -> CaptureConfig:
    if not given["sources"] and given["read_file"] is None:
        raise UsageError("nothing to capture from", "give -i INTERFACE or -r FILE; wirecap capture -D lists interfaces")
    if given["summary_json"] == "-" == given["write_path"]:
        raise UsageError("-w - and --summary-json - both take the standard output", "write one of them to a file")
    return CaptureConfig(
        sources=given["sources"],
        read_file=given["read_file"],
        engine=given["engine"],
        mode=given["mode"],
        xdp_mode=given["xdp_mode"],
        pool=engine_options.pool_of(given),
        T=given["T"],
        handlers=given["handlers"],
        filter=expression,
        kernel_filter=given["kernel_filter"],
        duration_ns=_sooner(given["duration_ns"], given["stop"].pop("ns", None)),
        count=_sooner(given["count"], given["stop"].pop("packets", None)),
        snaplen=given["snaplen"] or config.MAX_SNAPLEN,
        promiscuous=not given["not_promiscuous"],
        time_stamps=given["time_stamps"],
        fanout=given["fanout"],
        direction=given["direction"],
        netns=given["netns"],
        take_over=given["take_over"],
        ring=given["ring_cells"],
        capture_threads=given["capture_threads"],
        cpus=given["cpus"],
        timeout_ns=given["timeout_ns"],
        buddies=given["buddies"],
        keep_going=given["keep_going"],
        decisions_file=given["decisions_file"],
        summary_json=given["summary_json"],
    )


def _sooner(one: int | None, other: int | None) -> int | None:
    return min((limit for limit in (one, other) if limit is not None), default=None)


def _write_config(given: dict[str, Any]) -> WriteConfig | None:
    path, stop, ring = given["write_path"], given["stop"], given["ring"]
    split = {name: given[name] for name in ("split_bytes", "split_ns", "split_files")}
    if path is None:
        if ring or stop or given["per_queue"] or given["as_pcap"] or any(value is not None for value in split.values()):
            raise UsageError("options for a file, and no file", "add -w FILE")
        return None
    return WriteConfig(
        path=path,
        format="pcap" if given["as_pcap"] else format_of(path),
        per_queue=given["per_queue"],
        snaplen=given["snaplen"] or config.MAX_SNAPLEN,
        packet_buffered=given["packet_buffered"],
        nanoseconds=given["nanoseconds"],
        **split,
        **ring,
        **{f"stop_{name}": value for name, value in stop.items()},
    )
