"""Every schedule of a few threads, for what the kernels share without locks; and that the search would find a mistake.

bench/reliability.py has the larger sizes, and the changes that must harm nobody.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from interleaving import mutations, scenarios
from interleaving.explorer import Again, FoundError, Memory, explore
from interleaving.plain import fence, load, store


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("queue", {"producers": 2, "each": 1}),
        ("queue", {"producers": 1, "each": 2, "places": 2}),
        ("pair", {"handlers": 1, "chunks": 2, "slots": 1}),
        ("double_recycle", {}),
        ("returned_cells", {"givers": 2, "cells": 2}),
        ("returned_cells", {"givers": 2, "cells": 1, "rounds": 2}),
        ("wire_lock", {"threads": 2, "rounds": 2}),
        ("merge_idle", {}),
        ("hot_cells", {"packets": 4}),
        ("hot_cells", {"packets": 6, "unpublished": 2}),
        ("stop", {"chunks": 1}),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(f"{name}{n}" for name, n in value.items()) or "all",
)
def test_no_schedule_goes_wrong(name, size):
    """Whatever the order, and whatever a weakly ordered processor shows: nothing is lost, doubled or stuck."""
    assert getattr(scenarios, name)(**size).schedules > 10


DANGEROUS = [(s, size, mutant) for s, size, mutant in mutations.all_mutants() if mutations.reason(mutant) is None]


def test_every_change_that_matters_is_found():
    """With a fence left out, a store made plain, two statements swapped, some schedule goes wrong, and is found."""
    changes = {str(mutant).split(":")[1].strip() for _, _, mutant in DANGEROUS}
    assert changes == {"left out", "plain store", "plain load", "swapped", "in two steps"}
    missed = []
    for scenario, size, mutant in DANGEROUS:
        try:
            scenario(mutant, **size)
        except FoundError:
            continue
        missed.append(str(mutant))
    assert missed == []


def test_every_reason_is_for_a_change_that_there_is():
    names = [str(mutant) for _, _, mutant in mutations.all_mutants()]
    assert [start for start in mutations.HARMLESS if not any(name.startswith(start) for name in names)] == []


def litmus(*threads: Any, wrong: Any, shared: bool = True) -> bool:
    """Whether some schedule of threads over the words x and y ends with these results."""
    memory = Memory()
    x, y = memory.words("x", [0], shared=shared), memory.words("y", [0], shared=True)

    def check(value: Any, results: list[Any]) -> None:
        assert results != wrong

    try:
        explore(memory, [lambda key, body=body: body(x, y) for body in threads], check)
    except FoundError:
        return True
    return False


def stores_and_looks(mine: int, fenced: bool) -> Any:
    def body(*words: Any) -> Iterator[Any]:
        yield from store(words[mine], 0, 1)
        if fenced:
            yield from fence()
        return (yield from load(words[1 - mine], 0))

    return body


def test_store_buffers_are_modelled():
    """Both threads can miss the other's store, unless there are fences."""
    assert litmus(stores_and_looks(0, False), stores_and_looks(1, False), wrong=[0, 0])
    assert litmus(stores_and_looks(0, True), stores_and_looks(1, False), wrong=[0, 0])
    assert not litmus(stores_and_looks(0, True), stores_and_looks(1, True), wrong=[0, 0])


def test_messages_are_modelled():
    """A flag that is stored with release and loaded with acquire shows what came before it; a plain one does not."""

    def sender(kind: str) -> Any:
        def body(x: Any, y: Any) -> Iterator[Any]:
            yield "write", x.word(0), 1
            yield kind, y.word(0), 1

        return body

    def receiver(kind: str) -> Any:
        def body(x: Any, y: Any) -> Iterator[Any]:
            return (yield kind, y.word(0)), (yield "read", x.word(0))

        return body

    assert not litmus(sender("store"), receiver("load"), wrong=[None, (1, 0)])
    assert litmus(sender("write"), receiver("load"), wrong=[None, (1, 0)])
    assert litmus(sender("store"), receiver("read"), wrong=[None, (1, 0)])
    assert litmus(sender("store"), receiver("load"), wrong=None, shared=False), "a race, as the flag may not be set yet"


def test_the_schedules_are_counted():
    """Two threads of three steps each: 6! / (3! 3!) orders."""
    memory = Memory()
    words = memory.words("words", [0, 0], shared=True)

    def body(me: int) -> Any:
        def three(done: int) -> Iterator[Any]:
            yield from store(words, me, done)
            return Again(done + 1) if done < 2 else None

        return three

    assert explore(memory, [body(0), body(1)], lambda value, results: None, [0, 0]).schedules == 20
