"""``wirecap capture``: turns tcpdump's and dumpcap's options into a CaptureConfig and a WriteConfig."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from wirecap import units
from wirecap.cli import closing, config_file, keeping, listing, options, printing
from wirecap.cli.config_file import Configurable
from wirecap.cli.options import COUNT, DURATION, OUTPUT, Parsed, refused, section, utf8
from wirecap.config import capture as config
from wirecap.config.bounds import Amount, Bounds
from wirecap.config.capture import CaptureConfig, WriteConfig
from wirecap.config.handlers import kind_of
from wirecap.config.serve import PORT, TLS_SCHEME, Remote
from wirecap.config.sources import engine_names
from wirecap.config.specs import QueueSpec, file_of
from wirecap.errors import UsageError
from wirecap.files.finished import STANDARD_OUTPUT
from wirecap.files.rotation import format_of
from wirecap.observe import log
from wirecap.units import parse_size


def parse_tcpdump_size(text: str) -> int:
    """The bytes that tcpdump's ``-C`` means: a plain number is millions of bytes; k, m and g are KiB, MiB and GiB."""
    if text.isdecimal():
        return _positive(int(text) * 10**6, text)
    if text[:-1].isdecimal() and text[-1:] in "kKmMgG":
        return _positive(units.parse_size(text + "iB"), text)
    return _positive(units.parse_size(text), text)


def _kilobytes(text: str) -> int:
    """The bytes that dumpcap's ``filesize:`` means: a plain number is kB of 1000 bytes."""
    return int(text) * 1000 if text.isdecimal() else units.parse_size(text)


def _time_order(text: str) -> bool:
    if text not in ("1", "2"):
        raise UsageError(f"{text!r} is neither 1 nor 2", "1 puts the time before the number, 2 puts it after")
    return text == "1"


def _positive(value: int, text: str) -> int:
    if value < 1:
        raise UsageError(f"{text!r} is less than 1", "use a positive number")
    return value


def _some(parse: Callable[[str], int]) -> Callable[[str], int]:
    return lambda text: _positive(parse(text), text)


_SIZE, _TIME, _COUNT = _some(_kilobytes), _some(units.parse_duration_ns), _some(units.parse_count)

_AUTOSTOP: dict[str, tuple[str, Callable[[str], Any]]] = {
    "duration": ("ns", _TIME),
    "filesize": ("bytes", _SIZE),
    "files": ("files", _COUNT),
    "packets": ("packets", _COUNT),
}
_RING: dict[str, tuple[str, Callable[[str], Any]]] = {
    "duration": ("ring_ns", _TIME),
    "interval": ("ring_interval_ns", _TIME),
    "filesize": ("ring_bytes", _SIZE),
    "files": ("ring_files", _COUNT),
    "packets": ("ring_packets", _COUNT),
    "printname": ("ring_print", str),
    "nametimenum": ("ring_name_time_first", _time_order),
}


def parse_autostop(conditions: Iterable[str]) -> dict[str, int]:
    """dumpcap's ``-a duration:30 -a filesize:1000`` as a dict of ns, bytes, files and packets."""
    return _parse("-a", conditions, _AUTOSTOP, "duration:SECONDS, filesize:KB, files:N or packets:N")


def parse_ring(conditions: Iterable[str]) -> dict[str, Any]:
    """dumpcap's ``-b filesize:1000 -b files:10``: WriteConfig's ring_* fields."""
    forms = "duration:SECONDS, interval:SECONDS, filesize:KB, files:N, packets:N, printname:FILE or nametimenum:2"
    return _parse("-b", conditions, _RING, forms)


def _parse(
    option: str, conditions: Iterable[str], table: dict[str, tuple[str, Callable[[str], Any]]], forms: str
) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for condition in conditions:
        name, colon, text = condition.partition(":")
        if name not in table or not colon or not text:
            theirs = "; tcpdump's flag -b is not supported: leave it out" if option == "-b" and not colon else ""
            raise UsageError(f"{option}: unknown condition {condition!r}", f"write it as {forms}{theirs}")
        key, parse = table[name]
        if key in values:
            raise UsageError(f"{option} {name} is given twice", "give it once")
        try:
            values[key] = parse(text)
        except UsageError as error:
            raise UsageError(f"{option} {name}: {error.message}", error.hint) from None
    return values


HELP = """Capture from interfaces or a file, into a file or a handler.

FILTER is a tcpdump expression (pcap-filter(7)), given as trailing words or after -f. Without -w,
--handler or --print, packets are only counted. Ctrl-C ends a capture, with everything captured written to the file.

\b
  wirecap capture -i eth1 -w out.pcapng tcp port 443
  wirecap capture -i eth1 --print -n port 53
  wirecap capture -i eth1@0-3 -i eth2 --mode advanced -T 60 --handler pkt_handler:x=300 --duration 60s
  wirecap capture -r out.pcapng --handler count 'udp and port 53'
"""

source = section("What to capture")
target = section("Where to put it")
until, output = options.until, options.output
engine = section("How")
instead = section("Instead of capturing")


def _snaplen(text: str) -> int:
    return parse_size(text) or config.MAX_SNAPLEN  # tcpdump's -s 0


def _source(text: str) -> QueueSpec | Remote:
    return Remote.parse(text) if "://" in text else QueueSpec.parse(text)


INTERFACE = Parsed("INTERFACE", _source)


class _Capture(Configurable):
    """The command, whose ``--count=5`` is refused as ``--count 5`` is."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.BadOptionUsage as error:
            numbers = [word.partition("=")[2] for word in given if word.startswith("--count=")]
            if error.option_name != "--count" or not numbers or not numbers[0].isdecimal():
                raise
            raise _takes_no_number(numbers[0]) from None


def _checks(given: dict[str, Any]) -> None:
    """Raise UsageError as the command does, as far as that takes no capture."""
    from wirecap.handlers.user import check_file

    capture, write = _settings_again(given)
    _check(capture, write)
    for path in handler_files(capture):
        check_file(path)


@click.command(cls=_Capture, checks=_checks, help=HELP)
@source("-i", "--interface", "sources", multiple=True, type=INTERFACE,
        help="eth1, eth1@0-3, eth1@0,2, any, or a number from -D; repeatable. pcap-over-ip://HOST:57012: what"
        " wirecap serve captures there; pcap-over-ip+tls:// encrypted.")  # fmt: skip
@source("-r", "--read", "read_file", metavar="FILE", help="Read a pcap or pcapng file, also compressed.")
@source(
    "--tls-ca",
    metavar="FILE",
    help="With pcap-over-ip+tls://: CA certificates to trust (PEM).  [default: the system's]",
)
@source("--tls-cert", metavar="FILE", help="A client certificate to show the server (PEM).")
@source("--tls-key", metavar="FILE", help="The certificate's key, if it is in another file.")
@source("-F", "--filter-file", metavar="FILE", help="Read the filter from a file.")
@source("-O", "--no-optimize", "unoptimised", is_flag=True, help="Do not optimise the filter.")
@source(
    "-s", "--snapshot-length", "snaplen", type=Parsed("BYTES", _snaplen), help="Keep this much of a packet; 0: all."
)
@source(
    "-Q",
    "--direction",
    type=click.Choice(config.DIRECTIONS),
    help="Incoming packets, outgoing ones, or both; AF_XDP sees only incoming ones.",
)
@source("-j", "--time-stamp-type", "time_stamps", type=click.Choice(config.TIME_STAMPS), default="host",
        show_default=True, help="host: by the kernel, within 5 us; host_hiprec: the clock is read for each packet;"
        " host_lowprec: cheapest, one for many packets; adapter_unsynced: by the NIC.")  # fmt: skip
@source("-y", "--linktype", "link_type", metavar="NAME", help="Refuse interfaces with any other link type.")
@target("-w", "--write", "write_path", metavar="FILE", help="Write packets; - is stdout, .pcap means pcap;"
        " .gz, .zst, .lz4, .xz and .bz2 compress.")  # fmt: skip
@target("-P", "--pcap", "as_pcap", is_flag=True, help="Write pcap, whatever the file name; pcapng is the default.")
@target("--per-queue", is_flag=True, help="Write one file per receive queue.")
@target(
    "--handler",
    "handlers",
    multiple=True,
    type=options.HANDLER,
    help="count, write, share, flows, pkt_handler:x=300, ./my.py:object",
)
@target("--to", multiple=True, type=Parsed("TARGET", utf8), help="Where --handler flows puts its records: - for JSON"
        " lines [default], file:flows/%Y/%m/%d/%H.parquet, file:x.jsonl, ipfix://HOST, ipfix+tcp://HOST,"
        " nats://HOST/flows.SITE.SENSOR; repeatable.")  # fmt: skip
@target("--spool", metavar="FOLDER", help="Where flow records wait for a broker [/var/lib/wirecap/spool, or in the"
        " user's state folder].")  # fmt: skip
@target("--spool-limit", type=options.SIZE, help="How much may wait there [1GiB].")
@target(
    "-C",
    "--file-size",
    "split_bytes",
    type=Parsed("SIZE", parse_tcpdump_size),
    help="Start a new file at this size (MB).",
)
@target(
    "-G",
    "--file-time",
    "split_ns",
    type=DURATION,
    help="Start a new file after this many seconds; the name takes strftime.",
)
@target("-W", "--file-count", "split_files", type=Parsed("N", _COUNT), help="With -C: files to keep; with -G: files to"
        " write.")  # fmt: skip
@target("-b", "--ring-buffer", "ring", multiple=True, metavar="WHAT:N", help="Start a new file by duration, interval,"
        " filesize (kB) or packets; keep files:N; list finished files in printname:FILE.")  # fmt: skip
@target("--limit", type=Parsed("SIZE|PERCENT%", Amount.parse), help="Remove the oldest files of this name so that all"
        " take at most this much, or this share of the disk.")  # fmt: skip
@target("--min-free", type=Parsed("SIZE|PERCENT%", Amount.parse), help="Remove the oldest files so that the disk keeps"
        " this much free.")  # fmt: skip
@target("--max-age", "max_age_ns", type=DURATION, help="Remove files this long after their last packet.")
@target("-z", "--on-file", "on_file", metavar="CMD", help="Run a command for each finished file, without privileges.")
@target("--on-file-jobs", type=COUNT, help="Run at most this many of these commands at once [1].")
@target("--nano", "precision", flag_value="nano", help="Nanoseconds in a pcap file; pcapng always has them.")
@target("--micro", "precision", flag_value="micro", help="Microseconds in a pcap file, the default.")
@target("--time-stamp-precision", "precision", type=click.Choice(["micro", "nano"]), help="The same as one option.")
@target("--capture-comment", "comments", multiple=True, type=Parsed("TEXT", utf8), help="Add a comment to a pcapng"
        " file; repeatable.")  # fmt: skip
@target("--independent-frames", is_flag=True, help="Make each block of a .zst or .lz4 file a frame of its own, for"
        " parallel readers.")  # fmt: skip
@target("--index", "indexed", is_flag=True, help="Write an index beside each file, for wirecap find.")
@target("-U", "--packet-buffered", is_flag=True, help="Write each chunk at once.")
@keeping.options
@engine("--engine", type=click.Choice(engine_names()), default="auto", show_default=True,
        help="xdp: AF_XDP, for capture ports. packet: TPACKET_V3, for the host's own traffic; with a small --ring, the"
        " paper's Type I (PF_RING). direct: handlers on a bare ring, the paper's Type II (DNA, netmap).")  # fmt: skip
@engine("--ring", "ring_cells", type=COUNT,
        help="xdp: cells attached to a queue [16384]; packet: packets; direct: descriptors [1024].")  # fmt: skip
@engine("--fanout", type=click.Choice(config.FANOUTS),
        help="How the packet engine chooses a queue: by flow [default], CPU, NIC queue, or at random.")  # fmt: skip
@engine("--defrag", is_flag=True,
        help="packet: the kernel puts IPv4 datagrams together; fragments come to their flow's queue.")  # fmt: skip
@engine("--decisions", "decisions_file", type=OUTPUT, help="Save the last offload decisions, to replay them.")
@engine("--keep-going", is_flag=True,
        help="Count and skip packets on which a handler fails; wait for interfaces that go away.")  # fmt: skip
@options.options(source, engine)
@until("-a", "--autostop", multiple=True, metavar="WHAT:N", help="Stop by duration, filesize (kB), files or packets.")
@output("--count", "count_only", is_flag=True, help="Print the number of packets on standard output.")
@printing.options
@output("--immediate-mode", "no_effect", is_flag=True, help="No effect: wirecap delays no packets.")
@instead("-D", "--list-interfaces", is_flag=True, help="List the interfaces and their queues.")
@instead("-J", "--list-time-stamp-types", is_flag=True, help="List the values of -j for the given interfaces.")
@instead("-L", "--list-data-link-types", is_flag=True, help="List the link types of the given interfaces.")
@instead(
    "-d", "--dump-filter", "dump", count=True, help="Print the filter as classic BPF; -dd as eBPF, -ddd as numbers."
)
@refused(
    "-I", "--monitor-mode", "-k=", message="monitor mode is not supported", hint="capture on an Ethernet interface"
)
@refused(
    "-Z=", "--relinquish-privileges=", message="wirecap does not change to another user",
    hint="run it as that user, with CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF",
)  # fmt: skip
@refused("-V=", message="capture reads one file", hint="for several: wirecap convert FILES -w - | wirecap capture -r -")
@refused("-g", message="the umask decides who can read a file", hint="umask 027 lets the group read it")
@refused("--ifname=", "--ifdescr=", message="wirecap records an interface under its own name",
         hint="ip link set eth1 name NAME renames it")  # fmt: skip
@refused("--temp-dir=", message="wirecap makes no temporary file", hint="name the file with -w FILE")
@config_file.options(source, instead)
@options.argument("words", nargs=-1, metavar="[FILTER]...")
@click.pass_context
def command(ctx: click.Context, /, **given: Any) -> None:
    as_given, checking = dict(given), config_file.check_is_asked(given)
    if given["list_interfaces"]:
        listing.interfaces(given["netns"], given["summary_json"])
        return
    _part_sources(given)
    given["sources"] = listing.by_own_name(given["sources"], given["netns"], "-i")
    given["buddies"] = tuple(listing.by_own_name(group, given["netns"]) for group in given["buddies"])
    if given["list_time_stamp_types"]:
        listing.time_stamps(given["sources"], given["netns"], given["summary_json"])
        return
    if given["list_data_link_types"]:
        listing.link_types(given["sources"], given["netns"], given["summary_json"])
        return
    _check_count(given)
    expression = _expression(given)
    if given["dump"]:
        optimise, given_link = not given["unoptimised"], (given["link_type"], given["read_file"], given["summary_json"])
        listing.program(expression, given["dump"], given["snaplen"], optimise, *given_link)
        return
    capture, write = settings(given, expression)
    if checking:
        from wirecap.handlers.user import check_file

        _check(capture, write)
        for path in handler_files(capture):
            check_file(path)
        config_file.tell_checked(given, expression)
        return

    here = bool(capture.sources)
    reload = config_file.reloader(ctx, as_given, _settings_again) if here else None

    from wirecap.linux import netns
    from wirecap.source import link_types

    if given["link_type"] and not here:
        raise UsageError("-y is for interfaces: a file or a stream states its own link type", "leave out -y")
    for spec in capture.sources if given["link_type"] else ():
        netns.call(capture.netns, link_types.check, given["link_type"], spec)

    if write is None and printing.is_meant(given):
        log.tell("wirecap: packets are counted (--print shows them)", "counting")
    closing.run(given, capture, write, reload=reload)


def _settings_again(given: dict[str, Any]) -> config_file.Settings:
    """What the options say after the file of --config has changed."""
    _part_sources(given)
    given["sources"] = listing.by_own_name(given["sources"], given["netns"], "-i")
    given["buddies"] = tuple(listing.by_own_name(group, given["netns"]) for group in given["buddies"])
    return settings(given, _expression(given))


def _part_sources(given: dict[str, Any]) -> None:
    """Interfaces stay in ``sources``; a server of pcap over IP becomes ``remote``, with the options for TLS."""
    remotes = [one for one in given["sources"] if isinstance(one, Remote)]
    given["sources"] = tuple(one for one in given["sources"] if not isinstance(one, Remote))
    if len(remotes) > 1:
        raise UsageError(
            "capture reads from only one pcap-over-IP server", "start one for each, and merge: wirecap convert"
        )
    asked = {name: given[name] for name in ("tls_ca", "tls_cert", "tls_key")}
    option = next((f"--{name.replace('_', '-')}" for name, value in asked.items() if value is not None), None)
    if option and not (remotes and remotes[0].tls):
        raise UsageError(f"{option} is for a server with TLS", f"write it as -i {TLS_SCHEME}://HOST:{PORT}")
    if given["tls_key"] and not given["tls_cert"]:
        raise UsageError("--tls-key needs its certificate", "add --tls-cert FILE")
    tls = {"ca": given["tls_ca"], "cert": given["tls_cert"], "key": given["tls_key"]}
    given["remote"] = replace(remotes[0], **tls) if remotes else None


def settings(given: dict[str, Any], expression: str) -> tuple[CaptureConfig, WriteConfig | None]:
    """What the options say, checked against each other.  Raises UsageError."""
    given |= {"stop": parse_autostop(given["autostop"]), "ring": parse_ring(given["ring"])}
    return _capture_config(given, expression), _write_config(given)


def of_file(path: str) -> tuple[dict[str, Any], CaptureConfig]:
    """The options of a file for ``--config`` alone, and what they say.  Raises UsageError as the command does."""
    try:
        ctx = command.make_context("wirecap capture", ["--config", path])
    finally:
        log.use("text")  # whatever the capture will log, we do not
    given = ctx.params
    try:
        _part_sources(given)
        capture, write = settings(given, _expression(given))
        _check(capture, write)
    except UsageError as error:
        config_file.place(ctx, error)
        raise
    return given, capture


def handler_files(capture: CaptureConfig) -> list[str]:
    """The files that handlers are in, as they were written."""
    return [path for spec in capture.handlers if (path := file_of(spec.name))]


def _check(capture: CaptureConfig, write: WriteConfig | None) -> None:
    """Refuse what a capture would refuse at its beginning, as far as that takes no interface."""
    from wirecap.files import retention
    from wirecap.files.finished import FinishedCommands
    from wirecap.handlers import table

    table.complete(capture.handlers, write, to=capture.to)
    if write and write.bounds:
        retention.rotated(write, 1)
    if write and write.on_file:
        FinishedCommands.check(write.on_file)


def refuse(parent: click.Context, arguments: list[str]) -> None:
    """Raise UsageError for arguments that the command refuses, before anybody is told to call it with them."""
    ctx = click.Context(command, parent=parent, info_name="capture")
    try:
        values, _, order = command.make_parser(ctx).parse_args(list(arguments))
    except click.BadOptionUsage:
        command.parse_args(ctx, list(arguments))
        raise
    for option in order:
        if isinstance(option, click.Option) and option.hidden:
            option.process_value(ctx, values[str(option.name)])
    words = values["words"] if isinstance(values["words"], list | tuple) else ()  # else what click has for nothing
    _check_count({"count_only": values.get("count_only"), "words": words})


def _check_count(given: dict[str, Any]) -> None:
    """Raise UsageError for ``--count 5``, which in other commands is a number of packets and here would be a filter."""
    words = given["words"]
    following = "".join(words[1:]).lstrip()
    if given["count_only"] and words and words[0].isdecimal() and not following.startswith(tuple("<>=!+-*/%&|^")):
        raise _takes_no_number(words[0])


def _takes_no_number(number: str) -> UsageError:
    return UsageError(
        f"--count prints how many packets there were, and takes no number: {number}",
        f"wirecap capture -c {number} stops after that many packets",
    )


def _expression(given: dict[str, Any]) -> str:
    ways = [given["filter_text"], " ".join(given["words"]) or None, given["filter_file"]]
    if sum(way is not None for way in ways) > 1:
        hint = "use only one of -f, -F and trailing words"
        if given["filter_text"] and given["words"] and not given["filter_file"]:
            hint += "; all of the filter behind -f wants quotes, and tcpdump's flag -f can be left out"
        raise UsageError("the filter is given twice", hint)
    if given["filter_file"] is not None:
        try:
            return re.sub("#.*", " ", Path(given["filter_file"]).read_text()).strip()  # tcpdump blanks comments
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise UsageError(
                f"-F {given['filter_file']}: {reason}", "name a file that holds one filter expression"
            ) from None
        except UnicodeDecodeError:
            raise UsageError(
                f"-F {given['filter_file']}: not a text file", "name a file that holds one filter expression"
            ) from None
    return (ways[0] or ways[1] or "").strip()


def _capture_config(given: dict[str, Any], expression: str) -> CaptureConfig:
    if not given["sources"] and given["read_file"] is None and given["remote"] is None:
        if given["words"] and Path(given["words"][0]).is_file():
            file = shlex.quote(given["words"][0])
            raise UsageError("nothing to capture from", f"did you mean wirecap capture -r {file}?")
        raise UsageError("nothing to capture from", "give -i INTERFACE or -r FILE; wirecap capture -D lists interfaces")
    _check_standard_output(given)
    return CaptureConfig(
        sources=given["sources"],
        read_file=given["read_file"],
        remote=given["remote"],
        filter=expression,
        optimise=not given["unoptimised"],
        duration_ns=_sooner(given["duration_ns"], given["stop"].pop("ns", None)),
        count=_sooner(given["count"], given["stop"].pop("packets", None)),
        snaplen=given["snaplen"] or config.MAX_SNAPLEN,
        time_stamps=given["time_stamps"],
        fanout=given["fanout"],
        defrag=given["defrag"],
        direction=given["direction"],
        decisions_file=given["decisions_file"],
        to=_targets(given),
        spool=given["spool"],
        spool_limit=given["spool_limit"],
        **options.config_of(given),
    )


def _targets(given: dict[str, Any]) -> tuple[str, ...]:
    """Where flow records go: to standard output if nothing else is said, and nothing else goes there."""
    asked: tuple[str, ...] = given["to"]
    if len(set(asked)) < len(asked):
        twice = next(target for target in asked if asked.count(target) > 1)
        raise UsageError(f"--to {twice} is given twice", "give it once")
    exports = any(kind_of(handler).exports for handler in given["handlers"])
    return asked if asked or not exports else ("-",)


def _check_standard_output(given: dict[str, Any]) -> None:
    takes = {
        "-w -": given["write_path"] == "-",
        "--summary-json -": given["summary_json"] == "-",
        "-b printname:-": given["ring"].get("ring_print") in STANDARD_OUTPUT,
        "--count": given["count_only"],
        "--print": printing.is_asked(given),
        "--handler flows": "-" in _targets(given),
    }
    taking = [option for option, taken in takes.items() if taken]
    if len(taking) > 1:
        files = not {"--count", "--print"}.issuperset(taking[:2])
        if "--handler flows" in taking[:2]:
            raise UsageError(f"{taking[0]} and {taking[1]} both use standard output", "add --to file:flows.jsonl")
        help = "name a file for one of them, or leave it out" if files else "leave one of them out"
        raise UsageError(f"{taking[0]} and {taking[1]} both use standard output", help)


def _sooner(one: int | None, other: int | None) -> int | None:
    return min((limit for limit in (one, other) if limit is not None), default=None)


def _write_config(given: dict[str, Any]) -> WriteConfig | None:
    path, stop, ring, shown = given["write_path"], given["stop"], given["ring"], printing.config_of(given)
    split = {name: given[name] for name in ("split_bytes", "split_ns", "split_files")}
    if path is None:
        names = ("per_queue", "as_pcap", "comments", "independent_frames", "limit", "min_free", "max_age_ns", "on_file")
        asked = [ring, stop, given["indexed"], keeping.is_asked(given), *(given[name] for name in names)]
        if any(asked) or any(value is not None for value in split.values()):
            raise UsageError("there are options for an output file, but no file is named", "add -w FILE")
        return printing.without_a_file(given, shown) if shown else None
    return WriteConfig(
        path=path,
        format="pcap" if given["as_pcap"] else format_of(path),
        per_queue=given["per_queue"],
        snaplen=given["snaplen"] or config.MAX_SNAPLEN,
        packet_buffered=given["packet_buffered"],
        independent_frames=given["independent_frames"],
        indexed=given["indexed"],
        nanoseconds=given["precision"] == "nano",
        comments=given["comments"],
        printing=shown,
        bounds=Bounds(given["limit"], given["min_free"], given["max_age_ns"]),
        on_file=given["on_file"],
        on_file_jobs=given["on_file_jobs"] or 1,
        keep=keeping.config_of(given),
        **split,
        **ring,
        **{f"stop_{name}": value for name, value in stop.items()},
    )
