"""Queues of chunk ids between threads: nothing is lost, doubled or overtaken."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from wirecap.kernels.base import libc
from wirecap.kernels.base.atomics import fetch_add, load, store
from wirecap.kernels.base.jit import PURE, kernel, prepare
from wirecap.kernels.base.kinds import i64, words
from wirecap.kernels.pool import work_queues
from wirecap.kernels.pool.work_queues import EMPTY, EMPTY_HANDED, depth, pop, push, wait, wake_consumer

SLOTS = 4  # of each producer
WAIT_NS = 2_000_000
NEVER_NS = 1_000_000_000_000
LOST, DOUBLED, OVERTAKEN = 1, 2, 3


@kernel(i64(words, words, i64, i64, i64, i64, words, words))
def produce(work_queues, bases, mask, me, slots, rounds, number, scratch):
    """Send each of my slots as soon as it is back, ``rounds`` times in all, numbered; lane 0 is the consumer's."""
    sent = 0
    for i in range(slots):
        number[me * slots + i] = sent
        sent += 1
        push(work_queues, bases[0], mask, me * slots + i)
    while sent < rounds:
        slot = pop(work_queues, bases[1 + me], mask)
        if slot == EMPTY:
            wait(work_queues, bases[1 + me], EMPTY_HANDED, WAIT_NS, scratch)
            continue
        if number[slot] != -1:
            return DOUBLED
        number[slot] = sent
        sent += 1
        push(work_queues, bases[0], mask, slot)
    return 0


@kernel(i64(words, words, i64, i64, i64, words, words, words))
def consume(work_queues, bases, mask, slots, count, number, expected, scratch):
    """Take ``count`` slots; each producer's come in the order of their numbers.  Slots go back to their producer."""
    taken = 0
    empty = 0
    while taken < count:
        if depth(work_queues, bases[0]) < 0:
            return DOUBLED
        slot = pop(work_queues, bases[0], mask)
        if slot == EMPTY:
            empty += 1
            if empty > 10_000_000:
                return LOST
            wait(work_queues, bases[0], EMPTY_HANDED, WAIT_NS, scratch)
            continue
        empty = 0
        producer = slot // slots
        if number[slot] != expected[producer]:
            return OVERTAKEN
        expected[producer] += 1
        number[slot] = -1
        taken += 1
        push(work_queues, bases[1 + producer], mask, slot)
    return 0


@pytest.mark.parametrize("producers", [1, 3])
def test_many_producers_one_consumer(producers):
    """Under real threads every pushed slot is popped once, each producer's in its order, back and forth."""
    rounds = 2_000 if PURE else 300_000
    words_, bases, mask = work_queues.allocate_work_queues(1 + producers, producers * SLOTS)
    number, expected = np.zeros(producers * SLOTS, np.int64), np.zeros(producers, np.int64)
    prepare([produce, consume])
    results = {}

    def start(name, run, *arguments):
        def work():
            results[name] = run(*arguments, libc.scratch())

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        return thread

    threads = [start("consumer", consume, words_, bases, mask, SLOTS, rounds * producers, number, expected)]
    threads += [start(me, produce, words_, bases, mask, me, SLOTS, rounds, number) for me in range(producers)]
    for thread in threads:
        thread.join(100)
    assert results == dict.fromkeys(["consumer", *range(producers)], 0)
    assert expected.tolist() == [rounds] * producers
    assert words_[bases[0] + work_queues.TAIL] == words_[bases[0] + work_queues.HEAD] == rounds * producers


@kernel(i64(words, i64, i64, i64))
def push_one(work_queues, base, mask, slot):
    push(work_queues, base, mask, slot)
    return depth(work_queues, base)


@kernel(i64(words, i64, i64))
def pop_one(work_queues, base, mask):
    return pop(work_queues, base, mask)


@kernel(i64(words, i64, i64, words))
def wait_for_one(work_queues, base, timeout_ns, scratch):
    wait(work_queues, base, EMPTY_HANDED, timeout_ns, scratch)
    return depth(work_queues, base)


def test_first_in_first_out_around_the_end_of_the_places():
    """A queue keeps its order and its depth for many times its places."""
    words_, bases, mask = work_queues.allocate_work_queues(3, 8)
    base = int(bases[1])
    assert pop_one(words_, base, mask) == EMPTY
    expected, given = 0, 0
    for burst in [8, 1, 5, 8, 3] * 10:
        for i in range(burst):
            assert push_one(words_, base, mask, given % 8) == i + 1
            given += 1
        for _ in range(burst):
            assert pop_one(words_, base, mask) == expected % 8
            expected += 1
        assert pop_one(words_, base, mask) == EMPTY
    assert not words_[: bases[1]].any(), "a neighbour was written"
    assert not words_[bases[2] :].any(), "a neighbour was written"


@pytest.mark.parametrize("slots", [1, 2, 7, 8, 9, 1000, 4096])
def test_there_is_a_place_for_every_slot(slots):
    """A queue has a power of two of places, at least one for each slot; queues do not overlap."""
    words_, bases, mask = work_queues.allocate_work_queues(4, slots)
    assert mask + 1 >= slots
    assert (mask + 1) & mask == 0
    assert np.diff(bases).min() >= work_queues.PLACES + mask + 1
    assert len(words_) >= bases[-1] + work_queues.PLACES + mask + 1
    for slot in range(slots):
        push_one(words_, int(bases[1]), mask, slot)
    assert [pop_one(words_, int(bases[1]), mask) for _ in range(slots)] == list(range(slots))


def test_sleeping_consumer_is_woken_by_a_push():
    """A consumer that sleeps on an empty queue has its slot without its timeout; an empty one waits it out."""
    words_, _, mask = work_queues.allocate_work_queues(1, 8)
    prepare([wait_for_one, push_one])
    start = time.monotonic()
    assert wait_for_one(words_, 0, 30_000_000, libc.scratch()) == 0
    assert time.monotonic() - start >= 0.025
    seen = []

    def consumer():
        seen.append(wait_for_one(words_, 0, NEVER_NS, libc.scratch()))

    thread = threading.Thread(target=consumer, daemon=True)
    thread.start()
    while not words_[work_queues.WAITING]:
        time.sleep(0.001)
    time.sleep(0.01)
    push_one(words_, 0, mask, 5)
    thread.join(60)
    assert seen == [1]


def test_sleeping_consumer_is_woken_without_a_slot():
    """wake_consumer ends a consumer's sleep, so that it looks at the phase."""
    words_, _, _ = work_queues.allocate_work_queues(1, 8)
    prepare([wait_for_one, wake_consumer])
    woken = threading.Event()

    def consumer():
        wait_for_one(words_, 0, NEVER_NS, libc.scratch())
        woken.set()

    threading.Thread(target=consumer, daemon=True).start()
    while not words_[work_queues.WAITING]:
        time.sleep(0.001)
    wake_consumer(words_, 0)
    assert woken.wait(60)
    assert words_[work_queues.WAITING] == 0


@kernel(i64(words, i64))
def add_many(array, rounds):
    for _ in range(rounds):
        fetch_add(array, 0, 1)
    return load(array, 0)


@kernel(i64(words, i64))
def wait_for_change(array, limit):
    """Spins on one word; a hoisted load would never see it change."""
    for spins in range(limit):
        if load(array, 1):
            store(array, 2, spins + 1)
            return 1
    return 0


def test_counts_of_several_threads_add_up():
    """fetch_add by several threads loses no addition."""
    array, rounds = np.zeros(4, np.int64), 2_000 if PURE else 500_000
    prepare([add_many])
    threads = [threading.Thread(target=add_many, args=(array, rounds)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert array[0] == 3 * rounds


def test_a_word_written_by_another_thread_is_seen():
    """A loop over ``load`` sees what another thread stores."""
    array, seen = np.zeros(4, np.int64), []
    prepare([wait_for_change])
    thread = threading.Thread(target=lambda: seen.append(wait_for_change(array, 1 << 40)), daemon=True)
    thread.start()
    time.sleep(0.02)
    array[1] = 1
    thread.join(60)
    assert seen == [1]
