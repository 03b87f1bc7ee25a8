"""The engines as SimPy processes: another event loop, another way to write them down.

Priorities settle what comes first at one instant, as docs/simulator.md says; a process that another one wakes
goes on before anything else.
"""

from __future__ import annotations

from collections import deque

import simpy

SENT, DONE, CAPTURED, ARRIVAL, DUE = (100 * kind for kind in range(1, 6))


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


def dna(times, cost, slots):
    """(delivered, lost) of one queue."""
    env = simpy.Environment(0)
    bell, ring, counts = Bell(env), deque(), [0, 0]

    def arrive():
        if len(ring) == slots:
            counts[1] += 1
            return
        ring.append(None)
        bell.ring()

    def handler():
        while True:
            while not ring:
                yield bell.sleep()
            yield After(env, cost(counts[0]), DONE)
            ring.popleft()
            counts[0] += 1

    env.process(handler())
    env.process(source(env, times, ARRIVAL, arrive))
    env.run()
    return tuple(counts)


def netmap(times, cost, slots, sync_ps):
    """(delivered, lost) of one queue."""
    env = simpy.Environment(0)
    bell, counts, held, waiting = Bell(env), [0, 0], [0], [0]

    def arrive():
        if held[0] + waiting[0] == slots:
            counts[1] += 1
            return
        waiting[0] += 1
        bell.ring()

    def handler():
        while True:
            while not waiting[0]:
                yield bell.sleep()
            held[0], waiting[0] = waiting[0], 0
            yield After(env, sum(cost(counts[0] + i) for i in range(held[0])) + sync_ps, DONE)
            counts[0] += held[0]
            held[0] = 0

    env.process(handler())
    env.process(source(env, times, ARRIVAL, arrive))
    env.run()
    return tuple(counts)


def pf_ring(times, cost, descriptors, slots, kernel_ps):
    """(delivered, NIC ring full, slots full) of one queue."""
    env = simpy.Environment(0)
    nic, copies, counts = deque(), deque(), [0, 0, 0]
    soft, application = Bell(env), Bell(env)
    current = [None]

    def arrive():
        if len(nic) == descriptors:
            counts[1] += 1
            return
        nic.append(None)
        soft.ring()
        if current[0] is not None and current[0].is_alive:
            current[0].interrupt()

    def kernel():
        while True:
            while not nic:
                application.ring()
                yield soft.sleep()
            yield After(env, kernel_ps, CAPTURED)
            nic.popleft()
            if len(copies) == slots:
                counts[2] += 1
            else:
                copies.append(cost(counts[0] + len(copies)))

    def stretch(left):
        """Work until done, or until the kernel has something to do; how much is left."""
        begin = env.now
        try:
            yield After(env, left, DONE)
        except simpy.Interrupt:
            pass
        return left - (env.now - begin)

    def handler():
        while True:
            while nic or not copies:
                yield application.sleep()
            current[0] = env.process(stretch(copies[0]))
            copies[0] = yield current[0]
            current[0] = None
            if copies[0] == 0:
                copies.popleft()
                counts[0] += 1

    env.process(kernel())
    env.process(handler())
    env.process(source(env, times, ARRIVAL, arrive))
    env.run()
    return tuple(counts)


class WireCap:
    """All queues of a NIC; ``counts`` has (delivered, offloaded, dropped) of each."""

    def __init__(self, times, costs, choose, *, M, R, most, capture_ps, timeout_ps):
        self.env = env = simpy.Environment(0)
        self.M, self.most, self.capture_ps, self.timeout_ps = M, most, capture_ps, timeout_ps
        self.costs, self.choose = costs, choose
        queues = range(len(times))
        self.free = [R - most for _ in queues]
        self.attached = [most for _ in queues]
        self.filling = [[] for _ in queues]
        self.overdue = [False for _ in queues]
        self.full, self.waiting = [deque() for _ in queues], [deque() for _ in queues]
        self.taken = [0 for _ in queues]
        self.counts = [[0, 0, 0] for _ in queues]
        self.capture_bell, self.handler_bell = [Bell(env) for _ in queues], [Bell(env) for _ in queues]
        for queue in queues:
            env.process(self.capture(queue))
            env.process(self.handler(queue))
            env.process(source(env, times[queue], ARRIVAL + queue, lambda queue=queue: self.arrive(queue)))
        env.run()

    def arrive(self, queue):
        if not self.attached[queue]:
            self.counts[queue][2] += 1
            return
        chunk = self.filling[queue]
        chunk.append(self.taken[queue])
        self.taken[queue] += 1
        if len(chunk) == 1:
            self.env.process(self.grow_old(queue, chunk))
        if len(chunk) == self.M:
            self.hand_in(queue)

    def grow_old(self, queue, chunk):
        yield After(self.env, self.timeout_ps, DUE + queue)
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
            yield After(self.env, self.capture_ps, CAPTURED + queue)
            chunk = self.full[queue].popleft()
            self.attach(queue)
            taker = self.choose(queue, [len(waiting) for waiting in self.waiting])
            self.waiting[taker].append((queue, chunk))
            self.handler_bell[taker].ring()

    def attach(self, queue):
        if self.free[queue] and self.attached[queue] + len(self.full[queue]) < self.most:
            self.free[queue] -= 1
            self.attached[queue] += 1

    def handler(self, queue):
        while True:
            while not self.waiting[queue]:
                yield self.handler_bell[queue].sleep()
            home, chunk = self.waiting[queue].popleft()
            self.look(queue)
            yield After(self.env, sum(self.costs(home, number) for number in chunk), DONE + queue)
            self.counts[home][0] += len(chunk)
            self.counts[home][1] += len(chunk) if home != queue else 0
            self.free[home] += 1
            self.attach(home)
