"""The engines as SimPy processes: another event loop, another way to write them down.

Priorities settle what comes first at one instant, as docs/simulator.md says; a process that another one wakes
goes on before anything else.
"""

from __future__ import annotations

from collections import Counter, deque
from functools import partial

import simpy

SENT, DONE, CAPTURED, ARRIVAL, DUE = (100 * kind for kind in range(1, 6))
COPIED = CAPTURED


class After(simpy.Event):
    """In ``delay`` ps, at a rank among what happens then."""

    def __init__(self, env, delay, rank):
        super().__init__(env)
        self._ok, self._value = True, None
        env.schedule(self, priority=rank, delay=delay)


class Bell:
    """Wakes the one process that sleeps on it."""

    def __init__(self, env):
        self.env, self.event = env, None

    def sleep(self):
        self.event = self.env.event()
        return self.event

    def ring(self):
        if self.event is not None:
            event, self.event = self.event, None
            event.succeed()


def source(env, times, rank, arrive):
    for time in times:
        yield After(env, time - env.now, rank)
        arrive()


class Engine:
    """One NIC's queues: ``counts`` has each one's counters, ``ended`` when the last packet was handled or had left.

    A handled packet goes to the one wire where ``transmit_ps`` is not 0, and calls ``free`` when it has left.
    """

    def __init__(self, times, costs, transmit_ps=0):
        self.env = simpy.Environment(0)
        self.costs, self.transmit_ps = costs, transmit_ps
        self.counts, self.ended = [Counter() for _ in times], 0
        self.wire, self.wire_bell = deque(), Bell(self.env)
        self.env.process(self.transmit())
        for queue, arrivals in enumerate(times):
            self.start(queue)
            self.env.process(source(self.env, arrivals, ARRIVAL + queue, partial(self.arrive, queue)))
        self.env.run()

    def after(self, delay, kind, queue=0):
        return After(self.env, delay, kind + queue)

    def transmit(self):
        while True:
            while not self.wire:
                yield self.wire_bell.sleep()
            packets, queue, free = self.wire[0]
            yield self.after(packets * self.transmit_ps, SENT)
            self.wire.popleft()
            self.counts[queue]["forwarded"] += packets
            self.ended = self.env.now
            free()

    def handled(self, queue, packets, free):
        self.counts[queue]["delivered"] += packets
        self.ended = self.env.now
        if not self.transmit_ps:
            free()
            return
        self.wire.append((packets, queue, free))
        self.wire_bell.ring()


class Dna(Engine):
    """A packet lies in its slot until it is handled, or has left."""

    def __init__(self, times, costs, slots, transmit_ps):
        self.slots = slots
        self.used, self.waiting = [0 for _ in times], [deque() for _ in times]
        self.seen, self.bells = [0 for _ in times], {}
        super().__init__(times, costs, transmit_ps)

    def start(self, queue):
        self.bells[queue] = Bell(self.env)
        self.env.process(self.handler(queue))

    def arrive(self, queue):
        number, self.seen[queue] = self.seen[queue], self.seen[queue] + 1
        if self.used[queue] == self.slots:
            self.counts[queue]["ring_full"] += 1
            return
        self.used[queue] += 1
        self.waiting[queue].append(self.costs(queue, number))
        self.bells[queue].ring()

    def free(self, queue):
        self.used[queue] -= 1

    def handler(self, queue):
        while True:
            while not self.waiting[queue]:
                yield self.bells[queue].sleep()
            cost = self.waiting[queue].popleft()
            yield self.after(cost, DONE, queue)
            self.counts[queue]["busy_ps"] += cost
            self.handled(queue, 1, partial(self.free, queue))


class Netmap(Dna):
    """All that waits is a batch; its slots are free after the next sync."""

    def __init__(self, times, costs, slots, sync_ps):
        self.sync_ps = sync_ps
        super().__init__(times, costs, slots, 0)

    def handler(self, queue):
        while True:
            while not self.waiting[queue]:
                yield self.bells[queue].sleep()
            batch = list(self.waiting[queue])
            self.waiting[queue].clear()
            yield self.after(sum(batch) + self.sync_ps, DONE, queue)
            self.counts[queue]["busy_ps"] += sum(batch) + self.sync_ps
            self.counts[queue]["delivered"] += len(batch)
            self.ended = self.env.now
            self.used[queue] -= len(batch)


class PfRing(Engine):
    """The kernel interrupts the handler for every packet that comes."""

    def __init__(self, times, costs, descriptors, slots, kernel_ps, transmit_ps):
        self.descriptors, self.slots, self.kernel_ps = descriptors, slots, kernel_ps
        self.nic, self.copies = [deque() for _ in times], [deque() for _ in times]
        self.used, self.seen = [0 for _ in times], [0 for _ in times]
        self.current = [None for _ in times]
        self.soft, self.application = {}, {}
        super().__init__(times, costs, transmit_ps)

    def start(self, queue):
        self.soft[queue], self.application[queue] = Bell(self.env), Bell(self.env)
        self.env.process(self.kernel(queue))
        self.env.process(self.handler(queue))

    def arrive(self, queue):
        number, self.seen[queue] = self.seen[queue], self.seen[queue] + 1
        if len(self.nic[queue]) == self.descriptors:
            self.counts[queue]["nic_ring_full"] += 1
            return
        self.nic[queue].append(self.costs(queue, number))
        self.soft[queue].ring()
        if self.current[queue] is not None and self.current[queue].is_alive:
            self.current[queue].interrupt()

    def kernel(self, queue):
        while True:
            while not self.nic[queue]:
                self.application[queue].ring()
                yield self.soft[queue].sleep()
            yield self.after(self.kernel_ps, COPIED, queue)
            cost = self.nic[queue].popleft()
            if self.used[queue] == self.slots:
                self.counts[queue]["slots_full"] += 1
            else:
                self.used[queue] += 1
                self.copies[queue].append(cost)

    def stretch(self, queue, left):
        """Work until done, or until the kernel has something to do; how much is left."""
        begin = self.env.now
        try:
            yield self.after(left, DONE, queue)
        except simpy.Interrupt:
            pass
        return left - (self.env.now - begin)

    def free(self, queue):
        self.used[queue] -= 1

    def handler(self, queue):
        copies = self.copies[queue]
        while True:
            while self.nic[queue] or not copies:
                yield self.application[queue].sleep()
            before = copies[0]
            self.current[queue] = self.env.process(self.stretch(queue, before))
            copies[0] = yield self.current[queue]
            self.current[queue] = None
            self.counts[queue]["busy_ps"] += before - copies[0]
            if copies[0] == 0:
                copies.popleft()
                self.handled(queue, 1, partial(self.free, queue))


class WireCap(Engine):
    """Chunks of packets, capture threads, handlers that take each other's chunks."""

    def __init__(self, times, costs, choose, *, M, R, most, capture_ps, timeout_ps, transmit_ps=0):
        self.M, self.most, self.capture_ps, self.timeout_ps = M, most, capture_ps, timeout_ps
        self.choose = choose
        queues = range(len(times))
        self.unused = [R - most for _ in queues]
        self.attached = [most for _ in queues]
        self.filling = [[] for _ in queues]
        self.overdue = [False for _ in queues]
        self.full, self.waiting = [deque() for _ in queues], [deque() for _ in queues]
        self.seen = [0 for _ in queues]
        self.capture_bell, self.handler_bell = {}, {}
        super().__init__(times, costs, transmit_ps)

    def start(self, queue):
        self.capture_bell[queue], self.handler_bell[queue] = Bell(self.env), Bell(self.env)
        self.env.process(self.capture(queue))
        self.env.process(self.handler(queue))

    def arrive(self, queue):
        number, self.seen[queue] = self.seen[queue], self.seen[queue] + 1
        if not self.attached[queue]:
            self.counts[queue]["capture_late" if self.unused[queue] else "pool_exhausted"] += 1
            return
        chunk = self.filling[queue]
        chunk.append(number)
        if len(chunk) == 1:
            self.env.process(self.grow_old(queue, chunk))
        if len(chunk) == self.M:
            self.hand_in(queue)

    def grow_old(self, queue, chunk):
        yield self.after(self.timeout_ps, DUE, queue)
        if self.filling[queue] is chunk:
            self.overdue[queue] = True
            self.look(queue)

    def look(self, queue):
        if self.overdue[queue] and not self.waiting[queue]:
            self.hand_in(queue)

    def hand_in(self, queue):
        self.full[queue].append(self.filling[queue])
        self.filling[queue], self.overdue[queue] = [], False
        self.attached[queue] -= 1
        self.capture_bell[queue].ring()

    def capture(self, queue):
        while True:
            while not self.full[queue]:
                yield self.capture_bell[queue].sleep()
            yield self.after(self.capture_ps, CAPTURED, queue)
            chunk = self.full[queue].popleft()
            self.attach(queue)
            taker = self.choose(queue, [len(waiting) for waiting in self.waiting])
            self.waiting[taker].append((queue, chunk))
            self.handler_bell[taker].ring()

    def attach(self, queue):
        if self.unused[queue] and self.attached[queue] + len(self.full[queue]) < self.most:
            self.unused[queue] -= 1
            self.attached[queue] += 1

    def recycle(self, home):
        self.unused[home] += 1
        self.attach(home)

    def handler(self, queue):
        while True:
            while not self.waiting[queue]:
                yield self.handler_bell[queue].sleep()
            home, chunk = self.waiting[queue].popleft()
            self.look(queue)
            cost = sum(self.costs(home, number) for number in chunk)
            yield self.after(cost, DONE, queue)
            self.counts[queue]["busy_ps"] += cost
            self.counts[home]["offloaded"] += len(chunk) if home != queue else 0
            self.handled(home, len(chunk), partial(self.recycle, home))
