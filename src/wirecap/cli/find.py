"""``wirecap find``: packets in many capture files, by time and filter."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wirecap.cli import closing
from wirecap.cli.options import COUNT, OUTPUT, Command, Parsed, argument, compiling, section
from wirecap.config.convert import FOREVER_NS
from wirecap.config.find import FindConfig, parse_when_ns
from wirecap.errors import UsageError
from wirecap.files.rotation import format_of
from wirecap.units import format_size

if TYPE_CHECKING:
    from wirecap.find.find import Found

HELP = """Find packets in capture files, folders of them and URLs, by time and filter.

Files that have an index, from 'wirecap capture --index' or 'wirecap index', are read only where packets can match; all
others in full. Either way every packet that matches is found. Without -w, the matches of each file are counted.

\b
  wirecap find 'host 10.1.1.1 and tcp port 443' /captures
  wirecap find --since 14:00 --until 14:05 'net 10.1.0.0/16' -w out.pcapng /captures /more
  wirecap find --since -5m -c 100 -w - /captures | tcpdump -r -
  wirecap find 'host 10.1.1.1' s3://bucket/berlin s3://bucket/paris https://host/x.pcapng
"""

which = section("Which packets")
where = section("Where to put them")
output = section("What to show")


@click.command(cls=Command, help=HELP)
@which("--since", "since_ns", type=Parsed("TIME", parse_when_ns), default=-FOREVER_NS,
       help="From this time on: 14:00 of today, 2026-11-30T14:00, seconds since 1970, or -5m.")  # fmt: skip
@which("--until", "until_ns", type=Parsed("TIME", parse_when_ns), default=FOREVER_NS, help="Before this time.")
@which("-f", "--filter", "filter_text", metavar="FILTER", help="A tcpdump expression (pcap-filter(7)).")
@which("-c", "--count", type=COUNT, help="Stop after this many packets.")
@where("-w", "--write", "output_path", metavar="FILE", help="Write packets, in order of time as far as their files"
       " are; - is stdout. .pcap means pcap, .parquet Parquet; .gz, .zst, .lz4, .xz and .bz2 compress.")  # fmt: skip
@output("--no-index", is_flag=True, help="Read all files in full.")
@output("-q", "--quiet", is_flag=True, help="Print nothing but matches and errors.")
@output("--json", "json_path", type=OUTPUT, help="Write the counters as JSON; - is standard output.")
@argument("words", nargs=-1, metavar="[FILTER] FOLDER|URL...")
def command(**given: Any) -> None:
    config = _config(given)

    from wirecap.find.find import check, find

    def tell(line: str) -> None:
        click.echo(f"wirecap: {line}", err=True)

    found = find(config, compiling, tell)
    if not config.output and given["json_path"] != "-":
        for line in _matches(found):
            click.echo(line)
    if not given["quiet"]:
        click.echo(_closing(found), err=True)
    if given["json_path"]:
        closing.write_json(found.as_dict(), given["json_path"])
    check(found)


def _config(given: dict[str, Any]) -> FindConfig:
    expression, words = _words(list(given["words"]), given["filter_text"])
    path = given["output_path"]
    if path == given["json_path"] == "-":
        raise UsageError("-w - and --json - both use standard output", "name a file for one of them")
    if given["count"] is not None and given["count"] < 1:
        raise UsageError(f"-c {given['count']} asks for no packets", "leave -c out to find all of them")
    if path == "":
        raise UsageError("the output file has no name", "give -w FILE, or -w - for standard output")
    if not words and expression and "/" in expression and " " not in expression:
        raise UsageError(
            f"{expression}: no such file or folder", "name files and folders of captures behind the filter"
        )
    return FindConfig(
        paths=words, filter=expression, since_ns=given["since_ns"], until_ns=given["until_ns"],
        count=given["count"] or 0, output=path or "", format=_format_of(path), indexes=not given["no_index"],
    )  # fmt: skip


def _format_of(path: str | None) -> str:
    """What a name given with -w asks for."""
    if not path:
        return "pcapng"
    return "parquet" if Path(path).suffix.lower() == ".parquet" else format_of(path)


def _words(words: list[str], expression: str | None) -> tuple[str, list[str]]:
    """(the filter, files and folders): without -f, the words before the first that is there may be the filter."""
    before = next((n for n, word in enumerate(words) if _is_there(word)), len(words))
    joined = " ".join(words[:before])
    if expression is not None:
        if before and joined.strip() and _is_filter(joined):
            quoted = f"-f {shlex.quote(expression)} and {shlex.quote(joined)}"
            raise UsageError(f"the filter is given twice: {quoted}", "give one of them, or join them with 'and'")
        return expression, words
    for count in range(before, 1, -1):  # what comes behind it is a path that is not there
        if _is_filter(" ".join(words[:count])):
            return " ".join(words[:count]), words[count:]
    if before > 1 and words[0] and " " not in words[0] and not _is_filter(words[0]):
        raise UsageError(
            f"filter {words[0]!r}: this is not a filter on its own",
            "quote the whole filter, or give it with -f 'FILTER'",
        )
    if not before and words:
        _tell_if_filter(words[0])
    return (words[0], words[1:]) if before else ("", words)


def _is_there(name: str) -> bool:
    """Whether there is a file or folder of this name, which may be a filter too long for one."""
    try:
        return bool(name) and (_is_place(name) or Path(name).exists())
    except (OSError, ValueError):
        return False


def _is_place(word: str) -> bool:
    """Whether a word can only be meant for a URL."""
    return "://" in word and " " not in word


def _is_filter(text: str) -> bool:
    """Whether words are a filter that says nobody's name, which might be a file's that is not there."""
    from wirecap.filters.expression import takes
    from wirecap.filters.words import names_nothing

    return names_nothing(text) and takes(text)


def _tell_if_filter(path: str) -> None:
    """Say that the first word, which is the name of a file, could have been the filter."""
    if path and _is_filter(path):
        click.echo(f"wirecap: {path} is taken for the file or folder of this name (-f {path} filters)", err=True)


def _matches(found: Found) -> list[str]:
    lines = []
    for path, packets, first, last in found.matching:
        count = "1 packet" if packets == 1 else f"{packets} packets"
        lines.append(f"{path}: {count}, {_time(first)} to {_time(last)}")
    return lines


def _time(ns: int) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(ns // 10**9)) + f".{ns % 10**9 // 1000:06}"
    except (OverflowError, ValueError):
        return f"{ns} ns"


def _closing(found: Found) -> str:
    packets = "1 packet" if found.packets == 1 else f"{found.packets} packets"
    share = 100 * min(1.0, found.bytes_read / found.bytes) if found.bytes else 0.0
    blocks = f"{found.blocks_read} of {found.blocks} blocks, " if found.blocks else ""
    indexes = f", and {format_size(found.index_bytes)} of indexes" if found.index_bytes else ""
    return (
        f"{packets} found; read {found.files_read} of {found.files} files, {blocks}{format_size(found.bytes_read)} of"
        f" {format_size(found.bytes)} ({_percent(share)}){indexes}"
    )


def _percent(share: float) -> str:
    """Two digits, and never as a power of ten."""
    return (
        f"{share:.0f} %" if share >= 99.5 else f"{share:.2g} %" if share >= 0.001 or not share else "less than 0.001 %"
    )
