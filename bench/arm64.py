"""WireCAP on an arm64 processor that QEMU emulates, beside this machine: the same files, the same flow records.

    python bench/arm64.py [--write] [files] [threads] [machines]

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
ROUNDS, EXAMPLES = 300_000, 12
"""Of each thread that shares words; of each state machine."""
MACHINE = """
import sys
sys.path[:0] = ["tests", "tests/kernels/pool"]
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from MODULE import MACHINE as machine
run_state_machine_as_test(machine, settings=settings(machine.TestCase.settings, max_examples=int(sys.argv[1])))
"""
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
        first, second = ([one.replace("{}", str(folder)) for one in arguments] for folder in self.folders)
        told = self._here.run(*first, checked=checked)
        self._compile(checked)
        return told, self._there.run(*second, checked=checked)

    def same(self, name: str) -> bytes:
        """What the command has written into a file of its folder.  Ends the program if that is not the same on both.

        Of pcapng it is what comes behind the section's header, which names the processor.
        """
        first, second = ((folder / name).read_bytes() for folder in self.folders)
        if name.endswith(".pcapng"):
            first, second = (content[int.from_bytes(content[4:8], "little") :] for content in (first, second))
        if first != second:
            at = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), len(second))
            sys.exit(f"{name} has {len(first)} bytes here and {len(second)} there; byte {at} is the first that differs")
        return first

    def _compile(self, checked: bool) -> None:
        """Compile for arm64 what has been compiled for this machine."""
        wanted, made = self._here.kernels(checked), self._there.kernels(checked)
        missing = {path.name for path in wanted.glob("*.code")} - {path.name for path in made.glob("*.code")}
        if missing:
            print(f"kernels to compile for arm64: {len(missing)}", flush=True)
            self._here.run(ROOT / "bench/arm64_kernels.py", made, *sorted(missing), checked=checked)


def files(pair: Pair) -> Iterator[Row]:
    """A file's packets are written again, all and those that filters take, and flows made of them."""
    trace = pair.folders[0] / "mixed-30s.pcap"
    subprocess.run([sys.executable, ROOT / "tests/mixed_trace.py", trace], check=True)
    read = ["-m", "wirecap", "capture", "-q", "-r", str(trace)]
    for name in ("out.pcap", "out.pcapng"):
        pair.run(*read, "-w", "{}/" + name)
        yield f"`wirecap capture -r {trace.name} -w {name}`: bytes, all the same", f"{len(pair.same(name)):,}"
    pair.run(*read, "--handler", "flows", "--to", "file:{}/flows.jsonl")
    count = pair.same("flows.jsonl").count(b"\n")
    yield f"`wirecap capture -r {trace.name} --handler flows`: records, all the same", f"{count:,}"
    for number, text in enumerate(FILTERS):
        pair.run(*read, "-w", f"{{}}/{number}.pcap", text)
        size = len(pair.same(f"{number}.pcap"))
        yield f"`wirecap capture -r {trace.name} -w out.pcap '{text}'`: bytes, all the same", f"{size:,}"


def threads(pair: Pair) -> Iterator[Row]:
    """Threads that share words, with kernels that check bounds."""
    run = "import shared_words; shared_words.main()"
    _, told = pair.run("-c", run, "--rounds", str(ROUNDS), checked=True)
    for text, count, many in re.findall(r"^(.*): ([\d,]+) by (\d+) threads", told, re.MULTILINE):
        yield f"{text}, by {many} threads", count


def machines(pair: Pair) -> Iterator[Row]:
    """The state machines of the pool."""
    for name, machine in (("test_pool", "Ownership"), ("test_returned_cells", "ReturnedCells")):
        pair.run("-c", MACHINE.replace("MODULE", name).replace("MACHINE", machine), str(EXAMPLES))
        yield f"`tests/kernels/pool/{name}.py`: runs of its state machine", f"{EXAMPLES}"


PARTS = {"files": files, "threads": threads, "machines": machines}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "parts", nargs="*", choices=[*PARTS, []], metavar="PART", help="files, threads, machines; or all"
    )
    parser.add_argument("--write", action="store_true", help="write the rows into the table of docs/reliability.md")
    arguments = parser.parse_args()
    try:
        there, qemu = emulated()
    except UnavailableError as reason:
        print(f"skipped: {reason}")
        return
    done = [("QEMU's user-mode emulator", qemu), ("for arm64", there.version())]
    begun = time.monotonic()
    for part in arguments.parts or PARTS:
        with tempfile.TemporaryDirectory() as folder:
            for row in PARTS[part](Pair(there, Path(folder))):
                done.append(row)
                print(f"{time.monotonic() - begun:.0f} s: {': '.join(row)}", flush=True)
    if arguments.write:
        doc_blocks.write_rows("reliability.md", "arm64", doc_blocks.table(("what ran there", "how much of it"), done))


if __name__ == "__main__":
    main()
