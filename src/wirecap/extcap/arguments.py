"""What Wireshark asks for: the words of its call, checked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from wirecap.errors import UsageError, suggest
from wirecap.extcap.options import HERE, OPTIONS

CHOSEN = "wirecap"
"""The interface whose name stands in the dialog."""
PREFIX = CHOSEN + "-"
"""Of the others' names: Wireshark lists eth1 already."""

_CALLS = {"--help": "help", "-h": "help", "--extcap-interfaces": "interfaces", "--extcap-dlts": "dlts",
          "--extcap-config": "config", "--capture": "capture"}  # fmt: skip
_OF_WIRESHARK = ("extcap-interface", "extcap-capture-filter", "fifo", "extcap-control-in", "extcap-control-out",
                 "extcap-reload-option", "extcap-version")  # fmt: skip
_FLAGS = {option.name for option in OPTIONS if option.kind == "boolflag"}
_VALUES = {option.name for option in OPTIONS} - _FLAGS
_HINT = "'wirecap wireshark install' shows how Wireshark finds it; wirecap-extcap --help"


class Arguments(NamedTuple):
    """A call: what is asked for, and the values by their names, without dashes."""

    call: str
    """help | interfaces | dlts | config | filter | capture"""
    values: dict[str, str]
    flags: frozenset[str]

    @property
    def interface(self) -> str:
        """The kernel's name of the interface; empty where none has been chosen yet."""
        called = self.values["extcap-interface"]
        if called != CHOSEN:
            return called.removeprefix(PREFIX)
        return self.values.get("interface", "").strip()

    @property
    def is_chosen(self) -> bool:
        return self.values["extcap-interface"] == CHOSEN

    @property
    def netns(self) -> str | None:
        where = self.values.get("netns", "").strip()
        return None if where in ("", HERE) else where


def parse(words: Sequence[str]) -> Arguments:
    """The call, or UsageError. What a later Wireshark adds to the protocol (``--extcap-... VALUE``) is let pass."""
    calls: list[str] = []
    values: dict[str, str] = {}
    flags: set[str] = set()
    rest, passed = iter(words), False
    for word in rest:
        may_be_value, passed = passed, False
        if may_be_value and not word.startswith("-"):
            continue
        name, equals, value = word.partition("=")
        bare = name.removeprefix("--") if name.startswith("--") else ""
        if not equals and word in _CALLS:
            calls.append(_CALLS[word])
        elif not equals and bare in _FLAGS:
            flags.add(bare)
        elif bare in _VALUES or bare in _OF_WIRESHARK:
            values[bare] = value if equals else _value(name, rest)
        elif bare.startswith("extcap-"):
            passed = not equals
        else:
            known = sorted([*_CALLS, *(f"--{name}" for name in (*_VALUES, *_FLAGS, *_OF_WIRESHARK))])
            what = "option" if word.startswith("-") else "word"
            raise UsageError(f"unknown {what} {word!r}", suggest(word, known) or _HINT)
    return _checked(Arguments(_call(calls, values), values, frozenset(flags)))


def _value(name: str, rest: Iterator[str]) -> str:
    value = next(rest, None)
    if value is None:
        raise UsageError(f"{name} needs a value", "wirecap-extcap --help")
    return value


def _call(calls: Sequence[str], values: dict[str, str]) -> str:
    if len(set(calls)) > 1 and "help" not in calls:
        raise UsageError(f"{' and '.join(calls)} at once", "ask for one thing in each call")
    if calls:
        return "help" if "help" in calls else calls[0]
    if "extcap-capture-filter" in values:
        return "filter"
    raise UsageError("nothing is asked for", _HINT)


def _checked(asked: Arguments) -> Arguments:
    if asked.call in ("help", "interfaces"):
        return asked
    called = asked.values.get("extcap-interface")
    if called is None:
        raise UsageError("no interface is named", "add --extcap-interface wirecap-eth1")
    if called != CHOSEN and (not called.startswith(PREFIX) or called == PREFIX):
        raise UsageError(f"no interface {called!r}", "wirecap-extcap --extcap-interfaces lists them")
    if asked.call == "capture" and not asked.values.get("fifo"):
        raise UsageError("--capture needs --fifo", "name the FIFO to which packets are written")
    return asked
