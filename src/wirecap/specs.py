"""Interfaces with queues, and handlers with options, as users write them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wirecap.errors import UsageError

MAX_QUEUE = 4_095
"""Linux counts at most 4,096 receive queues (MAX_RX_QUEUES of tun, the largest of the drivers)."""

ANY = "any"
"""All interfaces, as tcpdump has it."""

_MAX_NAME = 15
"""IFNAMSIZ - 1 (linux/if.h)."""


@dataclass(frozen=True, slots=True)
class QueueSpec:
    """An interface and which of its receive queues; ``None`` is all of them."""

    interface: str
    queues: tuple[int, ...] | None = None

    @classmethod
    def parse(cls, text: str) -> QueueSpec:
        """``eth1``, ``eth1@0-3``, ``eth1@0,2,5-7``."""
        interface, at, numbers = text.partition("@")
        if not 0 < len(interface.encode()) <= _MAX_NAME or re.search(r"[\s/:]", interface) or interface in (".", ".."):
            raise UsageError(f"{text!r} is not an interface", "write it as eth1, eth1@0-3 or eth1@0,2")
        return cls(interface, parse_numbers(numbers, text, "eth1@0-3 or eth1@0,2", MAX_QUEUE) if at else None)

    def __str__(self) -> str:
        return self.interface if self.queues is None else f"{self.interface}@{','.join(map(str, self.queues))}"


def parse_numbers(text: str, whole: str, forms: str, largest: int) -> tuple[int, ...]:
    """``0,2,5-7`` -> (0, 2, 5, 6, 7); ``whole`` and ``forms`` are for the message."""
    numbers: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]+)\s*(?:-\s*([0-9]+)\s*)?", part)
        if match is None:
            raise UsageError(f"{whole!r}: {part!r} is not a number or a range", f"write it as {forms}")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise UsageError(f"{whole!r}: the range {part.strip()} is empty", f"write it as {last}-{first}")
        if last > largest:
            raise UsageError(f"{whole!r}: {last} is larger than {largest}", f"write it as {forms}")
        numbers.extend(range(first, last + 1))
    if len(set(numbers)) != len(numbers):
        raise UsageError(f"{whole!r} names a number twice", f"write it as {forms}")
    return tuple(numbers)


_HANDLER_FORMS = "write it as count, pkt_handler:x=300 or package.module:object"


@dataclass(frozen=True, slots=True)
class HandlerSpec:
    """A handler by its name in the table, or ``package.module:object``, with options as text."""

    name: str
    options: Mapping[str, str] = field(default_factory=dict)
    given: Any = None
    """The handler itself, where a program has it: a function, decorated or not."""

    @classmethod
    def parse(cls, text: str) -> HandlerSpec:
        """``count``, ``pkt_handler:x=300,rate=38844``, ``package.module:object[:key=value,...]``."""
        name, colon, rest = text.partition(":")
        if colon and "=" not in rest.partition(":")[0]:  # the object in a module, not an option
            target, colon, rest = rest.partition(":")
            name = f"{name}:{target}"
            if not target.isidentifier():
                raise UsageError(f"handler {text!r}: {target!r} is not a name in a module", _HANDLER_FORMS)
        if not name or name.startswith(":"):
            raise UsageError(f"handler {text!r} has no name", _HANDLER_FORMS)
        options: dict[str, str] = {}
        for part in rest.split(",") if colon else ():
            key, equals, value = part.partition("=")
            key = key.strip()
            if not equals or not key:
                raise UsageError(f"handler {text!r}: {part!r} is not key=value", _HANDLER_FORMS)
            if key in options:
                raise UsageError(f"handler {text!r} sets {key} twice", "leave one of them out")
            options[key] = value.strip()
        return cls(name, options)

    def __str__(self) -> str:
        options = ",".join(f"{key}={value}" for key, value in self.options.items())
        return f"{self.name}:{options}" if options else self.name
