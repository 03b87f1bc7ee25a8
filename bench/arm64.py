"""WireCAP on an arm64 processor that QEMU emulates, beside this machine: the same files, the same flow records.

    python bench/arm64.py [--write]

The state machines of the pool and threads that share words run there, too.  It needs Debian, and the network when it
first runs: packages go into a cache folder, and nothing is installed.  It takes some minutes.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import doc_blocks
from arm64_rig import ROOT, Python, UnavailableError, emulated, here

FILTERS = ("tcp port 443", "ip6 and not tcp", "vlan and udp[4:2] > 100", "not ip and not ip6")
"""Which LLVM compiles there, for 16 packets at a time and for one."""
Row = tuple[str, str]
"""What was done there, and how much of it."""


class Pair:
    """This machine and the emulated one, which gets the kernels that a command needs here."""

    def __init__(self, there: Python, folder: Path) -> None:
        self._here, self._there = here(), there
        self.folders = folder / "here", folder / "there"
        for one in self.folders:
            one.mkdir()

    def run(self, *arguments: str, checked: bool = False) -> tuple[str, str]:
        """Run a command on both; returns what it prints.  {} in an argument is a folder of its own."""
        first, second = ([one.format(folder) for one in arguments] for folder in self.folders)
        told = self._here.run(*first, checked=checked)
        self._compile(checked)
        return told, self._there.run(*second, checked=checked)

    def same(self, name: str) -> bytes:
        """What the command has written into a file of its folder.  Ends the program if that is not the same on both."""
        first, second = ((folder / name).read_bytes() for folder in self.folders)
        if first != second:
            at = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), len(second))
            sys.exit(f"{name} has {len(first)} bytes here and {len(second)} there; byte {at} is the first that differs")
        return first

    def _compile(self, checked: bool) -> None:
        """Compile for arm64 what has been compiled for this machine."""
        wanted, made = self._here.kernels(checked), self._there.kernels(checked)
        missing = {path.name for path in wanted.glob("*.code")} - {path.name for path in made.glob("*.code")}
        if missing:
            print(f"compiling {len(missing)} kernels for arm64", flush=True)
            self._here.run(ROOT / "bench/arm64_kernels.py", made, *sorted(missing), checked=checked)


def files(pair: Pair, trace: Path) -> Iterator[Row]:
    """A file's packets are written again, all and those that filters take, and flows made of them."""
    read = ["-m", "wirecap", "capture", "-q", "-r", str(trace)]
    for name in ("out.pcap", "out.pcapng"):
        pair.run(*read, "-w", "{}/" + name)
        yield f"`wirecap capture -r {trace.name} -w {name}`: bytes, all the same", f"{len(pair.same(name)):,}"
    pair.run(*read, "--handler", "flows", "--to", "file:{}/flows.jsonl")
    count = pair.same("flows.jsonl").count(b"\n")
    yield f"`wirecap capture -r {trace.name} --handler flows`: records, all the same", f"{count:,}"
    for number, text in enumerate(FILTERS):
        pair.run(*read, "-w", f"{{}}/{number}.pcap", text)
        yield f"the same with `{text}` and `-w`: bytes, all the same", f"{len(pair.same(f'{number}.pcap')):,}"


def machines(pair: Pair) -> Iterator[Row]:
    """The state machines of the pool."""
    for name in ("test_pool", "test_returned_cells"):
        _, told = pair.run("-m", "pytest", "-q", "-p", "no:cacheprovider", f"tests/kernels/pool/{name}.py")
        found = re.search(r"^(\d+) passed", told, re.MULTILINE)
        if not found:
            sys.exit(told)
        yield f"`tests/kernels/pool/{name}.py`: tests passed", found[1]


def threads(pair: Pair, rounds: int) -> Iterator[Row]:
    """Threads that share words, with kernels that check bounds."""
    run = "import shared_words; shared_words.main()"
    _, told = pair.run("-c", run, "--rounds", str(rounds), checked=True)
    for text, count, many in re.findall(r"^(.*): ([\d,]+) by (\d+) threads", told, re.MULTILINE):
        yield f"{text}, by {many} threads", count


def rows(pair: Pair, rounds: int) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder, "mixed-30s.pcap")
        subprocess.run([sys.executable, ROOT / "tests/mixed_trace.py", trace], check=True)
        yield from files(pair, trace)
    yield from machines(pair)
    yield from threads(pair, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=300_000, help="of each thread (default: 300,000)")
    parser.add_argument("--write", action="store_true", help="write the table into docs/reliability.md")
    arguments = parser.parse_args()
    try:
        there, qemu = emulated()
    except UnavailableError as reason:
        print(f"skipped: {reason}")
        return
    says = f"With QEMU {qemu}'s user-mode emulator, and {there.version()} for arm64:"
    print(says, flush=True)
    done, begun = [], time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for row in rows(Pair(there, Path(folder)), arguments.rounds):
            done.append(row)
            print(f"{time.monotonic() - begun:.0f} s: {': '.join(row)}", flush=True)
    if arguments.write:
        doc_blocks.write("reliability.md", "arm64", f"{says}\n\n{doc_blocks.table(('what ran there', 'count'), done)}")


if __name__ == "__main__":
    main()
