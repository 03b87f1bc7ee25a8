"""Engines as the command line has them: ``wirecap``, ``pf_ring:slots=10240,kernel=800ns``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import Field, fields
from typing import Any

from wirecap import units
from wirecap.config import MODES
from wirecap.errors import UsageError
from wirecap.sim.engines import TABLE, Engine
from wirecap.specs import MAX_QUEUE, parse_numbers

NUMBER_MOST = 1 << 40

Read = Callable[[str], Any]


def parse(text: str, shared: Mapping[str, Any]) -> Engine:
    """The engine of a text; ``shared``: fields that it has if the text does not set them, those of others left out."""
    name, _, rest = text.partition(":")
    kind: Any = TABLE.get(name)
    if kind is None:
        raise UsageError(f"there is no engine {name!r}", f"there are {', '.join(TABLE)}, and all")
    options = dict(_option(field) for field in fields(kind))
    names = {name for name, _ in options.values()}
    chosen = {name: value for name, value in shared.items() if name in names}
    for part in rest.split(",") if rest else ():
        key, equals, value = part.partition("=")
        if not equals or key not in options:
            raise UsageError(f"engine {text!r}: {part!r} is not one of its options", f"it has {', '.join(options)}")
        name, read = options[key]
        chosen[name] = read(value)
    engine: Engine = kind(**chosen)
    return engine


def _option(field: Field[Any]) -> tuple[str, tuple[str, Read]]:
    """(option, (field, how its value is read)): times are written as durations, without the field's unit."""
    if field.name.endswith("_ps"):
        return field.name.removesuffix("_ps"), (field.name, _picoseconds)
    if field.name == "advanced":
        return "mode", (field.name, _is_advanced)
    if field.name == "groups":
        return "groups", (field.name, _groups)
    return field.name, (field.name, _number)


def _number(text: str) -> int:
    number = units.parse_count(text)
    if number > NUMBER_MOST:
        raise UsageError(f"{text}: too many", f"the most is {NUMBER_MOST:,}")
    return number


def _picoseconds(text: str) -> int:
    return units.parse_duration_ns(text) * 1000


def _is_advanced(text: str) -> bool:
    if text not in MODES:
        raise UsageError(f"there is no mode {text!r}", f"write it as mode={' or mode='.join(MODES)}")
    return text == "advanced"


def _groups(text: str) -> tuple[tuple[int, ...], ...]:
    """``0-2+3-5``: two buddy groups."""
    return tuple(parse_numbers(part, text, "groups=0-2+3-5", MAX_QUEUE) for part in text.split("+"))
