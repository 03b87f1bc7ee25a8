"""tcpdump's filter language, compiled to classic BPF by libpcap.

libpcap says what is wrong with an expression, but hardly ever where.  ``locate`` finds the place: a prefix of the
expression is sound when some way to complete it parses.  Soundness is lost once, going right, so the first word
without which the prefix is sound is the place.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from functools import lru_cache

from wirecap.errors import UsageError
from wirecap.filters import libpcap, parts
from wirecap.filters import opcodes as op
from wirecap.filters.lists import shortened
from wirecap.filters.metadata import Link, NothingMatchesError, settled
from wirecap.filters.program import Program, name_of
from wirecap.filters.sets import with_sets
from wirecap.filters.words import JOINERS

_WORD = re.compile(
    r"""\\?[A-Za-z_][\w.-]*(?:/\d+)?      # keywords, names
      | [0-9A-Fa-f]*:[0-9A-Fa-f:.]*(?:/\d+)?  # IPv6 and Ethernet addresses
      | 0[xX][0-9A-Fa-f]+
      | \d[\w.]*(?:/\d+)?(?:-\d+)?     # numbers, IPv4 addresses, ranges of ports
      | <<|>>|<=|>=|==|!=|&&|\|\|
      | \S""",
    re.VERBOSE,
)

# Completions for every state that the language can be in after a sound prefix.
_ENDINGS = (
    "", " tcp", " 1", " 1.2.3.4", " host 1.2.3.4", " 1:2:3:4:5:6", " 1::2", " = 0", " 1 = 0", " 0] = 0", "] = 0",
    " 1] = 0", " mgt", " type mgt", " port 1", " 1-2", " mask 255.0.0.0", " 255.0.0.0", " 0:1] = 0", " \"a\"",
)  # fmt: skip
_PATIENCE_S = 2.0
_LONG = 100
"""Words of an expression in which whole terms are tried before single words."""


def locate(text: str, message: str, compile: Callable[[str], str]) -> str:
    """ " near 'word' (column n)" for an expression that does not parse, or "" where the place is not known.

    ``compile`` returns libpcap's message for an expression, "" when it parses.
    """
    words = list(_WORD.finditer(text))
    if not words:
        return ""
    quoted = re.search(r"'([^']+)'", message)
    for word in words:
        if quoted and word[0] == quoted[1]:
            return _near(text, word)
    if not compile(text):
        return ""  # it parses: what the whole of it means is refused
    skipped, opened = _sound_terms(text, words, compile) if len(words) > _LONG else (0, 0)
    rest = "(" * opened + text[words[skipped].start() :]
    found = _first_wrong(rest, list(_WORD.finditer(rest)), compile)
    if found < 0:
        return ""
    found += skipped - opened
    return _near(text, words[found]) if found < len(words) else " at its end"


def _sound_terms(text: str, words: list[re.Match[str]], compile: Callable[[str], str]) -> tuple[int, int]:
    """How many words of a long expression can be left out of the search, and the parentheses open behind them."""
    joiners = [at for at, word in enumerate(words) if word[0] in JOINERS]
    skipped, opened = 0, 0
    low, high = 0, len(joiners)
    while low < high:
        middle = (low + high) // 2
        prefix = text[: words[joiners[middle]].start()]
        missing = max(0, prefix.count("(") - prefix.count(")"))
        if compile(prefix + ")" * missing):
            high = middle
        else:
            skipped, opened, low = joiners[middle] + 1, missing, middle + 1
    return (skipped, opened) if skipped < len(words) else (0, 0)


def _first_wrong(text: str, words: list[re.Match[str]], compile: Callable[[str], str]) -> int:
    """The first word without which what is before it is sound; -1 where that takes too long, or all is sound."""
    deadline = time.monotonic() + _PATIENCE_S  # names may be looked up in the DNS
    if not compile(text):
        return -1
    sound, wrong = 0, len(words) + 1
    while wrong - sound > 1:
        middle = (sound + wrong) // 2
        end = words[middle - 1].end()
        for ending in _endings(text[:end]):
            if time.monotonic() > deadline:
                return -1
            if not compile(text[:end] + ending):
                sound = middle
                break
        else:
            wrong = middle
    return wrong - 1


def _endings(prefix: str) -> list[str]:
    brackets = "".join(")" if one == "(" else "]" for one in prefix if one in "([")
    missing = max(0, prefix.count("(") - prefix.count(")"))
    if not missing and "]" not in brackets:
        return list(_ENDINGS)
    endings = [ending + ")" * missing for ending in _ENDINGS]
    # A parenthesis may be open inside brackets, or stand for arithmetic: ((ip[0] & 15.
    for depth in range(missing + 1):
        endings += [first + ")" * depth + last + ")" * (missing - depth)
                    for first in ("", " 1", " 0]", "]") for last in (" = 0", "] = 0")]  # fmt: skip
    return endings


def _near(text: str, word: re.Match[str]) -> str:
    return f" near '{word[0]}' (column {word.start() + 1})"


ETHERNET = 1


@lru_cache(64)  # a source and its threads ask for the same one
def compile_filter(
    text: str,
    linktype: int = ETHERNET,
    snaplen: int = 262144,
    optimize: bool = True,
    netmask: int = 0,
) -> Program:
    """The classic BPF program of a filter expression; the empty expression accepts every packet.

    ``netmask`` is the IPv4 netmask (an integer) that ``ip broadcast`` needs; 0 as tcpdump takes it for a
    file.  ``linktype`` is the LINKTYPE_ value of a capture file (or a DLT_ number).  Raises UsageError with
    libpcap's message, the expression and the place when it does not parse, and when it asks for packet metadata.
    """
    if not 0 < snaplen < 1 << 31:
        raise UsageError(f"{name_of(text)}: snap length {snaplen} is not a positive 31-bit number")
    if not text.strip():  # of any link type, also one that libpcap has never heard of
        return Program.of([(op.RET, 0, 0, snaplen)], text, linktype, snaplen)
    dlt = libpcap.dlt_of(linktype)
    program = _with_lists(text, linktype, snaplen, netmask)
    if program:
        return program
    instructions, message, given_up = parts.compile(text, dlt, snaplen, optimize, netmask)
    if message:
        # Not optimised: the optimiser refuses a sound prefix such as "tcp and udp" for what it means.
        place = locate(text, message, lambda part: _message(part, dlt, snaplen, netmask))
        kind = NothingMatchesError if message == parts.REJECTS_ALL else UsageError
        said = message.removeprefix("can't parse filter expression: ")
        raise kind(f"{name_of(text)}: {said}{place}", "see pcap-filter(7) for the language")
    note = f"the filter is not optimised: that takes more than {libpcap.PATIENCE_S:g} s" if given_up else ""
    return Program.of(instructions, text, linktype, snaplen, note)


def _with_lists(text: str, linktype: int, snaplen: int, netmask: int) -> Program | None:
    """The program where the expression has long lists that sets can stand for."""
    short = shortened(text)
    variants = []
    for variant in short.texts if short else ():
        rows, message, _ = parts.compile(variant, libpcap.dlt_of(linktype), snaplen, False, netmask)
        if message:
            return None
        variants.append(Program.of(rows, text, linktype, snaplen))
    return with_sets(variants, short.groups) if short else None


def _message(text: str, dlt: int, snaplen: int, netmask: int) -> str:
    """libpcap's message, "" for an expression that parses."""
    short = shortened(text)  # to answer soon; what does not parse in short may do so at length
    if short and not parts.compile(short.texts[0], dlt, snaplen, False, netmask)[1]:
        return ""
    return parts.compile(text, dlt, snaplen, False, netmask)[1]


def takes(text: str, linktype: int = ETHERNET) -> bool:
    """Whether an expression parses for a link type; where it does not, nobody waits for the place."""
    return not _message(text, libpcap.dlt_of(linktype), 262144, 0)


def compile_each(text: str, links: Iterable[Link], optimize: bool = True) -> dict[Link, Program]:
    """The expression for several links; where no packet of one can match, a program that rejects it.

    So it is where only some of the link types have what the expression asks for; the program's note then says so.
    Raises UsageError, as ``compile_filter`` and ``settled`` do, where no link takes the expression; NothingMatchesError
    where no packet of any link can match.
    """
    programs: dict[Link, Program] = {}
    refused: list[UsageError] = []
    for link in sorted(set(links)):
        try:
            programs[link] = settled(compile_filter(text, link.linktype, optimize=optimize), link)
        except UsageError as error:
            refused.append(error)
            fits = isinstance(error, NothingMatchesError)
            name = libpcap.link_name(link.linktype)
            programs[link] = _rejecting(text, link, "" if fits else f"{error.message}: packets of {name} never match")
    if refused and len(refused) == len(programs):
        raise refused[0]
    return programs


@lru_cache(256)
def compile_fitting(text: str, link: Link, optimize: bool = True) -> Program:
    """The program for a link; where the link type refuses the expression, one that rejects every packet."""
    try:
        return settled(compile_filter(text, link.linktype, optimize=optimize), link)
    except UsageError:
        return _rejecting(text, link)


def _rejecting(text: str, link: Link, note: str = "") -> Program:
    return Program.of([(op.RET, 0, 0, 0)], text, link.linktype, note=note)
