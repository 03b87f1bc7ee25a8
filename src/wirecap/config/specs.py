"""Interfaces with queues, and handlers with options, as users write them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wirecap.errors import UsageError
from wirecap.units import whole_number

MAX_QUEUE = 4_095
"""Linux has at most 4,096 receive queues per interface (tun's MAX_RX_QUEUES, the largest of any driver)."""

ANY = "any"
"""All interfaces, under tcpdump's name for them."""

_MAX_NAME = 127
"""ALTIFNAMSIZ - 1 (linux/if.h): interfaces have alternative names, which can be longer than their own."""


@dataclass(frozen=True, slots=True)
class QueueSpec:
    """An interface and some of its receive queues; ``None`` means all of them."""

    interface: str
    queues: tuple[int, ...] | None = None

    @classmethod
    def parse(cls, text: str) -> QueueSpec:
        """``eth1``, ``eth1@0-3``, ``eth1@0,2,5-7``."""
        interface, at, numbers = text.partition("@")
        if len(names_in(numbers)) > 1:
            several = " and ".join(names_in(text))
            raise UsageError(f"{text!r} is more than one interface", f"name each on its own: {several}")
        if (
            not 0 < len(interface.encode(errors="surrogatepass")) <= _MAX_NAME
            or re.search(r"[\s/:]", interface)
            or interface in (".", "..")
        ):
            raise UsageError(f"{text!r} is not a valid interface", "write it as eth1, eth1@0-3 or eth1@0,2")
        return cls(interface, parse_numbers(numbers, text, "eth1@0-3 or eth1@0,2", MAX_QUEUE) if at else None)

    def __str__(self) -> str:
        return self.interface if self.queues is None else f"{self.interface}@{','.join(map(str, self.queues))}"


def names_in(text: str) -> list[str]:
    """The interfaces, with their queues, that somebody may have meant who put commas between them."""
    return re.split(r"\s*,\s*(?=[^\s\d])", text)


def parse_numbers(text: str, whole: str, forms: str, largest: int) -> tuple[int, ...]:
    """``0,2,5-7`` -> (0, 2, 5, 6, 7); ``whole`` and ``forms`` go into the error message."""
    numbers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]+)\s*(?:-\s*([0-9]+)\s*)?", part)
        if match is None:
            raise UsageError(f"{whole!r}: {part!r} is not a number or a range", f"write it as {forms}")
        first, last = whole_number(match[1]), whole_number(match[2] or match[1])
        if last < first:
            raise UsageError(f"{whole!r}: the range {part.strip()} runs backwards", f"write it as {last}-{first}")
        if last > largest:
            raise UsageError(f"{whole!r}: {last} is above the largest number, {largest}", f"write it as {forms}")
        numbers.extend(range(first, last + 1))
    if len(set(numbers)) != len(numbers):
        raise UsageError(f"{whole!r} names a number twice", f"write it as {forms}")
    return tuple(numbers)


def file_of(name: str) -> str:
    """The file that a handler is in, as its name ``./my.py:function`` has it; "" for one of a package."""
    place = name.rpartition(":")[0]
    return place if place.endswith(".py") or "/" in place else ""


_HANDLER_FORMS = "write it as count, pkt_handler:x=300 or package.module:object"


@dataclass(frozen=True, slots=True)
class HandlerSpec:
    """A handler, named as in the table or as ``package.module:object``, with its options as text."""

    name: str
    options: Mapping[str, str] = field(default_factory=dict)
    given: Any = None
    """The handler itself, if a program passes it: a function, decorated or not."""

    @classmethod
    def parse(cls, text: str) -> HandlerSpec:
        """``count``, ``pkt_handler:x=300,rate=38844``, ``package.module:object[:key=value,...]``."""
        name, colon, rest = text.partition(":")
        if colon and "=" not in rest.partition(":")[0]:  # an object in a module, not an option
            target, colon, rest = rest.partition(":")
            name = f"{name}:{target}"
            if not target.isidentifier():
                raise UsageError(f"handler {text!r}: {target!r} cannot be a name in a module", _HANDLER_FORMS)
        if not name or name.startswith(":"):
            raise UsageError(f"handler {text!r} has no name", _HANDLER_FORMS)
        options: dict[str, str] = {}
        for part in rest.split(",") if colon else ():
            key, equals, value = part.partition("=")
            key = key.strip()
            if not equals or not key:
                raise UsageError(f"handler {text!r}: {part!r} is not key=value", _HANDLER_FORMS)
            if key in options:
                raise UsageError(f"handler {text!r} sets {key} twice", "set it once")
            options[key] = value.strip()
        return cls(name, options)

    def __str__(self) -> str:
        options = ",".join(f"{key}={value}" for key, value in self.options.items())
        return f"{self.name}:{options}" if options else self.name
