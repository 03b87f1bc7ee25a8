"""What is explored: small threads that use one mechanism of the kernels, and what has to hold at their end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

from interleaving.explorer import Again, Explored, Memory, explore
from interleaving.plain import Kernels, Mutant, Words, load, store
from wirecap.kernels.af_packet import capture_loop as packet_loop
from wirecap.kernels.file import merge
from wirecap.kernels.forward import wires
from wirecap.kernels.pool import handler_loop, pool, work_queues
from wirecap.kernels.pool.large import MORE_CELLS
from wirecap.kernels.xdp import rings

QUEUE = {"TAIL": 0, "HEAD": 1, "WAITING": 2, "PLACES": 3}  # without the room between cache lines
Value = Callable[[Words, Any], int]
EMPTY = work_queues.EMPTY
IN_VAIN = 1  # how often in a row a thread may go round in vain before it sees all that was written


def patience(in_vain: int) -> Iterator[Any]:
    """What a thread does before a turn, after so many in vain."""
    assert in_vain < IN_VAIN + 6, "what a thread waits for never comes"
    if in_vain > IN_VAIN:
        yield ("settle",)


def queue(mutant: Mutant | None = None, producers: int = 2, each: int = 2, places: int = 4) -> Explored:
    """A work queue: producers push numbered slots, the consumer sleeps when there is none."""
    kernels = Kernels(QUEUE, mutant)
    push, pop, wait = map(kernels.plain, (work_queues.push, work_queues.pop, work_queues.wait))
    memory, count = Memory(), producers * each
    words = memory.words("queue", [0] * (3 + places), shared=True)
    number = memory.words("number", [-1] * count)

    def produce(me: int) -> Callable[[Any], Iterator[Any]]:
        def body(key: Any) -> Iterator[Any]:
            for i in range(each):
                yield "write", number.word(me * each + i), i
                yield from push(words, 0, places - 1, me * each + i)

        return body

    def consume(key: Any) -> Iterator[Any]:
        got, in_vain = key
        yield from patience(in_vain)
        slot = yield from pop(words, 0, places - 1)
        if slot == EMPTY:
            yield from wait(words, 0, work_queues.EMPTY_HANDED, 0, None)
            return Again((got, in_vain + 1))
        assert (yield "read", number.word(slot)) == slot % each, "a slot before it was filled"
        got += (slot,)
        return Again((got, 0)) if len(got) < count else got

    def check(value: Value, results: list[Any]) -> None:
        got = results[-1]
        assert sorted(got) == list(range(count)), f"popped {got}"
        for me in range(producers):
            assert [slot for slot in got if slot // each == me] == [me * each + i for i in range(each)], "overtaken"
        assert value(words, 0) == value(words, 1) == count

    return explore(memory, [*map(produce, range(producers)), consume], check, [None] * producers + [((), 0)])


class _Handed:
    """Rows that the capture thread writes for itself."""

    def __getitem__(self, index: Any) -> list[int]:
        return [0] * pool.HANDED_WORDS


def _pool(memory: Memory, consumers: int, cells: int, states: list[int]) -> SimpleNamespace:
    """A pool of one home queue, as far as these scenarios need it; ``states``: of the slots, as they lie in meta."""
    slots, meta_words = len(states), pool.SLOT_WORDS
    width, mask = 3 + slots, slots - 1
    meta: list[int] = []
    for state in states:
        meta += [state] + [0] * (meta_words - 1)
    control = [0] * pool.CONTROL_WORDS
    control[pool.WORK_QUEUE_MASK], control[pool.CAPACITY], control[pool.THRESHOLD] = mask, slots, 50
    queues = [0] * pool.QUEUE_WORDS
    queues[pool.FREE_SLOTS] = slots
    return SimpleNamespace(
        address=memory.words("address", [[0] for _ in range(slots)]),
        timestamp=memory.words("timestamp", [[0] for _ in range(slots)]),
        arena=None,
        handed=_Handed(),
        meta=memory.words("meta", meta, shared=[i * meta_words for i in range(slots)]),
        queues=memory.words("queues", queues, shared=[pool.WAITING_AT, pool.CHUNKS]),
        free_slots=memory.words("free_slots", [list(range(slots))]),
        free_cells=memory.words("free_cells", [[0] * cells]),
        work_queues=memory.words("work_queues", [0] * width * (consumers + 1), shared=True),
        control=memory.words("control", control, shared=[pool.PHASE, pool.REFUSED, pool.ADVANCED, pool.THRESHOLD]),
        members=[[consumers, *range(consumers)]],
        tallies=SimpleNamespace(shape=(consumers,)),
        decisions=SimpleNamespace(shape=(0,)),
    )


def pair(mutant: Mutant | None = None, handlers: int = 2, chunks: int = 3, slots: int = 2) -> Explored:
    """A work-queue pair: chunks are captured into slots, handled, recycled, reclaimed, and their slots used again.

    Chunk i goes to handler i % handlers, so that several recycle at once.
    """
    kernels = Kernels(QUEUE, mutant)
    names = ("open_slot", "hand_over", "reclaim", "recycle", "work_queue")
    open_slot, hand_over, reclaim, recycle, work_queue = (kernels.plain(getattr(pool, name)) for name in names)
    pop, wait = kernels.plain(work_queues.pop), kernels.plain(work_queues.wait)
    memory = Memory()
    p = _pool(memory, handlers, chunks, [0] * slots)
    mask = slots - 1

    def capture(key: Any) -> Iterator[Any]:
        given, home, in_vain = key
        yield from patience(in_vain)
        if given < chunks:
            slot = yield from open_slot(p, 0)
            if slot != EMPTY:
                yield "write", p.address.word((slot, 0)), 100 + given
                yield "write", p.queues.word(pool.CONSUMER), given % handlers
                yield from hand_over(p, 0, slot, 1, None)
                return Again((given + 1, home, 0))
        came = yield from reclaim(p, 0, True)
        home += came
        if home == chunks:
            return home
        if not came:
            base = yield from work_queue(p, handlers)
            yield from wait(p.work_queues, base, work_queues.HOLDING, 0, None)
        return Again((given, home, 0 if came else in_vain + 1))

    def handle(me: int) -> Callable[[Any], Iterator[Any]]:
        mine = len(range(me, chunks, handlers))

        def body(key: Any) -> Iterator[Any]:
            got, in_vain = key
            if len(got) == mine:
                return got
            yield from patience(in_vain)
            base = yield from work_queue(p, me)
            slot = yield from pop(p.work_queues, base, mask)
            if slot == EMPTY:
                yield from wait(p.work_queues, base, work_queues.EMPTY_HANDED, 0, None)
                return Again((got, in_vain + 1))
            assert (yield "read", p.meta.word(slot * pool.SLOT_WORDS + pool.COUNT)) == 1
            packet = yield "read", p.address.word((slot, 0))
            sequence = (yield "load", p.meta.word(slot * pool.SLOT_WORDS)) >> 2
            assert sequence == packet - 100, f"chunk {sequence} has packet {packet}"
            assert (yield from recycle(p, slot, sequence)), "a chunk was refused"
            return Again(((*got, packet), 0))

        return body

    def check(value: Value, results: list[Any]) -> None:
        assert sorted(packet for got in results[1:] for packet in got) == [100 + i for i in range(chunks)]
        assert value(p.queues, pool.FREE_SLOTS) == slots
        assert sorted(value(p.free_slots, (0, i)) for i in range(slots)) == list(range(slots))
        assert value(p.queues, pool.FREE_CELLS) == chunks
        assert sorted(value(p.free_cells, (0, i)) for i in range(chunks)) == [100 + i for i in range(chunks)]
        assert value(p.control, pool.REFUSED) == 0

    return explore(memory, [capture, *map(handle, range(handlers))], check, [(0, 0, 0)] + [((), 0)] * handlers)


def double_recycle(mutant: Mutant | None = None, threads: int = 2, strays: int = 2) -> Explored:
    """Several threads recycle the same chunk, strays one that there is not: one succeeds, the others are counted."""
    kernels = Kernels(QUEUE, mutant)
    recycle, reclaim = kernels.plain(pool.recycle), kernels.plain(pool.reclaim)
    memory = Memory()
    p = _pool(memory, 1, 1, [5 * 4 + pool.CAPTURED, 0, 0, 0])
    memory.values[p.queues.word(pool.FREE_SLOTS)] = 3

    def body(slot: int) -> Iterator[Any]:
        return (yield from recycle(p, slot, 5))

    def home(tries: int) -> Iterator[Any]:
        found = yield from reclaim(p, 0, False)
        return Again(tries - 1) if tries and not found else found

    def check(value: Value, results: list[Any]) -> None:
        assert sum(results[:threads]) == 1, f"{sum(results[:threads])} recycles succeeded"
        assert value(p.control, pool.REFUSED) == threads + strays - 1, "a refusal was not counted"
        assert value(p.work_queues, 3 + 4) == 1, "pushed once"  # the recycle queue's TAIL
        assert results[-1] == value(p.queues, pool.FREE_SLOTS) - 3 <= 1

    return explore(memory, [body] * (threads + strays) + [home], check, [0] * threads + [4] * strays + [1])


def returned_cells(mutant: Mutant | None = None, givers: int = 2, cells: int = 2, rounds: int = 1) -> Explored:
    """Completed cells on their way home, from several threads, through as many places as there are cells.

    The home thread sends each round's cells out again only when they are back, as cells are one owner's at a time.
    """
    kernels = Kernels(QUEUE, mutant)
    give, take = kernels.plain(pool.give_cells), kernels.plain(pool.take_cells)
    memory, places = Memory(), 1 << (givers * cells - 1).bit_length()
    returned = memory.words("returned", [0] * (3 + places), shared=True)
    queues = memory.words("queues", [0] * pool.QUEUE_WORDS)
    free = memory.words("free_cells", [[-1] * (places * rounds)])
    data = memory.words("cell", [0] * givers * cells)
    go = memory.words("go", [0] * givers, shared=True)
    control = [0] * pool.CONTROL_WORDS
    control[pool.RETURN_MASK] = places - 1
    p = SimpleNamespace(returned=returned, queues=queues, free_cells=free, control=memory.words("control", control))

    def giver(me: int) -> Callable[[Any], Iterator[Any]]:
        mine = [me * cells + i for i in range(cells)]

        def body(key: Any) -> Iterator[Any]:
            done, in_vain = key
            if done == rounds:
                return None
            yield from patience(in_vain)
            if (yield "load", go.word(me)) < done:
                return Again((done, in_vain + 1))
            for cell in mine:
                yield "write", data.word(cell), done + 1
            yield from give(p, 0, mine, 0, 3, cells)
            return Again((done + 1, 0))

        return body

    def home(key: Any) -> Iterator[Any]:
        done, have, in_vain = key
        yield from patience(in_vain)
        found = yield from take(p, 0)
        for i in range(have, have + found):
            cell = yield "read", free.word((0, i))
            assert (yield "read", data.word(cell)) == done + 1, "a cell before its sender was done with it"
        if have + found == (done + 1) * givers * cells:
            done += 1
            for me in range(givers):
                yield "store", go.word(me), done
            if done == rounds:
                return have + found
        return Again((done, have + found, 0 if found else in_vain + 1))

    def check(value: Value, results: list[Any]) -> None:
        for done in range(rounds):
            there = [value(free, (0, done * givers * cells + i)) for i in range(givers * cells)]
            assert sorted(there) == list(range(givers * cells)), f"cells {there}"

    return explore(memory, [*map(giver, range(givers)), home], check, [(0, 0)] * givers + [(0, 0, 0)])


def wire_lock(mutant: Mutant | None = None, threads: int = 2, rounds: int = 2) -> Explored:
    """The lock of a wire: one thread at a time counts, and nobody sleeps for ever."""
    kernels = Kernels({"LOCK": 0, "TX_WORDS": 1}, mutant)
    acquire, give_up = kernels.plain(wires.acquire), kernels.plain(wires.give_up)
    memory = Memory()
    w = SimpleNamespace(words=memory.words("lock", [0], shared=True))
    counter = memory.words("counter", [0])

    def body(done: int) -> Iterator[Any]:
        yield from acquire(w, 0, None)
        yield "write", counter.word(0), (yield "read", counter.word(0)) + 1
        yield from give_up(w, 0)
        return Again(done + 1) if done + 1 < rounds else None

    def check(value: Value, results: list[Any]) -> None:
        assert value(counter, 0) == threads * rounds
        assert value(w.words, 0) == 0, "still locked"

    return explore(memory, [body] * threads, check, [0] * threads)


def merge_idle(mutant: Mutant | None = None, blocks: int = 2, packets: int = 2, looks: int = 2) -> Explored:
    """The merge looks whether a queue can still bring an earlier packet, while the capture thread takes blocks.

    All packets have arrived before: so the merge may find the queue idle only once it has seen them all.
    """
    status = 1  # words of a block in ``halves``: its packets; the first word is the count of all

    def slot_for(p: Any, queue: int, held: Any, now: int, depths: Any) -> Iterator[Any]:
        yield from ()
        return 0

    def take_packets(p: Any, r: Any, q: int, slot: int, filled: int, count: int) -> Iterator[Any]:
        yield from ()
        return 0

    def flush(p: Any, queue: int, depths: Any) -> Iterator[Any]:
        count = yield "read", p.queues.word(pool.FILL_COUNT)
        yield "write", p.queues.word(pool.FILL_COUNT), 0
        yield from push(p.work_queues, 0, places - 1, count)

    def let_go(p: Any, r: Any, held: Any, q: int, block: int) -> Iterator[Any]:
        yield from ()

    def head(p: Any, q: int, block: int) -> Iterator[Any]:
        yield from ()
        return status + block

    stubs = {"slot_for": slot_for, "take_packets": take_packets, "flush": flush, "let_go": let_go, "head": head}
    layout = SimpleNamespace(**{name: getattr(packet_loop.w, name) for name in ("NEXT", "BLOCKS", "LEFT", "INTO")})
    layout.PACKETS = 0
    kernels = Kernels({**QUEUE, **stubs, "w": layout}, mutant)
    take_block, is_idle = kernels.plain(packet_loop.take_block), kernels.plain(merge.is_idle)
    push, pop = kernels.plain(work_queues.push), kernels.plain(work_queues.pop)
    memory, places, total = Memory(), 4, blocks * packets
    queues = [0] * pool.QUEUE_WORDS
    queues[pool.ARRIVED], queues[pool.WAITING_AT] = 0, status + 1
    queues[layout.BLOCKS], queues[layout.INTO] = blocks + 1, -1
    p = SimpleNamespace(
        queues=memory.words("queues", queues, shared=[pool.WAITING_AT, MORE_CELLS]),
        address=SimpleNamespace(shape=(1, packets)),
        work_queues=memory.words("work_queues", [0] * (3 + places), shared=True),
    )
    r = SimpleNamespace(halves=memory.words("halves", [0] + [packets] * blocks + [0], shared=True))
    seen = memory.words("seen", [0])
    m = SimpleNamespace(seen=seen)

    def capture(block: int) -> Iterator[Any]:
        yield "write", p.queues.word(layout.NEXT), block + 1
        yield "write", p.queues.word(layout.LEFT), packets
        yield from take_block(p, r, 0, None, 0, None)
        return Again(block + 1) if block + 1 < blocks else None

    def merging(left: int) -> Iterator[Any]:
        while True:
            count = yield from pop(p.work_queues, 0, places - 1)
            if count == EMPTY:
                break
            yield "write", seen.word(0), (yield "read", seen.word(0)) + count
        idle = yield from is_idle(p, r, m, 0)
        so_far = yield "read", seen.word(0)
        assert not idle or so_far == total, f"idle after {so_far} of {total} packets"
        return Again(left - 1) if left > 1 else None

    return explore(memory, [capture, merging], lambda value, results: None, [0, looks])


def hot_cells(
    mutant: Mutant | None = None, entries: int = 8, packets: int = 3, reach: int = 1, unpublished: int = 1
) -> Explored:
    """The exchange of hot cells for attached ones while the kernel uses entries, and what ``settle`` makes of it.

    The kernel takes at most ``unpublished`` packets beyond the ones it has shown, and orders what it shows before the
    next entry that it reads (a NAPI poll ends in between).
    """
    kernels = Kernels(mutant=mutant)
    freshen, settle, peek = map(kernels.plain, (rings.freshen, rings.settle, rings.peek))
    memory, attached, hot = Memory(), entries, 2
    cells = attached + hot
    queues = [0] * pool.QUEUE_WORDS
    queues[rings.RX_PRODUCER], queues[rings.FILL_MASK], queues[rings.RX_MASK] = 0, entries - 1, entries - 1
    queues[rings.RX_DESCRIPTORS], queues[rings.SUBMITTED], queues[pool.FREE_CELLS] = entries, attached, hot
    queues[rings.CELL_MASK], queues[rings.IN_ORDER] = -1, 1
    queues[rings.REACH], queues[rings.UNPUBLISHED] = reach, unpublished
    ring = [100 + i for i in range(attached)] + [0] * 2 * entries
    p = SimpleNamespace(
        queues=memory.words("queues", queues),
        free_cells=memory.words("free_cells", [[100 + attached, 101 + attached] + [0] * attached]),
    )
    r = SimpleNamespace(
        words=memory.words("ring", ring, shared=range(entries)), halves=memory.words("halves", [0], shared=True)
    )
    everything = set(range(100, 100 + cells))

    def kernel(done: int) -> Iterator[Any]:
        cell = yield "read", r.words.word(done)
        yield "write", r.words.word(entries + 2 * done), cell
        done += 1
        if done % unpublished == 0 or done == packets:
            yield "store", r.halves.word(0), done
            yield ("fence",)
        return Again(done) if done < packets else None

    def capture(key: Any) -> Iterator[Any]:
        """One exchange, then packets are taken until all are here; every cell is then in one place."""
        exchanged, taken = key
        if not exchanged:
            yield from freshen(p, r, 0, hot)
            return Again((True, taken))
        available = yield from peek(p, r, 0)
        yield from settle(p, r, 0, taken_count(taken) + available)
        for i in range(len(taken), len(taken) + available):
            taken += ((yield "read", r.words.word(entries + 2 * i)),)
        yield "write", p.queues.word(pool.TAKEN), len(taken)
        if len(taken) < packets:
            return Again((True, taken))
        end = yield "read", p.queues.word(rings.DISPUTED_END)
        if (yield "read", p.queues.word(rings.DISPUTED)) < end:
            return taken  # the packets of these entries have not come yet
        here = list(taken)
        free = yield "read", p.queues.word(pool.FREE_CELLS)
        places = [p.free_cells.word((0, i)) for i in range(free)] + [r.words.word(i) for i in range(packets, attached)]
        for place in places:
            cell = yield "read", place
            here += [cell]
        assert sorted(here) == sorted(everything), f"cells {sorted(here)}"
        return taken

    def taken_count(taken: Any) -> int:
        return len(taken)

    return explore(memory, [kernel, capture], lambda value, results: None, [0, (False, ())])


def stop(mutant: Mutant | None = None, chunks: int = 2, consumers: int = 1) -> Explored:
    """The end: a capture thread hands over its last chunks, then the phase says CLOSE; no chunk is left behind.

    A wake-up that comes between a consumer's look at the phase and its sleep is lost: the timeout of its wait ends it.
    """
    kernels = Kernels(QUEUE, mutant)
    next_slot, push, wake = (
        kernels.plain(handler_loop.next_slot),
        *map(kernels.plain, (work_queues.push, work_queues.wake)),
    )
    memory, slots = Memory(), 4
    p = _pool(memory, consumers, chunks, [0] * slots)
    joined = memory.words("joined", [0], shared=True)

    def capture(key: Any) -> Iterator[Any]:
        for i in range(chunks):
            yield from push(p.work_queues, i % consumers * (3 + slots), slots - 1, i)
        yield from store(joined, 0, 1)
        yield "wake", joined.word(0)

    def main(key: Any) -> Iterator[Any]:
        yield "wait", joined.word(0), 0
        if not (yield from load(joined, 0)):
            yield ("settle",)
            return Again(key)
        yield from store(p.control, pool.PHASE, pool.CLOSE)
        for i in range(consumers):
            yield from wake(p.work_queues, i * (3 + slots))
        return None

    def consume(me: int) -> Callable[[Any], Iterator[Any]]:
        def body(key: Any) -> Iterator[Any]:
            got, in_vain = key
            yield from patience(in_vain)
            slot = yield from next_slot(p, me, 0, None)
            if slot == handler_loop.CLOSED:
                return got
            return Again((got, in_vain + 1) if slot == handler_loop.TIMED_OUT else ((*got, slot), 0))

        return body

    def check(value: Value, results: list[Any]) -> None:
        for me in range(consumers):
            assert results[2 + me] == tuple(range(me, chunks, consumers)), f"consumer {me} got {results[2 + me]}"

    bodies = [capture, main, *map(consume, range(consumers))]
    return explore(memory, bodies, check, [None, None] + [((), 0)] * consumers, timeouts=True)
