"""Every command line of the documentation runs, in a network namespace where its interfaces are; or it says why not."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import mixed_trace
from doc_pages import OTHERS, ROOT, SHELLS, Block, Page, pages
from replay_rig import write_pcap
from wirecap.cli import main
from wirecap.kernels.base.cache import cache_root

PAGES = {page.name: page for page in pages()}
NICS = ("eth1", "eth2", "eth3", "eth4", "v0", "v1", "v2")
HOST = "eth0"
"""An interface that the host uses: it has an address."""
PACKETS = 2000
BEGUN = re.compile(r"wirecap: (capturing on|forwarding|sending on|serving)|^listening on|Capturing on", re.MULTILINE)
LINE_S, LONG_S, WHOLE_S = 180.0, 1.0, 120.0
"""The most a command may take; how long one runs that goes on until Ctrl-C, or that ends by itself, once begun."""
ENDS = re.compile(r"\s(-c|--count)\s|\breplay\b(?!.*(--loop|-l\s))")

SETUP = """
mount -t tmpfs tmpfs /run/netns 2>/dev/null || { mkdir -p /run/netns && mount -t tmpfs tmpfs /run/netns; }
ip link set lo up
for nic in %(nics)s; do
    ip link add $nic numrxqueues 4 numtxqueues 4 type veth peer name far-$nic numrxqueues 4 numtxqueues 4
    ip link set $nic up
    ip link set far-$nic up
done
ip address add 192.0.2.1/24 dev %(host)s
echo ready
exec sleep 1000
"""
TRAFFIC = """
import os, socket, sys, time
sys.path.insert(0, sys.argv[1])
import mixed_trace
frames = [data for _, data, size in mixed_trace.packets(2000) if 60 <= len(data) <= 1500]
out, number = socket.socket(socket.AF_PACKET, socket.SOCK_RAW), 0
while os.getppid() == int(sys.argv[2]):
    names = [name for _, name in socket.if_nameindex() if name.startswith("far-") or name == "wirecap0p"]
    for _ in range(10):
        for name in names:
            for frame in frames[number % 1000 : number % 1000 + 20]:
                try:
                    out.sendto(frame, (name, 0))
                except OSError:
                    pass
        number += 20
        time.sleep(0.1)
"""
"""Two hundred packets a second onto each interface."""


class Place:
    """Namespaces for the network and for mounts, with traffic on all interfaces; ``run`` runs a command in them."""

    def __init__(self, folder: Path) -> None:
        setup = SETUP % {"nics": " ".join((*NICS, HOST)), "host": HOST}
        apart = ["unshare", "--net", "--mount", "--propagation", "private", "sh", "-ec", setup]
        self._holder = subprocess.Popen(apart, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self._holder.stdout
        assert self._holder.stderr
        if self._holder.stdout.readline() != "ready\n":
            pytest.skip(f"no namespaces can be made: {self._holder.stderr.read().strip()}")
        self._enter = ["nsenter", "-t", str(self._holder.pid), "-n", "-m", "--"]
        sending = [sys.executable, "-c", TRAFFIC, str(Path(__file__).parents[1]), str(os.getpid())]
        self._traffic = subprocess.Popen([*self._enter, *sending])
        self.bin = folder / "bin"
        self.bin.mkdir()
        python = f'exec {sys.executable} "$@"'
        for name, does in {
            "sudo": 'exec "$@"',
            "python": python,
            "wirecap": python.replace('"', '-m wirecap "', 1),
        }.items():
            (self.bin / name).write_text(f"#!/bin/sh\n{does}\n")
            (self.bin / name).chmod(0o755)

    def close(self) -> None:
        for process in (self._traffic, self._holder):
            process.kill()
            process.communicate()

    def start(self, command: str, folder: Path, before: str = "") -> subprocess.Popen[str]:
        # The trap is for a Ctrl-C that comes while the command ends; commands do not inherit it.
        script = f"trap : INT\ncd {shlex.quote(str(folder))}\n{before}\n{command}\n"
        path = f"{self.bin}:{os.environ['PATH']}:/usr/sbin:/sbin"
        environment = os.environ | {
            "PATH": path,
            "HOME": str(folder),
            "WIRECAP_CACHE_DIR": cache(),
            "MPLBACKEND": "agg",
        }
        return subprocess.Popen(
            [*self._enter, "bash", "-c", script], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip


def cache() -> str:
    """Where kernels lie that are compiled already: HOME is another folder."""
    return str(cache_root())


def begin(running: subprocess.Popen[str], started_s: float) -> str:
    """Wait until a command that goes on has begun, or has ended: others may send to it then.  What it said."""
    assert running.stderr
    said = ""
    os.set_blocking(running.stderr.fileno(), False)
    with selectors.DefaultSelector() as ready:
        ready.register(running.stderr, selectors.EVENT_READ)
        while not BEGUN.search(said) and running.poll() is None and time.monotonic() - started_s < LINE_S:
            if ready.select(0.1):
                said += running.stderr.read() or ""
    return said


def finish(running: subprocess.Popen[str], started_s: float, long_s: float, said: str = "") -> str:
    """Wait for a command; one that has begun to capture or to send gets Ctrl-C after some time.  What it said."""
    assert running.stderr
    begun_s, interrupted = 0.0, False
    os.set_blocking(running.stderr.fileno(), False)
    with selectors.DefaultSelector() as ready:
        ready.register(running.stderr, selectors.EVENT_READ)
        while True:
            if ready.select(0.1):
                piece = running.stderr.read()
                if piece == "":
                    break
                said += piece or ""
            now = time.monotonic()
            begun_s = begun_s or (now if BEGUN.search(said) else 0.0)
            if begun_s and not interrupted and now - begun_s > long_s:
                os.killpg(running.pid, signal.SIGINT)
                interrupted = True
            if now - started_s > LINE_S:
                os.killpg(running.pid, signal.SIGKILL)
                said += f"\nkilled after {LINE_S:.0f} s"
                break
    running.stderr.close()
    running.wait(timeout=60)
    return said


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    made = Place(tmp_path_factory.mktemp("docs"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some packets of mixed traffic, none of them longer than an interface sends."""
    frames = [data for _, data, _ in mixed_trace.packets(PACKETS) if len(data) <= 1500]
    return write_pcap(tmp_path_factory.mktemp("trace") / "trace.pcap", frames)


def fill(folder: Path, page: Page, trace: Path) -> None:
    """The files that a page's commands read and do not write themselves: captures, and the files in its comments."""
    blocks = {block.file: block.text for block in page.blocks if block.file}
    for name, text in {**page.hidden, **blocks}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        head = "import numpy as np\nimport wirecap\n" if name.endswith(".py") else ""
        (folder / name).write_text(head + text)
    written: set[str] = set()
    for block in page.runs():
        for _, command in block.commands():
            for name in re.findall(r"-w\s+([\w./-]+)/", command):
                (folder / name).mkdir(parents=True, exist_ok=True)
            for before, name in re.findall(r"(\S*)\s+([\w./-]+\.(?:pcap|pcapng|cap)(?:\.\w+)?)(?![\w.])", command):
                if before in ("-w", ">", "-o"):
                    written.add(name)
                elif name not in written and not Path(name).is_absolute():
                    make(folder / name, trace)
    shutil.copytree(ROOT / "src" / "wirecap" / "examples", folder / "examples")


def make(path: Path, trace: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        assert main.run(["convert", "-q", str(trace), "-w", str(path)]) == 0


@pytest.mark.live
@pytest.mark.parametrize("name", [page.name for page in PAGES.values() if page.runs()])
def test_commands_run(name: str, place: Place, trace: Path, tmp_path: Path) -> None:
    """Each command line of a page ends with exit status 0, by itself or after Ctrl-C, in a folder with its files."""
    page, missing = PAGES[name], set()
    fill(tmp_path, page, trace)
    for block in page.runs():
        missing |= run_block(block, place, tmp_path, name)
    if missing:
        pytest.skip(f"the others run; not installed here: {', '.join(sorted(missing))}")


def run_block(block: Block, place: Place, folder: Path, name: str) -> set[str]:
    """Run the lines of a block, those with ``&`` behind the others; the programs that are not installed."""
    behind, before, missing = [], "", set()
    try:
        for number, command in block.commands():
            if re.match(r"\s*(cd|export|source|alias|\w+=\S*$)", command):  # for the lines that follow
                before += command + "\n"
            bare = re.sub(r"\s+#[^'\"]*$", "", command).rstrip()
            running, now = place.start(bare.removesuffix("&"), folder, before), time.monotonic()
            if bare.endswith("&") and not bare.endswith("&&"):
                behind.append((number, command, running, now, ""))
                behind[-1] = (number, command, running, now, begin(running, now))
                continue
            missing |= judge(
                f"{name}:{number}: {command}",
                running,
                finish(running, now, WHOLE_S if ENDS.search(command) else LONG_S),
            )
        for number, command, running, now, said in behind:
            missing |= judge(f"{name}:{number}: {command}", running, finish(running, now, 0.0, said))
    finally:
        for _, _, running, *_ in behind:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)
    return missing


def judge(line: str, running: subprocess.Popen[str], said: str) -> set[str]:
    absent = re.search(r"(\S+): command not found", said)
    if running.returncode == 127 and absent and absent[1] != "wirecap":
        return {absent[1]}
    assert running.returncode == 0, f"{line}\nexit status {running.returncode}\n{said}"
    assert "internal error" not in said
    assert "Traceback" not in said
    return set()


@pytest.mark.parametrize("name", PAGES)
def test_every_block_says_what_it_is(name: str) -> None:
    """Each fenced block has a language, commands that are not run have a reason, and Python is Python."""
    for block in PAGES[name].blocks:
        where = f"{name}:{block.line}"
        assert block.language in (*SHELLS, *OTHERS), (
            f"{where}: name the block's language: sh, console, python, text ..."
        )
        if block.language in SHELLS and not block.reason:
            assert block.commands(), f"{where}: no commands; in a console block they stand behind '$ '"
        elif block.language in ("text", "json"):
            assert not re.search(r"^(\$ |sudo |wirecap [a-z]+ -)", block.text, re.MULTILINE), f"{where}: not commands?"
        elif block.language == "python":
            compile(block.text, where, "exec")


PLACEHOLDER = re.compile(r"\.\.\.|[A-Z]{3,}")


@pytest.mark.parametrize("name", [page.name for page in PAGES.values() if page.spans])
def test_commands_in_sentences_exist(name: str) -> None:
    """``wirecap COMMAND -x`` in the middle of a sentence names a command and options that there are."""
    for number, span in PAGES[name].spans:
        words = re.findall(r"'[^']*'|\S+", span)
        if words[:1] != ["wirecap"] or len(words) < 2 or PLACEHOLDER.fullmatch(words[1]):
            continue
        check_options(f"{name}:{number}: {span}", words[1 : words.index("|") if "|" in words else None])


def check_options(where: str, words: list[str]) -> None:
    context = click.Context(main.main, info_name="wirecap")
    command: click.Command = main.main
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(context, words.pop(0))
        assert found, f"{where}: no such command"
        command, context = found, click.Context(found, context)
    known = {name for param in command.get_params(context) for name in (*param.opts, *param.secondary_opts)}
    for word in words:
        option = re.match(r"--[a-z][\w-]*|-[A-Za-z](?=$|\d)", word)
        assert not option or option[0] in known, f"{where}: no option {option[0]}"
