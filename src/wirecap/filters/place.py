"""Where a filter expression goes wrong: libpcap's message says what, hardly ever where.

A prefix of the expression is sound when some way to complete it parses.  Soundness is lost once, going
right, so the first word without which the prefix is sound is the place.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable

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


def locate(text: str, message: str, compile: Callable[[str], str]) -> str:
    """ " near 'word' (column n)" for an expression that does not parse, or "" where the place is not known.

    ``compile`` returns libpcap's message for an expression, "" when it parses.
    """
    words = list(_WORD.finditer(text))
    quoted = re.search(r"'([^']+)'", message)
    for word in words:
        if quoted and word[0] == quoted[1]:
            return _near(text, word)
    if not compile(text):
        return ""  # it parses: what the whole of it means is refused
    deadline = time.monotonic() + _PATIENCE_S  # names may be looked up in the DNS
    sound, wrong = 0, len(words) + 1
    while wrong - sound > 1:
        middle = (sound + wrong) // 2
        end = words[middle - 1].end()
        if any(not compile(text[:end] + ending) for ending in _endings(text[:end])):
            sound = middle
        else:
            wrong = middle
        if time.monotonic() > deadline:
            return ""
    return _near(text, words[wrong - 1]) if wrong <= len(words) else " at its end"


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
