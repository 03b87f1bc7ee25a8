"""The libpcap that filters are compiled with: beside Debian's tcpdump, and when it takes long."""

from __future__ import annotations

import logging
import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from filter_corpus import EVERYDAY, Trace, c_program, expressions, interpreter, libpcap_says
from primitives import LIVE, OF_LINKS, PRIMITIVES

import wirecap
from wirecap.cli.capture import command
from wirecap.config.capture import CaptureConfig
from wirecap.filters import libpcap
from wirecap.filters.expression import compile_filter
from wirecap.filters.metadata import Link
from wirecap.filters.program import Program
from wirecap.run import build

TCPDUMP = shutil.which("tcpdump")
needs_tcpdump = pytest.mark.skipif(not TCPDUMP, reason="needs tcpdump")
LINK_TYPES = {"EN10MB": 1, "RAW": 12, "LINUX_SLL2": 276, "IEEE802_11_RADIO": 127}
HANGS = (  # each without end, or wrong, in libpcap 1.9.1
    "(ip[12:4] = 0x0a0a0a0a or ip[16:4] = 0x0a0a0a0a) and (not ((ip[12:4] = 0x0a0a0a0b or ip[16:4] = 0x0a0a0a0b)))",
    "not (ip[12:4] = 0x0a0a0a0b or ip[16:4] = 0x0a0a0a0b) and (ip[16:4] = 0x0a0a0a0a or ip[12:4] = 0x0a0a0a0a)",
    "(tcp[0:2] = 80 or tcp[2:2] = 80) and not (tcp[0:2] = 81 or tcp[2:2] = 81)",
    "len >= 2147483648 & 2147483648 or len < 0 | 2147483648",
)


def terms(count: int) -> str:
    """Different terms, which are no list: libpcap's time grows with the square of their number."""
    return " or ".join(f"(host 10.{i % 7}.{i // 250}.{i % 250} and port {i})" for i in range(count))


def as_today(text: str) -> str:
    """The expression as every version understands it: before 1.10.5, ``ip multicast`` had 240.0.0.0/4 in it."""
    return text.replace("ip multicast", "(ip[16] & 0xf0 = 0xe0)")


def tcpdumps(text: str, optimised: bool, link_type: str) -> list[tuple[int, ...]]:
    """tcpdump's instructions; none where it refuses the expression."""
    options = ["-y", link_type, "-ddd", *([] if optimised else ["-O"])]
    done = subprocess.run([str(TCPDUMP), *options, "--", as_today(text)], capture_output=True, text=True, timeout=60)
    return [tuple(map(int, line.split())) for line in done.stdout.splitlines()[1:]]


@pytest.fixture(scope="module")
def packets(trace: Trace) -> list[bytes]:
    """Packets spread over the trace, whole and cut."""
    data, (address, captured, _, _) = trace
    chosen = np.linspace(0, len(address) - 1, 400).astype(int).tolist()
    whole = [data[address[i] : address[i] + captured[i]].tobytes() for i in chosen]
    return whole + [packet[: 10 + number % 60] for number, packet in enumerate(whole)]


def check_alike(
    text: str, optimised: bool, link_type: str, packets: list[bytes], theirs_too: bool = True, dlt: int | None = None
) -> None:  # fmt: skip
    """theirs_too: tcpdump's optimiser is used where ours is; dlt: the link type's number."""
    theirs = tcpdumps(text, optimised and theirs_too, link_type)
    mine, message, _ = libpcap.compile(text, LINK_TYPES[link_type] if dlt is None else dlt, 262144, optimised, 0)
    assert bool(mine) == bool(theirs), (text, message)
    if mine != theirs:  # the versions differ: what they mean must not
        one, other = Program.of(mine), Program.of(theirs)
        for packet in packets:
            assert libpcap_says(one, packet) == libpcap_says(other, packet), text


@needs_tcpdump
@pytest.mark.parametrize("link_type", LINK_TYPES)
@pytest.mark.parametrize("optimised", [True, False])
def test_every_primitive_is_tcpdumps(packets, link_type, optimised):
    """What tcpdump takes is taken and means the same; what it refuses is refused, for Ethernet and other links."""
    for text in PRIMITIVES:
        check_alike(text, optimised, link_type, packets)


@needs_tcpdump
@pytest.mark.parametrize("link_type", OF_LINKS)
def test_primitives_of_other_links(packets, link_type):
    """So it is for what is known of some links only: 802.11, pf's logs, ATM, SS7 and others."""
    number, texts = OF_LINKS[link_type]
    for text in texts:
        check_alike(text, True, link_type, packets, dlt=number)


@needs_tcpdump
@pytest.mark.parametrize("optimised", [True, False])
def test_every_expression_of_the_corpus_is_tcpdumps(packets, optimised):
    """The everyday expressions and the random ones mean what they mean to tcpdump, optimised or not."""
    for text in expressions():
        check_alike(text, optimised, "EN10MB", packets)


@needs_tcpdump
@pytest.mark.parametrize("optimised", [True, False])
@pytest.mark.parametrize("text", HANGS)
def test_what_optimisers_got_wrong(packets, text, optimised):
    """Optimised or not, these mean what they mean to tcpdump -O."""
    check_alike(text, optimised, "EN10MB", packets, theirs_too=False)


@needs_tcpdump
def test_counts_are_tcpdumps(trace: Trace, mixed_trace: Path, tmp_path: Path):
    """tcpdump --count tells as many packets of a file as the filter accepts."""
    data, (address, captured, original, _) = trace
    end = int(address[3000]) - 16
    (tmp_path / "part.pcap").write_bytes(mixed_trace.read_bytes()[:end])
    for text in (*EVERYDAY, *HANGS):
        # tcpdump's own optimiser may get HANGS wrong; of packets that are cut off, only optimised filters say the same.
        options = ["-O"] if text in HANGS else []
        command = [str(TCPDUMP), *options, "--count", "-nr", str(tmp_path / "part.pcap"), "--", as_today(text)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        code = c_program(compile_filter(text))
        found = sum(
            interpreter()(code.ctypes.data, data.ctypes.data + int(at), int(wire), int(kept)) != 0
            for at, kept, wire in zip(address[:3000], captured[:3000], original[:3000], strict=True)
        )
        assert int(done.stdout.split()[0]) == found, text


def test_what_is_only_known_live_is_compiled():
    """Directions and interface indexes are part of the language."""
    for text in LIVE:
        assert libpcap.compile(text, 1, 262144, True, 0)[1] == ""


@pytest.fixture
def slow_optimiser(monkeypatch):
    """libpcap's optimiser takes longer than its time, however long whoever waits for it has no CPU."""
    compile, over = libpcap._compile, threading.Event()

    def slowly(text: str, dlt: int, snaplen: int, optimize: bool, netmask: int) -> tuple[libpcap.Rows, str]:
        if optimize:
            over.wait(100)
        return compile(text, dlt, snaplen, optimize, netmask)

    monkeypatch.setattr(libpcap, "_compile", slowly)
    monkeypatch.setattr(libpcap, "PATIENCE_S", 0.01)
    compile_filter.cache_clear()
    yield
    over.set()
    compile_filter.cache_clear()  # other tests have the usual patience


@pytest.mark.usefixtures("slow_optimiser")
def test_the_optimiser_is_given_up():
    """Where it takes too long, the filter is compiled as it is written, and its note says so."""
    given_up = compile_filter("tcp port 80")
    assert given_up.rows == compile_filter("tcp port 80", optimize=False).rows
    assert given_up.note == "the filter is not optimised: that takes more than 0.01 s"
    assert compile_filter("tcp port 80", optimize=False).note == ""


@pytest.mark.usefixtures("slow_optimiser")
def test_the_note_is_told(mixed_trace, caplog):
    """``capture`` and ``capture -d`` say in one line that the filter is not optimised; programs find it in the log."""
    line = "the filter is not optimised: that takes more than 0.01 s"
    for options in (["-d"], ["--count", "-r", str(mixed_trace)]):
        done = CliRunner().invoke(command, [*options, "tcp port 80"])
        assert done.exception is None, done.exception
        assert done.stderr.splitlines().count(f"wirecap: {line}") == 1
    with wirecap.open(str(mixed_trace), filter="tcp port 80") as capture:
        assert next(iter(capture))
    wirecap.capture(str(mixed_trace), filter="tcp port 80")
    assert caplog.record_tuples == [("wirecap", logging.WARNING, line)] * 2


@pytest.mark.parametrize("optimise", [True, False])
def test_the_filter_that_runs_is_the_one_that_is_asked_for(mixed_trace, monkeypatch, optimise):
    """-O applies to the filter of a capture, not only to what -d prints."""
    monkeypatch.setattr(libpcap, "PATIENCE_S", 60.0)
    compile_filter.cache_clear()
    config = CaptureConfig(read_file=str(mixed_trace), filter="tcp port 80", optimise=optimise)
    source = build.source_of(config)
    try:
        rows = build.select(config, source).owner.by_link[Link(1)].program.rows
    finally:
        source.close()
    assert rows == compile_filter("tcp port 80", optimize=optimise).rows
    assert len(compile_filter("tcp port 80").rows) < len(compile_filter("tcp port 80", optimize=False).rows)


@needs_tcpdump
def test_minus_o_counts_as_tcpdumps(mixed_trace):
    """capture -O --count tells tcpdump's number for what the old optimiser got wrong."""
    text = HANGS[-1]
    theirs = subprocess.run([str(TCPDUMP), "-O", "--count", "-nr", str(mixed_trace), text], capture_output=True,
                            text=True, check=True, timeout=60)  # fmt: skip
    done = CliRunner().invoke(command, ["-q", "-O", "--count", "-r", str(mixed_trace), text])
    assert done.stdout.split()[0] == theirs.stdout.split()[0]
    assert int(done.stdout.split()[0]) > 0
