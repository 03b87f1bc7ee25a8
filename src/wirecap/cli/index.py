"""``wirecap index``: indexes for capture files that have none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from wirecap.cli import closing
from wirecap.cli.options import OUTPUT, Command, argument, compiling, section
from wirecap.errors import UsageError, WirecapError

if TYPE_CHECKING:
    from wirecap.find.indexing import Made

HELP = """Make an index beside each capture file, for 'wirecap find'.

FILES are capture files, also compressed, and folders of them. The index of x.pcapng is x.pcapng.wcidx; files whose
index is as it should be are left alone. 'wirecap capture --index' makes indexes while it writes. Files behind URLs are
fetched once, and their indexes go into a table here, which 'wirecap find' takes beside the URLs.

\b
  wirecap index /captures
  wirecap index monday.pcap tuesday.pcapng.zst
  wirecap index s3://archive/berlin --summary berlin.wcidx.parquet
"""

output = section("What to show")


@click.command(cls=Command, help=HELP)
@output("--force", is_flag=True, help="Rebuild every index, even those that are up to date.")
@output("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@output("--summary", "summary_path", type=OUTPUT, metavar="FILE", help="Write all blocks as one Parquet table.")
@output("--json", "json_path", type=OUTPUT, help="Write what was indexed as JSON; - is standard output.")
@argument("files", nargs=-1, metavar="FILES...")
def command(
    files: tuple[str, ...], force: bool, quiet: bool, summary_path: str | None, json_path: str | None
) -> None:  # fmt: skip
    if not files:
        raise UsageError("no file to index", "use 'wirecap index FILES...'")
    if summary_path == "-":
        raise UsageError("a Parquet file cannot go to standard output", "name a file with --summary FILE")

    from wirecap.find.indexing import index_files
    from wirecap.find.store import archive_of

    archive = archive_of(files, "", "name capture files, folders of them, or URLs")
    if archive.stored and not summary_path:
        raise UsageError(
            f"{next(iter(archive.stored))}: nothing is written behind a URL, so its index must go into a table here",
            "add --summary NAME.wcidx.parquet, and name that to 'wirecap find', too",
        )
    failures: list[str] = []
    indexed: list[Made] = []

    def tell(what: Made | str, failed: bool) -> None:
        if failed:
            failures.append(str(what))
        elif not isinstance(what, str):
            indexed.append(what)
        if failed or not quiet:
            click.echo(f"wirecap: {what}" if failed else str(what), err=True)

    for line in archive.problems + archive.notes:
        click.echo(f"wirecap: {line}", err=True)
    archive.check(files)
    paths = archive.files
    index_files([path for path in paths if path not in archive.stored], force, compiling, tell)
    without, summary = len(failures), None
    if summary_path:
        from wirecap.find.summary import write_summary

        blocks = write_summary(paths, summary_path, tell, archive.stored, force)
        tell(f"{summary_path}: {blocks} blocks", False)
        without, summary = max(without, len(failures) - without), {"file": summary_path, "blocks": blocks}
    if json_path:
        told = _report(len(paths), without, indexed) | {"summary": summary}
        closing.write_json(told | {"notes": archive.notes, "failures": archive.problems + failures}, json_path)
    if without:
        raise WirecapError(_without(without, paths), "the lines above say why")
    if archive.problems:
        raise WirecapError("some folders or files could not be read", "the lines above say why")


def _report(files: int, without: int, indexed: Sequence[Made]) -> dict[str, Any]:
    good = max(0, files - without - len(indexed))
    return {
        "files": {"named": files, "indexed": len(indexed), "good": good, "without": without},
        "indexed": [made._asdict() for made in indexed],
    }


def _without(count: int, paths: Sequence[str]) -> str:
    if len(paths) == 1:
        return f"{paths[0]} has no index"
    return f"{count} of {len(paths)} files {'has' if count == 1 else 'have'} no index"
