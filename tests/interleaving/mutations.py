"""Which kernels are changed for the mutation check, which scenario must notice, and which changes harm nobody."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from interleaving import scenarios
from interleaving.explorer import Explored
from interleaving.plain import Mutant, mutants
from wirecap.kernels.af_packet import capture_loop as packet_loop
from wirecap.kernels.file import merge
from wirecap.kernels.forward import wires
from wirecap.kernels.pool import handler_loop, pool, work_queues
from wirecap.kernels.xdp import rings

Scenario = Callable[..., Explored]
CASES: list[tuple[Scenario, dict[str, int], list[Any]]] = [
    (scenarios.queue, {"each": 1}, [work_queues.push, work_queues.pop, work_queues.wait]),
    (scenarios.pair, {"handlers": 1, "chunks": 2, "slots": 1}, [pool.open_slot, pool.hand_over, pool.reclaim]),
    (scenarios.double_recycle, {}, [pool.recycle]),
    (scenarios.returned_cells, {"cells": 1}, [pool.give_cells, pool.take_cells]),
    (scenarios.wire_lock, {}, [wires.acquire, wires.give_up]),
    (scenarios.merge_idle, {}, [merge.is_idle, packet_loop.take_block]),
    (scenarios.hot_cells, {}, [rings.freshen]),
    (scenarios.stop, {"chunks": 1}, [handler_loop.next_slot, work_queues.wake]),
]
"""A scenario, its size, and the functions that are changed in it."""

OWN = "only the thread itself looks at one of the two"
LATER = "what the same thread releases later orders it for whoever needs it"
HARMLESS = {
    "push: swapped: store(work_queues, base + PLACES": "wait() looks at TAIL, which is added to before both",
    "push: plain load: load(work_queues, base + WAITING": "the fence before it orders it; an old value wakes once more",
    "push: in two steps: compare_swap(work_queues, base + WAITING": "an extra wake-up, which the consumer allows for",
    "pop: swapped: store(work_queues, place, 0)": "the place is used again only once its slot came home: " + LATER,
    "pop: plain store": LATER,
    "wait: plain store: store(work_queues, base + WAITING, how)": "the fence behind it orders it",
    "wait: plain store: store(work_queues, base + WAITING, 0)": "a late 0 costs an extra wake-up",
    "open_slot": "nobody else has the slot; hand_over's push releases it",
    "hand_over: swapped: remember(": "for Python alone, which looks at CHUNKS",
    "hand_over: plain store": "push releases it",
    "hand_over: plain load: load(pool.control, ADVANCED)": "a setting: an old value sends one more chunk the old way",
    "reclaim": "nobody else has the slot until it is handed over again",
    "take_cells: swapped": OWN,
    "take_cells: plain store": "the home thread alone reads HEAD; a place is used again once its cell went out: "
    + LATER,
    "acquire: swapped: compare_swap(wires.words, at, 1, 2)": "a wait for 2 returns at once where the word is still 1",
    "is_idle: plain load: load(pool.queues, q + WAITING_AT)": "the load of the packets that wait orders what follows",
    "is_idle: plain load: load(pool.queues, q + MORE_CELLS)": "with an old value the queue only looks busy",
    "is_idle: plain load: load(rings.halves, arrived)": "only its value counts; the load of what waits orders it",
    "take_block: swapped: queues[q + FILL_COUNT] = filled": OWN,
    "take_block: plain store: store(rings.halves, queues[q + ARRIVED]": "the later stores of WAITING_AT and of what "
    "waits release it",
    "take_block: plain store: store(rings.halves, head(pool, q, block) + w.PACKETS, np.uint32(queues": "what counts "
    "is that it is not 0",
    "freshen: swapped: queues[q + FRESH] = first + count <-> fence()": OWN,
    "freshen: plain store": "the fence behind it orders it; not torn, as the word is aligned",
    "next_slot: swapped: base = work_queue": OWN,
    "wake: ": "the consumer's timeout ends the sleep where a wake-up comes too early",
}
"""The beginning of a mutant's name, and why no schedule goes wrong with it: the long form shows that none does."""


def reason(mutant: Mutant) -> str | None:
    """Why a mutant harms nobody; None if it must be found."""
    return next((why for start, why in HARMLESS.items() if str(mutant).startswith(start)), None)


def all_mutants() -> Iterator[tuple[Scenario, dict[str, int], Mutant]]:
    for scenario, size, kernels in CASES:
        for kernel in kernels:
            for mutant in mutants(kernel):
                yield scenario, size, mutant
