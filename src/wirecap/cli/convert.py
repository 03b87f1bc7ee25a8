"""``wirecap convert``: capture files into others, with editcap's and mergecap's options where they have them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wirecap.cli import closing
from wirecap.cli.options import COUNT, OUTPUT, SIZE, Command, Parsed, argument, compiling, refused, section, utf8
from wirecap.config import convert as config
from wirecap.config.find import parse_when_ns
from wirecap.errors import UsageError
from wirecap.files.rotation import format_of
from wirecap.units import parse_duration_ns

if TYPE_CHECKING:
    from wirecap.convert.conversion import Result

HELP = """Convert capture files: merge, split, cut, deduplicate, anonymise, shift, select; other formats.

FILES are pcap or pcapng files, also compressed; - is standard input. Several are merged in order of time. The name
given with -w says what is written: .pcap, .pcapng (the default), either of them compressed, or .parquet for the
headers as columns.

\b
  wirecap convert monday.pcap tuesday.pcapng.gz -w both.pcapng.zst
  wirecap convert big.pcapng -w web.pcap --snap 128 -f 'tcp port 443'
  wirecap convert big.pcapng -w part.pcapng --split time:60
  wirecap convert big.pcapng -w public.pcapng -D 5 --anonymise secret.key
"""

where = section("Where to put it")
which = section("Which packets")
change = section("What to change")
output = section("What to show")

_FORMATS = ("pcap", "nsecpcap", "pcapng", "parquet")


@click.command(cls=Command, help=HELP)
@where("-w", "output_path", metavar="FILE", help="Write packets; - is stdout. .pcap means pcap, .parquet Parquet; .gz,"
       " .zst, .lz4, .xz and .bz2 compress.")  # fmt: skip
@where("-F", "--format", "file_format", type=click.Choice(_FORMATS), help="Write this format, whatever the file name.")
@where("--split", type=Parsed("WHAT", config.parse_split), help="Start a new file by packets:N, time:SECONDS or"
       " size:BYTES; or write a file for each flow or interface.")  # fmt: skip
@where("-a", "--concatenate", is_flag=True, help="Take the files one after the other, not in order of time.")
@where("--capture-comment", "comments", multiple=True, type=Parsed("TEXT", utf8), help="Add a comment to a pcapng"
       " file; repeatable.")  # fmt: skip
@which("-f", "--filter", "filter_text", metavar="FILTER", default="", help="A tcpdump expression (pcap-filter(7)).")
@which("--packets", "keep", type=Parsed("LIST", config.parse_ranges), default="", help="Only these: 1-10,15,100-.")
@which("--without-packets", "omit", type=Parsed("LIST", config.parse_ranges), default="", help="All but these.")
@which("-A", "--since", "since_ns", type=Parsed("TIME", parse_when_ns), default=-config.FOREVER_NS,
       help="Only from this time on: 2026-01-31T12:00:00.5Z, seconds since 1970, 14:00 of today, or -5m.")  # fmt: skip
@which("-B", "--until", "until_ns", type=Parsed("TIME", parse_when_ns), default=config.FOREVER_NS,
       help="Only before this time.")  # fmt: skip
@which("-D", "--duplicates", "window", type=COUNT, help="Leave out a packet that repeats one of the N-1 before it.")
@which("--duplicates-within", "window_ns", type=Parsed("TIME", parse_duration_ns),
       help="Leave out a packet that repeats one no older than this.")  # fmt: skip
@which("-I", "--ignore-bytes", "ignored", type=COUNT, default=0,
       help="Ignore this many bytes at the start of packets when comparing them.")  # fmt: skip
@change("-s", "--snap", "--snapshot-length", "snaplen", type=SIZE, default=0, help="Keep this much of a packet.")
@change("-t", "--shift", "shift_ns", type=Parsed("TIME", config.parse_shift_ns), default=0,
        help="Add this to each time: 3600, -0.5, 20ms.")  # fmt: skip
@change("--anonymise", "--anonymize", "key_file", metavar="KEYFILE", help="Replace IP and MAC addresses, prefixes kept"
        " (Crypto-PAn); a key file that is not there is made.")  # fmt: skip
@output("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@output("--summary-json", "--json", type=OUTPUT, help="Write the counters as JSON; - is standard output.")
@refused("-r", message="packets are chosen with --packets", hint="use --packets 1-10, or --without-packets 1-10")
@refused("-c=", message="wirecap has one option to split files", hint="use --split packets:N")
@refused("-i=", message="wirecap has one option to split files", hint="use --split time:SECONDS")
@refused("-d", message="the window has to be given", hint="use -D 5")
@refused("-C=", "-E=", "-S=", "-T=", "-L", message="wirecap does not do that", hint="editcap does")
@argument("files", nargs=-1, metavar="FILES...")
def command(**given: Any) -> None:
    chosen = _config(given)

    from wirecap.convert.conversion import convert

    def tell(result: Result) -> None:
        if not given["quiet"]:
            for line in lines(result):
                click.echo(line, err=True)
        if given["summary_json"]:
            closing.write_json(result.as_dict(), given["summary_json"])

    convert(chosen, tell, compiling)


def _config(given: dict[str, Any]) -> config.ConvertConfig:
    path = given["output_path"]
    for name in given["files"][1:]:
        if re.fullmatch(r"\d+(-\d*)?", name) and not Path(name).exists():
            raise UsageError(f"{name}: no such file", f"packets are chosen with --packets {name}")
    if path is None:
        raise UsageError("nothing to write to", "give -w FILE, or -w - for standard output")
    if path == given["summary_json"] == "-":
        raise UsageError("-w - and --summary-json - both use standard output", "name a file for one of them")
    window, window_ns = given["window"], given["window_ns"]
    if window is not None and window_ns is not None:
        raise UsageError("-D and --duplicates-within both say what a duplicate is", "use only one of them")
    if window is not None and window > config.MOST_DUPLICATES:
        raise UsageError(f"-D {window}: too many packets to compare with", f"use {config.MOST_DUPLICATES} or fewer")
    if given["ignored"] and window is None and window_ns is None:
        raise UsageError("-I has no effect without -D", "add -D 5")
    duplicates = config.Duplicates(window or 0, -1, given["ignored"])
    if window_ns is not None:
        duplicates = config.Duplicates(config.MOST_DUPLICATES, window_ns, given["ignored"])
    parquet = Path(path).suffix.lower() == ".parquet"
    return config.ConvertConfig(
        inputs=given["files"],
        output=path,
        format=given["file_format"] or ("parquet" if parquet else format_of(path)),
        filter=given["filter_text"],
        duplicates=duplicates,
        **{name: given[name] for name in ("split", "concatenate", "comments", "keep", "omit", "since_ns", "until_ns",
                                          "snaplen", "shift_ns", "key_file")},
    )  # fmt: skip


def lines(result: Result) -> list[str]:
    """The closing lines: what was read, what was left out and why, what was written."""
    found = [(result.read, "read"), (result.unselected, "not selected"), (result.filtered_out, "rejected by filter"),
             (result.duplicates, "left out as duplicates"), (result.written, "written"),
             (result.unwritten, "not written"), (result.unordered, "written out of order")]  # fmt: skip
    told = [(n, what) for n, what in found if n or what in ("read", "written")]
    return [f"{n} packet{'' if n == 1 else 's'} {what}" for n, what in told] + result.notes
