"""How packets are printed: tcpdump's options, and what the programs that print are called with for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

PROGRAMS = ("tcpdump", "tshark")
"""The programs that print, in the order in which they are looked for."""


@dataclass(frozen=True, slots=True)
class PrintConfig:
    """tcpdump's options that format printed packets."""

    letters: str = ""
    """Those without a value, each as often as it was given: ``nvvX``."""
    values: tuple[tuple[str, str], ...] = ()
    """Those with a value: ``("-m", "MODULE")``."""
    nanoseconds: bool = False


def tcpdump(config: PrintConfig, live: bool) -> list[str]:
    """tcpdump's arguments; live: each line is to be seen at once."""
    letters = "".join(sorted(config.letters.replace("l", ""))) + ("l" if live or "l" in config.letters else "")
    flags = [f"-{letters}"] if letters else []
    return [*flags, *(word for pair in config.values for word in pair), *(["--nano"] if config.nanoseconds else [])]


_TIMES = ("a", "a", "e", "d", "ad", "r")
"""tshark's -t for so many of tcpdump's -t; it always shows a time."""
MOST_TIMES = 5
_SHOWN: dict[str, Callable[[int], list[str]]] = {
    "n": lambda times: ["-n"],
    "v": lambda times: ["-V"],
    "x": lambda times: ["-P", "-x"],
    "X": lambda times: ["-P", "-x"],
    "A": lambda times: ["-P", "-x"],
    "S": lambda times: ["-o", "tcp.relative_sequence_numbers:FALSE"],
    "t": lambda times: [],
    "l": lambda times: [],
    "K": lambda times: [],  # it verifies none unless it is told to
    "#": lambda times: [],  # it numbers packets in any case
}


def tshark(config: PrintConfig, live: bool) -> tuple[list[str], list[str]]:
    """(tshark's arguments, tcpdump's options for which it has nothing)."""
    words = ["-t", _TIMES[min(config.letters.count("t"), len(_TIMES) - 1)]]
    if live or "l" in config.letters:
        words.append("-l")
    unknown = [option for option, _ in config.values]
    for letter in dict.fromkeys(config.letters):
        if letter == "t" and config.letters.count("t") == 1:
            unknown.append("-t")
        elif letter in _SHOWN:
            words += [word for word in _SHOWN[letter](config.letters.count(letter)) if word not in words]
        else:
            unknown.append(f"-{letter}")
    return words, unknown
