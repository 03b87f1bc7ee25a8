"""The interfaces of flow records: a record has their places in a list, and files and messages their names."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from wirecap.filters.metadata import MARKED
from wirecap.kernels.flows import origin as o

if TYPE_CHECKING:
    from wirecap.engine.engine import Engine
    from wirecap.source.source import Source


class Interface(NamedTuple):
    """number: the kernel's number of it, where it is one of this host's; 0 elsewhere."""

    number: int
    name: str


Interfaces = tuple[Interface, ...]


def interfaces_of(source: Source) -> Interfaces:
    """Those of a source that are known so far."""
    return tuple(
        Interface(link.interface, one.name) for one, link in zip(source.interfaces, source.links(), strict=False)
    )


def ways_of(engine: Engine, link: int) -> list[int]:
    """How packets show their direction, for each interface and for those to come.  link: how packets begin.

    Before any packet is let in: a source that can marks them.
    """
    source = engine.source
    source.keep_apart()
    if source.mark_directions(engine.pool):
        return [o.MARKED]
    if source.recording:
        return [o.IN_BLOCK]
    ways = {"in": o.ALL_IN, "out": o.ALL_OUT, MARKED: o.MARKED}
    return [ways.get(one.direction, o.UNKNOWN) for one in source.links()] + [o.COOKED.get(link, o.UNKNOWN)]
