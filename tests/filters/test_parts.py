"""Long expressions in parts: beside libpcap on the whole."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest
from filter_corpus import Trace, expressions, libpcap_says
from test_libpcap import terms

from wirecap.errors import UsageError
from wirecap.filters import libpcap, parts
from wirecap.filters import opcodes as op
from wirecap.filters.expression import compile_filter
from wirecap.filters.metadata import NothingMatchesError
from wirecap.filters.program import Program


def joined(generator: random.Random, depth: int) -> str:
    """Expressions of the corpus, joined at random, with and without parentheses."""
    if not depth:
        return generator.choice(expressions()[1:])
    joiner = generator.choice((" and ", " or ", " && ", " || "))
    text = joined(generator, depth - 1)
    for _ in range(generator.randint(1, 4)):
        if generator.random() < 0.3:
            joiner = generator.choice((" and ", " or "))
        term = joined(generator, depth - 1)
        form = generator.choice(("({})", "({})", "not ({})", "!not ({})", "{}"))
        text += joiner + form.format(term)
    return text


@pytest.fixture(scope="module")
def packets(trace: Trace) -> list[bytes]:
    data, (address, captured, original, _) = trace
    uncut = np.flatnonzero(captured == original)
    chosen = uncut[np.linspace(0, len(uncut) - 1, 150).astype(int)].tolist()
    return [data[address[i] : address[i] + captured[i]].tobytes() for i in chosen]


@pytest.mark.parametrize("seed", range(15))
def test_parts_mean_what_the_whole_means(packets, monkeypatch, seed):
    """Whatever the joiners and parentheses, the same packets match, unoptimised also where they are cut.

    The optimiser leaves out what does not matter, so that it may accept a packet that is too short for the expression:
    optimised parts agree with the optimised whole, or with the whole as it is written.
    """
    generator = random.Random(seed)
    for _ in range(8):
        text = joined(generator, 2)
        wholes = [libpcap.compile(text, 1, 262144, optimize, 0)[0] for optimize in (False, True)]
        monkeypatch.setattr(parts, "LONGEST", generator.choice((8, 20, 60)))
        mine, optimised = (parts.compile(text, 1, 262144, optimize, 0)[0] for optimize in (False, True))
        assert bool(mine) == bool(wholes[0])
        if mine:  # without instructions, it rejects all packets
            programs = [Program.of(rows or [(op.RET, 0, 0, 0)]) for rows in (*wholes, mine, optimised)]
            for at, packet in enumerate(packets):
                for part in (packet, packet[: 10 + at]):
                    said = [libpcap_says(program, part) for program in programs]
                    assert said[2] == said[0], text
                    assert part != packet or said[3] in said[:2], text


@pytest.mark.parametrize("form", ["{}", "tcp and not ({})", "port 7 or (udp and (({})))"])
def test_a_thousand_terms(form):
    """1,000 different terms, for which libpcap alone takes a minute and a half, are compiled, and they match."""
    started = time.process_time()
    program = compile_filter(form.format(terms(1000)))
    assert time.process_time() - started < 60
    for number, found in ((0, True), (777, True), (1001, False)):
        address = bytes([10, number % 7, number // 250, number % 250])
        for protocol in (6, 17):
            packet = bytes(12) + b"\x08\0\x45" + bytes(8) + bytes([protocol, 0, 0]) + address + bytes(4)
            packet += number.to_bytes(2, "big") + bytes([0, 9]) + bytes(16)
            wanted = {"{}": found, "tcp and not ({})": protocol == 6 and not found}.get(form, protocol == 17 and found)
            assert libpcap_says(program, packet) == wanted


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (terms(200) + " or prt 4", "syntax error in filter expression near 'prt'"),
        (terms(200) + " and", "syntax error at its end"),
        (f"({terms(200)}", "syntax error at its end"),
        (f"{terms(200)})", "syntax error near ')'"),
        (terms(100) + " or or " + terms(100), "syntax error near 'or'"),
        (f"not ({terms(200)}) or (host 1.2.3.4 and port 99999)", "illegal port number 99999"),
    ],
)
def test_errors_in_long_expressions(text, says):
    """What is wrong is said as for a short expression, and where it is."""
    with pytest.raises(UsageError) as error:
        compile_filter(text)
    assert says in error.value.message


@pytest.mark.parametrize("optimize", [True, False])
@pytest.mark.parametrize(
    "form",
    ["vlan and ({})", "vlan 5 and ip and not ({}) and len > 40", "vlan and vlan and ({}) and ip", "({}) or vlan"],
)
def test_words_that_move_the_others(form, optimize):
    """Behind ``vlan`` each part looks at the bytes behind the tag."""
    text = form.format(terms(100))
    whole = Program.of(libpcap.compile(text, 1, 262144, False, 0)[0])
    mine = compile_filter(text, optimize=optimize)
    assert len(mine) < len(whole) or not optimize
    for tags in range(3):
        for number in range(0, 110, 7):
            packet = bytes(12) + b"\x81\0\0\5" * tags + b"\x08\0\x45" + bytes(8) + b"\x06\0\0"
            packet += bytes([10, number % 7, number // 250, number % 250]) + bytes(4) + bytes([0, number]) + bytes(20)
            for size in (len(packet), 30 + number % 20):
                assert libpcap_says(mine, packet[:size]) == libpcap_says(whole, packet[:size])


@pytest.mark.parametrize("optimize", [True, False])
@pytest.mark.parametrize(
    "form",
    ["src and dst net ({})", "not src && dst net ({})", "ip and (dst and src net (10.9.9.0/24 or ({})) or port 7)",
     "src and dst net (not ({}) and not 10.0.0.3)", "tcp or not (not dst and src net (not ({})))",
     "ip proto (7 or {})", "src and dst net (10.0.0.0/8 and ({}) or 10.0.2.1)"],
)  # fmt: skip
def test_values_in_parentheses(form, optimize):
    """Each part of a long list in parentheses gets the words before these."""
    values = (
        [str(at % 5 + 2) for at in range(200)] if "proto" in form
        else [f"10.{at % 3}.{at % 50}.0/24" for at in range(200)]
    )  # fmt: skip
    text = form.format(" or ".join(values))
    theirs = Program.of(libpcap.compile(text, 1, 262144, False, 0)[0])
    mine = compile_filter(text, optimize=optimize)
    generator = random.Random(form)
    answers = set()
    for _ in range(300):
        ends = [bytes([10, generator.randrange(3), generator.randrange(60), 1]) for _ in range(2)]
        packet = bytes(12) + b"\x08\0\x45" + bytes(8) + bytes([generator.choice((1, 6, 9)), 0, 0])
        packet += ends[0] + generator.choice(ends) + bytes(20)
        for size in (len(packet), 33) if not optimize else (len(packet),):
            answers.add(libpcap_says(theirs, packet[:size]))
            assert libpcap_says(mine, packet[:size]) == libpcap_says(theirs, packet[:size])
    assert answers == {True, False}


def test_a_thousand_values_in_parentheses(monkeypatch):
    """A list that no set can stand for is compiled in parts, where libpcap needs a time that grows with its square."""
    values = [f"10.{at % 7}.{at // 250}.{at % 250}" for at in range(1000)]
    parts._piece.cache_clear()
    pieces: list[str] = []
    compile = libpcap._compile
    monkeypatch.setattr(libpcap, "_compile", lambda text, *how: pieces.append(text) or compile(text, *how))
    program = compile_filter(f"src and dst host ({' or '.join(values)})", optimize=False)
    assert len(pieces) < 50
    assert max(text.count(" or ") for text in pieces) < 100
    assert len(program) > 20_000


def test_nothing_matches():
    """An expression each of whose terms excludes itself is refused, as a short one is."""
    with pytest.raises(NothingMatchesError, match="rejects all packets"):
        compile_filter(" or ".join(f"(arp and tcp and host 1.2.3.{at})" for at in range(200)))


def test_values_that_take_over_words_stay_with_them():
    """A value without words before it is not torn off the term that it takes them from."""
    text = " or ".join(f"(ip[2] = {at} and port {at} or {at + 1})" for at in range(60)) + " or port 7 or 8 or 9"
    whole = Program.of(libpcap.compile(text, 1, 262144, False, 0)[0])
    packet = bytearray(bytes(12) + b"\x08\0\x45" + bytes(8) + b"\x06" + bytes(30))
    for port in range(12):
        packet[37] = port
        assert libpcap_says(compile_filter(text), bytes(packet)) == libpcap_says(whole, bytes(packet))
