"""``wirecap map``: a handler over many capture files."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wirecap.cli import closing
from wirecap.cli.options import COUNT, OUTPUT, SIZE, Command, argument, section
from wirecap.config.specs import HandlerSpec
from wirecap.errors import UsageError, WirecapError
from wirecap.units import format_count, format_size

if TYPE_CHECKING:
    from wirecap.mapping.coordinator import Counts

HELP = """Run a handler over capture files and folders of them, on all cores or on a cluster.

HANDLER is what 'wirecap capture --handler' takes: count, flows, or your own function, compiled or in Python. Large
files are read in parts. Results are merged in the order of the files, and are the same for any number of workers.

\b
  wirecap map count /captures
  wirecap map ./my.py:talkers /captures 'tcp port 443'
  wirecap map flows --to file:flows.parquet /captures
  wirecap map count s3://bucket/captures
  wirecap map count /captures --on tcp://scheduler:8786
"""

which = section("Which packets")
output = section("What to show")
how = section("How")


@click.command(cls=Command, help=HELP)
@which("-f", "--filter", "filter_text", metavar="FILTER", help="A tcpdump expression (pcap-filter(7)).")
@which("--keep-going", is_flag=True, help="Name files that cannot be read and packets that a handler fails on, and"
       " carry on.")  # fmt: skip
@how("--on", metavar="tcp://HOST:8786", help="Have the workers of this Dask scheduler read them: it runs what it is"
     " sent, whoever sends it.")  # fmt: skip
@how("--workers", type=COUNT, help="How many processes.  [default: one for each core]")
@how("--part", "part_bytes", type=SIZE, default="256MiB", show_default=True, help="Read files in parts of this size.")
@output("--to", "to", multiple=True, metavar="TARGET", help="Where flow records go, as for 'wirecap capture'.")
@output("-q", "--quiet", is_flag=True, help="Print nothing but results and errors.")
@output("--json", "json_path", type=OUTPUT, help="Write the summary as JSON; - is standard output.")
@argument("handler", metavar="HANDLER")
@argument("words", nargs=-1, metavar="FILE|FOLDER|URL... [FILTER]")
@click.pass_obj
def command(own_process: bool, /, **given: Any) -> None:
    paths, expression = _words(list(given["words"]), given["filter_text"])
    spec = HandlerSpec.parse(given["handler"])
    if given["part_bytes"] < 1 << 16:
        raise UsageError(f"--part: {given['part_bytes']} bytes are too few", "give at least 64KiB")

    from wirecap.handlers.state import plain, tables_as_lines
    from wirecap.mapping.map import map_files

    line = _Line(given["quiet"])
    try:
        summary = map_files(
            spec, paths, expression, given["on"], workers=given["workers"], keep_going=given["keep_going"],
            to=given["to"], part_bytes=given["part_bytes"], say=line.say, tell=line.show, own_process=bool(own_process),
        )  # fmt: skip
    finally:
        line.close()
    tables = tables_as_lines(summary.get("handlers", ()))
    if "handlers" in summary:
        summary = {**summary, "handlers": plain(summary["handlers"])}
    failed = [file["failed"] for file in summary["files"] if "failed" in file]
    if not given["quiet"]:
        for text in [_files(summary), *closing.counters(summary), *closing.flows(summary), *tables]:
            click.echo(text, err=True)
        for text in closing.failures(summary) if given["keep_going"] else ():
            click.echo(text, err=True)
    for text in failed:
        click.echo(f"wirecap: {text}", err=True)
    if given["json_path"] != "-" and "-" not in given["to"]:
        for text in closing.results(summary):
            click.echo(text)
    if given["json_path"]:
        closing.write_json(summary, given["json_path"])
    if failed:
        what = "1 file was" if len(failed) == 1 else f"{len(failed)} files were"
        raise WirecapError(f"{what} not read to the end", "what was read before, and of the others, counts")


def _files(summary: dict[str, Any]) -> str:
    files, run = summary["files"], summary["run"]
    size = format_size(sum(file["bytes"] for file in files))
    workers = "1 worker" if run["workers"] == 1 else f"{run['workers']} workers"
    return f"{len(files)} file{'' if len(files) == 1 else 's'}, {size}, {workers}"


def _words(words: list[str], expression: str | None) -> tuple[list[str], str]:
    """(files and folders, the filter): the words behind the last that is there are the filter."""
    last = max((number for number, word in enumerate(words) if _is_path(word)), default=-1)
    paths, rest = words[: last + 1], words[last + 1 :]
    if not paths:
        named = f"{words[0]}: no such file or folder" if words else "no file or folder is named"
        raise UsageError(named, "name capture files, or folders of them, after the handler")
    if expression is not None and rest:
        raise UsageError(f"the filter is given twice: -f {expression} and {' '.join(rest)}", "give one of them")
    return paths, expression if expression is not None else " ".join(rest)


def _is_path(word: str) -> bool:
    """Whether a word is a file or folder, or can only be meant for one."""
    from wirecap.find.archive import CAPTURE_SUFFIXES

    if " " not in word and (
        "://" in word or word.lower().endswith(CAPTURE_SUFFIXES) or word.startswith(("/", "./", "../"))
    ):
        return True
    try:
        return bool(word) and Path(word).exists()
    except (OSError, ValueError):
        return False


class _Line:
    """One line on a terminal that shows how far it is."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._shown = False
        self._live = not quiet and sys.stderr.isatty()
        self._started = time.monotonic()

    def say(self, text: str) -> None:
        if not self._quiet:
            self.close()
            click.echo(text, err=True)

    def show(self, counts: Counts, size: int) -> None:
        if not self._live:
            return
        share = counts.done_bytes / size if size else 1.0
        rate = counts.done_bytes / max(1e-9, time.monotonic() - self._started) / 1e9
        bar = "#" * round(30 * share)
        text = f"[{bar:30}] {100 * share:3.0f} %  {format_count(counts.received)} packets  {rate:.2f} GB/s"
        click.echo(f"\r\x1b[K{text}", err=True, nl=False)
        self._shown = True

    def close(self) -> None:
        if self._shown:
            click.echo("\r\x1b[K", err=True, nl=False)
        self._shown = False
