"""Find packets in files: what indexes do not rule out is read, and the filter decides."""

from __future__ import annotations

import resource
import shlex
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from wirecap.config.convert import ConvertConfig
from wirecap.config.find import FindConfig
from wirecap.convert.conversion import Result, convert_files
from wirecap.errors import UsageError, WirecapError
from wirecap.files.index import StaleError
from wirecap.files.reader import CaptureFile
from wirecap.files.urls import is_url
from wirecap.find import store
from wirecap.find.archive import Archive
from wirecap.find.dataset import Dataset
from wirecap.find.fitting import check_filter, check_fits
from wirecap.find.narrowed import open_narrowed
from wirecap.find.plan import INTO_TABLE, ReadPlan, believe_nothing, plan_for
from wirecap.find.tally import Tally

HINT = "name files, folders or URLs of captures behind the filter"
MOST_NAMED = 3
"""Paths in a command that a line recommends."""
CUT = "truncated dump file"
"""What readers say of a file that is still written, or whose writer was killed: that is no failure of a search."""


@dataclass
class Found:
    """How a search went: counts of files, blocks and bytes, those that were read of all."""

    packets: int = 0
    unordered: int = 0
    """Packets that come behind a later one of their file."""
    files: int = 0
    files_read: int = 0
    indexed: int = 0
    blocks: int = 0
    blocks_read: int = 0
    bytes: int = 0
    bytes_read: int = 0
    index_bytes: int = 0
    matching: list[tuple[str, int, int, int]] = field(default_factory=list)
    """(path, packets, first ns, last ns) of each file with matches, where nothing is written."""
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    """What could not be searched."""

    def as_dict(self) -> dict[str, Any]:
        """For --json."""
        matching = [
            {"file": path, "packets": packets, "first_ns": first, "last_ns": last}
            for path, packets, first, last in self.matching
        ]
        return {
            "packets": self.packets, "unordered": self.unordered,
            "files": {"searched": self.files, "indexed": self.indexed, "read": self.files_read},
            "blocks": {"indexed": self.blocks, "read": self.blocks_read},
            "bytes": {"archive": self.bytes, "read": self.bytes_read, "index_read": self.index_bytes},
            "matching": matching, "notes": self.notes, "failures": self.failures,
        }  # fmt: skip


def find(
    config: FindConfig, compiling: Callable[[str], None] | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Found:  # fmt: skip
    """Search, and write what is found if that is asked for.

    tell: gets a line about each file that is not as it should be, as soon as it is known.
    Raises UsageError for a filter or path that is wrong, WirecapError for an output that failed.
    """
    check_filter(config.filter)
    archive = store.archive_of(config.paths, config.output, HINT)
    found = Found(failures=archive.problems, notes=archive.notes)
    for line in archive.problems + archive.notes:
        tell(line)
    archive.check(config.paths)
    plans = _plans(archive, config, found, tell)
    chosen = [plan for plan in plans if not plan.ruled_out]
    if not chosen and config.output and plans:
        chosen = plans[:1]  # for the header of a file without packets
    linktypes = {number for plan in plans for number in plan.linktypes}
    if chosen:
        _search(config, chosen, linktypes, found, compiling, tell)
    for line in check_fits(config.filter, linktypes):
        found.notes.append(line)
        tell(line)
    return found


def _plans(archive: Archive, config: FindConfig, found: Found, tell: Callable[[str], None]) -> list[ReadPlan]:
    plans = []
    dataset = None
    if archive.tables and config.indexes:
        dataset = Dataset(archive.tables, lambda line: _note(found, tell, line))
    for path in archive.files:
        try:
            plan = plan_for(path, config, archive.stored.get(path), dataset)
        except FileNotFoundError:  # whoever bounds the folder has just removed it
            continue
        except OSError as error:
            _fail(found, tell, f"{path}: {error.strerror or error}")
            continue
        plans.append(plan)
        if plan.note:
            _note(found, tell, plan.note)
        found.files += 1
        found.indexed += plan.indexed
        found.blocks += plan.blocks
        found.blocks_read += plan.blocks if plan.ranges is None else plan.blocks_read
        found.bytes += plan.size
        found.index_bytes += plan.index_bytes
    if dataset:
        found.index_bytes += dataset.read()
    bare = [plan.path for plan in plans if not plan.indexed and not plan.note]
    if bare and config.indexes:
        _note(found, tell, _without_index(bare, config.paths))
    return plans


def _without_index(bare: Sequence[str], paths: Sequence[str]) -> str:
    if len(bare) == 1 and is_url(bare[0]):
        made = f"wirecap index {shlex.quote(bare[0])} {INTO_TABLE} makes one here"
        return f"{bare[0]} has no index and is searched in full (upload its index beside it; {made})"
    if len(bare) == 1:
        return f"{bare[0]} has no index and is searched in full (wirecap index {shlex.quote(bare[0])} makes one)"
    if any(is_url(path) for path in bare):
        made = f"wirecap index URL... {INTO_TABLE} makes them here"
        return f"{len(bare)} files have no index and are searched in full (upload the indexes beside them; {made})"
    named = min(bare, paths, key=len)
    command = shlex.join(["wirecap", "index", *named]) if len(named) <= MOST_NAMED else "wirecap index FILES..."
    return f"{len(bare)} files have no index and are searched in full ({command} makes them)"


def _note(found: Found, tell: Callable[[str], None], line: str) -> None:
    found.notes.append(line)
    tell(line)


def _fail(found: Found, tell: Callable[[str], None], line: str) -> None:
    found.failures.append(line)
    tell(line)


def _search(
    config: FindConfig, plans: Sequence[ReadPlan], linktypes: set[int], found: Found,
    compiling: Callable[[str], None] | None, tell: Callable[[str], None],
) -> None:  # fmt: skip
    """Search these files, and add their link types to those that are known."""
    _allow_files()
    opened: dict[str, CaptureFile] = {}
    tallies: list[Tally] = []
    try:
        for plan in plans:
            try:
                opened[plan.path] = _open(plan, found, tell)
            except OSError as error:
                _fail(found, tell, f"{plan.path}: {error.strerror or error}")
                continue
            except UsageError as error:
                if "the file is empty" in error.message:  # its writer has just made it
                    continue
                if list(config.paths) == [plan.path]:
                    raise
                _fail(found, tell, error.message)
                continue
            found.files_read += 1
            found.bytes_read += plan.bytes_read
        if not opened:
            return
        files = list(opened.values())
        linktypes |= _linktypes(files)
        if all(file.kind == "pcap" for file in files):  # those of a pcapng file may not all be known yet
            check_fits(config.filter, linktypes)
        chosen = ConvertConfig(
            inputs=list(opened), output=config.output or "-", format=config.format if config.output else "pcapng",
            filter=config.filter, where_it_fits=True, since_ns=config.since_ns, until_ns=config.until_ns,
            count=config.count,
        )  # fmt: skip

        def making(*given: Any) -> Tally:
            tallies.append(Tally(*given))
            return tallies[0]

        def note(result: Result) -> None:
            found.packets, found.unordered = result.written, result.unordered
            found.matching = tallies[0].files if tallies else []

        _, errors = convert_files(chosen, note, compiling, opened.pop, None if config.output else making)
    finally:
        for file in opened.values():
            file.close()
    linktypes |= _linktypes(files)
    for wrong in errors:
        if CUT in wrong.message:
            _note(found, tell, wrong.message)
        else:
            _fail(found, tell, str(wrong))
    if found.unordered and (config.output or config.count):
        which = "1 packet comes" if found.unordered == 1 else f"{found.unordered} packets come"
        _note(found, tell, f"{which} behind a later one, as in the file: each file's packets keep their order")


def _open(plan: ReadPlan, found: Found, tell: Callable[[str], None]) -> CaptureFile:
    """Raises UsageError or OSError."""
    if plan.stored and plan.ends and plan.ranges is not None:
        try:
            plan.stored.check(plan.ends)
        except StaleError as error:
            believe_nothing(plan, error)
            _note(found, tell, plan.note)
    return open_narrowed(plan)


def _linktypes(files: Sequence[CaptureFile]) -> set[int]:
    return {interface.dlt for file in files for interface in file.interfaces}


def _allow_files() -> None:
    """As many open files as there may be."""
    with suppress(OSError, ValueError):
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def check(found: Found) -> None:
    """Raise WirecapError if something could not be searched."""
    if found.failures:
        count = len(found.failures)
        what = "1 file was" if count == 1 else f"{count} files were"
        raise WirecapError(f"{what} not searched, or not to the end", "what is found in the others is whole")
