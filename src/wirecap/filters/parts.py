"""Long expressions, compiled in parts: libpcap's time grows with the square of their length, its optimiser's faster.

``and`` and ``or`` bind equally strongly, to the left.  So an expression is evaluated term after term: what is true so
far goes on behind the next ``and``, what is false behind the next ``or``.  Its parts are programs one behind the other,
whose returns lead there.  A long list of values behind the words that all of them take (``src and dst host (A or B)``)
is taken apart likewise, and each part gets these words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from wirecap.filters import libpcap
from wirecap.filters import opcodes as op
from wirecap.filters.libpcap import Rows
from wirecap.filters.words import AND, JOINERS, NOT, OR, WAYS, words_of

LONGEST = 300
"""Words that libpcap gets at once."""
REJECTS_ALL = "expression rejects all packets"
"""What libpcap's optimiser says of an expression that no packet can match."""

_MOVING = ("vlan", "mpls", "pppoes", "geneve", "vxlan", "lane")
"""Words after which the rest of an expression looks at other bytes than alone."""
_HEAD = re.compile(r"[a-z]\w*|&&|\|\|")


def compile(text: str, dlt: int, snaplen: int, optimize: bool, netmask: int) -> tuple[Rows, str, bool]:
    """What ``wirecap.filters.libpcap.compile`` returns, in a time that grows with the expression's length only."""
    words = words_of(text)
    if len(words) > LONGEST:
        compiler = _Compiler(dlt, snaplen, optimize, netmask)
        try:
            code = compiler.whole(words)
        except (_NoPartError, RecursionError):
            pass
        else:
            rows = code.finished(snaplen)
            message = REJECTS_ALL if optimize and not code.accepts else ""
            return ([], message, False) if message else (rows, "", compiler.given_up)
    return libpcap.compile(text, dlt, snaplen, optimize, netmask)


class _NoPartError(Exception):
    """What stands between two words that join is no expression of its own."""


@dataclass
class _Code:
    """Instructions, and the places among them where the packet is accepted and rejected."""

    rows: Rows = field(default_factory=list)
    accepts: list[int] = field(default_factory=list)
    rejects: list[int] = field(default_factory=list)

    def go_on(self, is_and: bool, other: _Code) -> None:
        """Put other code behind, for what is true so far or for what is false."""
        start = len(self.rows)
        for at in self.accepts if is_and else self.rejects:
            self.rows[at] = (op.JMP | op.JA, 0, 0, start - at - 1)
        kept = self.rejects if is_and else self.accepts
        accepts, rejects = ([start + at for at in ends] for ends in (other.accepts, other.rejects))
        self.accepts = accepts if is_and else kept + accepts
        self.rejects = kept + rejects if is_and else rejects
        self.rows += other.rows

    def finished(self, snaplen: int) -> Rows:
        for ends, k in ((self.accepts, snaplen), (self.rejects, 0)):
            for at in ends:
                self.rows[at] = (op.RET, 0, 0, k)
        return self.rows


@dataclass
class _Compiler:
    dlt: int
    snaplen: int
    optimize: bool
    netmask: int
    given_up: bool = False
    before: str = ""
    """What holds wherever a part is evaluated, and what moves the bytes that it looks at (``vlan``)."""

    def whole(self, words: Sequence[str]) -> _Code:
        """The code of an expression, in which words that move the others may stand in terms at its beginning."""
        terms = _terms(words)
        moving = [at for at, (_, term) in enumerate(terms) if any(word in _MOVING for word in term)]
        if not moving:
            return self.chain(words)
        first = moving[-1] + 1
        if first == len(terms) or any(joiner in OR for joiner, _ in terms):
            raise _NoPartError
        beginning, rest = (" and ".join(" ".join(term) for _, term in some) for some in (terms[:first], terms[first:]))
        code = self._part([[beginning]], "")
        self.before = f"{beginning} and "
        code.go_on(True, self.chain(words_of(rest)))
        return code

    def chain(self, words: Sequence[str], head: str = "") -> _Code:
        """The code of terms that are joined, or of values behind the words of a head."""
        code: _Code | None = None
        for joiner, terms in _chunks(_terms(words), len(words_of(head))):
            part = self._part(terms, joiner, head)
            if code is None:
                code = part
            else:
                code.go_on(joiner in AND, part)
        if code is None:
            raise _NoPartError
        return code

    def _part(self, terms: list[list[str]], joiner: str, head: str = "") -> _Code:
        if len(terms) == 1 and len(terms[0]) > LONGEST:
            own, inner, negated = _inside(terms[0])
            if head and own:
                raise _NoPartError
            code = self.chain(inner, head or own)
            return _Code(code.rows, code.rejects, code.accepts) if negated else code
        text = f" {joiner} ".join(" ".join(term) for term in terms)
        if head:
            text = f"{head} ({text})" if len(terms) > 1 else f"{head} {text}"
        if self.before:
            text = f"{self.before}({text})"
        rows, message, given_up = _piece(text, self.dlt, self.snaplen, self.optimize, self.netmask)
        if given_up:  # one is enough to wait for
            self.given_up, self.optimize = True, False
        if message == REJECTS_ALL:
            rows = [(op.RET, 0, 0, 0)]
        elif message:
            raise _NoPartError
        ends = [at for at, row in enumerate(rows) if row[0] & 7 == op.RET]
        if any(rows[at][0] != op.RET | op.K for at in ends):
            raise _NoPartError
        return _Code(list(rows), [at for at in ends if rows[at][3]], [at for at in ends if not rows[at][3]])


_piece = lru_cache(256)(libpcap.compile)
"""Cached: whoever looks for the place of an error compiles ever the same beginning."""


def _terms(words: Sequence[str]) -> list[tuple[str, list[str]]]:
    """The terms outside of parentheses, each with the word that joins it to those before it; "" for the first one."""
    terms: list[tuple[str, list[str]]] = [("", [])]
    depth = 0
    for at, word in enumerate(words):
        depth += (word == "(") - (word == ")")
        if depth < 0:
            raise _NoPartError
        between = 0 < at < len(words) - 1 and words[at - 1] in WAYS and words[at + 1] in WAYS  # src or dst
        if word in JOINERS and not depth and not between:
            terms.append((word, []))
        else:
            terms[-1][1].append(word)
    if depth or not all(term for _, term in terms):
        raise _NoPartError
    return terms


def _chunks(terms: list[tuple[str, list[str]]], more: int) -> list[tuple[str, list[list[str]]]]:
    """Terms that libpcap gets together: joined alike, also to what is before them, and not too many words.

    more: words that each of them takes over.
    """
    chunks: list[tuple[str, list[list[str]]]] = []
    size = 0
    for joiner, term in terms:
        # The first chunk is joined to nothing: its second term says how.
        alike = bool(chunks) and ((joiner in AND) == (chunks[-1][0] in AND) or not chunks[-1][0])
        if alike and size + len(term) + more <= LONGEST:
            chunks[-1] = (chunks[-1][0] or joiner, [*chunks[-1][1], term])
            size += 1 + len(term) + more
        else:
            chunks.append((joiner, [term]))
            size = len(term) + more
    return chunks


def _inside(term: list[str]) -> tuple[str, list[str], bool]:
    """The words before a term's parentheses, what is in these, and whether ``not`` is before all."""
    negations = 0
    while negations < len(term) and term[negations] in NOT:
        negations += 1
    if negations == len(term):
        raise _NoPartError
    opening = term.index("(") if "(" in term else len(term)
    head, inner = term[negations:opening], term[opening + 1 : -1]
    depth, least = 0, 0
    for word in inner:
        depth += (word == "(") - (word == ")")
        least = min(least, depth)
    if not all(_HEAD.fullmatch(word) for word in head) or term[-1] != ")" or least < 0:
        raise _NoPartError
    return " ".join(head), inner, bool(negations % 2)
