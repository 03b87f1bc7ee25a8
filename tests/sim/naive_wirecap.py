"""WireCAP packet by packet, in plain Python: slow, and easy to compare with docs/simulator.md."""

from __future__ import annotations

import heapq
from collections import deque

SENT, DONE, CAPTURED, ARRIVAL, DUE = range(5)
COUNTERS = ("delivered", "offloaded", "forwarded", "pool_exhausted", "capture_late", "busy_ps", "deepest")


class Naive:
    """costs(queue, number) -> ps; choose(home, depths) -> queue; groups and the rest as in WireCap's fields."""

    def __init__(self, times, costs, choose, *, M, R, most, capture_ps, timeout_ps, chunk_ps=0, away=0, transmit_ps=0):
        queues = range(len(times))
        self.times, self.costs, self.choose = times, costs, choose
        self.M, self.most = M, most
        self.capture_ps, self.timeout_ps, self.chunk_ps, self.away = capture_ps, timeout_ps, chunk_ps, away
        self.transmit_ps = transmit_ps
        self.free, self.attached = [R - most for _ in queues], [most for _ in queues]
        self.filling = [[] for _ in queues]  # numbers of the packets in the chunk that is being filled
        self.overdue = [False for _ in queues]
        self.jobs, self.waiting, self.wire = [deque() for _ in queues], [deque() for _ in queues], deque()
        self.served = [None for _ in queues]
        self.seen, self.chunk_number = [0 for _ in queues], [0 for _ in queues]
        self.counts = [dict.fromkeys(COUNTERS, 0) for _ in queues]
        self.ended = 0
        self.events = [(time, ARRIVAL, queue, 0) for queue in queues for time in times[queue]]
        heapq.heapify(self.events)

    def run(self):
        while self.events:
            now, kind, queue, timestamp = heapq.heappop(self.events)
            (self.sent, self.done, self.captured, self.arrive, self.due)[kind](now, queue, timestamp)
        return self

    def later(self, time, kind, queue, timestamp=0):
        heapq.heappush(self.events, (time, kind, queue, timestamp))

    def arrive(self, now, queue, _):
        number, self.seen[queue] = self.seen[queue], self.seen[queue] + 1
        if not self.attached[queue]:
            self.counts[queue]["capture_late" if self.free[queue] else "pool_exhausted"] += 1
            return
        if not self.filling[queue]:
            self.later(now + self.timeout_ps, DUE, queue, self.chunk_number[queue])
        self.filling[queue].append(number)
        if len(self.filling[queue]) == self.M:
            self.detach(now, queue)

    def due(self, now, queue, timestamp):
        if timestamp != self.chunk_number[queue]:
            return  # that chunk is gone
        if not self.waiting[queue]:
            self.detach(now, queue)
        else:
            self.overdue[queue] = True

    def detach(self, now, queue):
        self.jobs[queue].append((queue, self.filling[queue]))
        self.filling[queue], self.overdue[queue] = [], False
        self.chunk_number[queue] += 1
        self.attached[queue] -= 1
        if len(self.jobs[queue]) == 1:
            self.later(now + self.capture_ps, CAPTURED, queue)

    def captured(self, now, queue, _):
        chunk = self.jobs[queue].popleft()
        if self.jobs[queue]:
            self.later(now + self.capture_ps, CAPTURED, queue)
        self.attach(queue)
        taker = self.choose(queue, [len(waiting) for waiting in self.waiting])
        self.waiting[taker].append(chunk)
        if self.served[taker] is None:
            self.take(now, taker)
        self.counts[taker]["deepest"] = max(self.counts[taker]["deepest"], len(self.waiting[taker]))

    def attach(self, queue):
        if self.free[queue] and self.attached[queue] + len(self.jobs[queue]) < self.most:
            self.free[queue] -= 1
            self.attached[queue] += 1

    def take(self, now, queue):
        self.served[queue] = None
        if not self.waiting[queue]:
            return
        home, numbers = self.served[queue] = self.waiting[queue].popleft()
        cost = sum(self.costs(home, number) for number in numbers)
        if home != queue:
            cost += cost * self.away // 100
        self.counts[queue]["busy_ps"] += cost + self.chunk_ps
        self.later(now + cost + self.chunk_ps, DONE, queue)
        if not self.waiting[queue] and self.overdue[queue]:
            self.detach(now, queue)

    def done(self, now, queue, _):
        home, numbers = self.served[queue]
        self.ended = now
        self.counts[home]["delivered"] += len(numbers)
        if home != queue:
            self.counts[home]["offloaded"] += len(numbers)
        if self.transmit_ps:
            self.wire.append((home, len(numbers)))
            if len(self.wire) == 1:
                self.later(now + len(numbers) * self.transmit_ps, SENT, 0)
        else:
            self.recycle(home)
        self.take(now, queue)

    def sent(self, now, _queue, _timestamp):
        home, packets = self.wire.popleft()
        self.counts[home]["forwarded"] += packets
        self.ended = now
        if self.wire:
            self.later(now + self.wire[0][1] * self.transmit_ps, SENT, 0)
        self.recycle(home)

    def recycle(self, home):
        self.free[home] += 1
        self.attach(home)
