"""The models by name, and as they are written on the command line: ``pf_ring:slots=10240,kernel=800ns``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import Field, fields
from typing import Any

from wirecap import units
from wirecap.config.capture import MODES
from wirecap.config.specs import MAX_QUEUE, parse_numbers
from wirecap.errors import UsageError
from wirecap.sim.models.model import Model
from wirecap.sim.models.ring_models import Dna, Netmap, PfRing
from wirecap.sim.models.wirecap import WireCap

TABLE: dict[str, type[Model]] = {model.name: model for model in (PfRing, Dna, Netmap, WireCap)}

NUMBER_MOST = 1 << 40

Read = Callable[[str], Any]


def parse_model(text: str, shared: Mapping[str, Any]) -> Model:
    """Parse a model; ``shared``: fields to use unless the text sets them, leaving out those that the model lacks."""
    name, _, rest = text.partition(":")
    kind: Any = TABLE.get(name)
    if kind is None:
        raise UsageError(f"unknown engine: {name!r}", f"use one of {', '.join(TABLE)}, or all")
    options = dict(_option(field) for field in fields(kind))
    names = {name for name, _ in options.values()}
    chosen = {name: value for name, value in shared.items() if name in names}
    for part in rest.split(",") if rest else ():
        key, equals, value = part.partition("=")
        if not equals or key not in options:
            raise UsageError(f"engine {text!r}: unknown option {part!r}", f"its options are {', '.join(options)}")
        name, read = options[key]
        chosen[name] = read(value)
    model: Model = kind(**chosen)
    return model


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
        raise UsageError(f"the number is too large: {text}", f"use at most {NUMBER_MOST:,}")
    return number


def _picoseconds(text: str) -> int:
    return units.parse_duration_ns(text) * 1000


def _is_advanced(text: str) -> bool:
    if text not in MODES:
        raise UsageError(f"unknown mode: {text!r}", f"write it as mode={' or mode='.join(MODES)}")
    return text == "advanced"


def _groups(text: str) -> tuple[tuple[int, ...], ...]:
    """``0-2+3-5``: two buddy groups."""
    return tuple(parse_numbers(part, text, "groups=0-2+3-5", MAX_QUEUE) for part in text.split("+"))
