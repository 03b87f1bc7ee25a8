"""Every schedule of a few threads, with all that a weakly ordered processor may show each of them.

A thread is a generator (interleaving/plain.py) that asks for accesses.  Some words are declared as shared: only these
may be written by one thread while another looks.  For them each thread has a **view**: the oldest write that it may
still read.  A load may see any write from there on, which covers stores that wait in a store buffer and loads that were
made early.  A release store carries its thread's view, an acquire load takes it over; a plain access of a shared word
does neither; a read-modify-write sees the newest write, and does both; a fence exchanges views with all fences before
it.  All other words must be ordered by those views: an access that is not is a race, and a failure.  So is a thread
that sleeps for ever, an index out of bounds, and whatever a scenario asserts.

Not in this model: loads that are put off until after a later store, and writes of two threads to one word that arrive
in another order than they were made in.

Stores are seen some time: a thread that goes round in vain asks to ("settle",), which is granted to all who ask when no
other thread can do anything, and shows them the newest writes.

States that were seen before are not entered again.  The number of schedules is that of the ways through all states:
each of them is a different order of the accesses to shared words, or another value seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from interleaving.plain import Words


class Again:
    """What a thread's generator returns to go on as a new generator, of which only ``key`` is known."""

    def __init__(self, key: Any) -> None:
        self.key = key


class FoundError(AssertionError):
    """A schedule that goes wrong, with its last accesses."""


class TooManyError(Exception):
    """The schedules do not end, or there are more states than the caller wants."""


@dataclass
class Explored:
    schedules: int
    states: int


class Memory:
    """What a scenario's threads share.  Plain words belong to whoever the shared ones order before all others."""

    def __init__(self) -> None:
        self.values: list[int] = []
        self.shared: set[int] = set()
        self.names: list[str] = []

    def words(self, name: str, values: Any, shared: Any = ()) -> Words:
        """An array with these values (a list, or a list of lists); ``shared``: True, or the indices that are."""
        rows = values if values and isinstance(values[0], list) else None
        flat = [value for row in rows for value in row] if rows else list(values)
        first = len(self.values)
        self.values += flat
        self.names += [f"{name}[{i}]" for i in range(len(flat))]
        self.shared |= {first + i for i in (range(len(flat)) if shared is True else shared or ())}
        return Words(first, len(rows), len(rows[0])) if rows else Words(first, len(flat))


class _Threads:
    """The threads as trees: what a thread asks for next depends only on the answers that it has had."""

    def __init__(self, bodies: list[Callable[[Any], Iterator[Any]]]) -> None:
        self.bodies = bodies
        self.request: list[tuple[Any, ...]] = []
        self._from: list[tuple[int, Any]] = []  # (parent or -1, answer), or the root's (thread, key)
        self._children: dict[Any, int] = {}
        self._live: dict[int, Iterator[Any]] = {}

    def root(self, thread: int, key: Any) -> int:
        name = ("root", thread, key)
        if name not in self._children:
            self._children[name] = self._add(-1, (thread, key), self.bodies[thread](key), None)
        return self._children[name]

    def child(self, parent: int, answer: Any) -> int:
        name = (parent, answer)
        found = self._children.get(name)
        if found is None:
            found = self._add(parent, answer, self._live.pop(parent, None) or self._replay(parent), answer)
            self._children[name] = found
        return found

    def _add(self, parent: int, answer: Any, body: Any, send: Any) -> int:
        try:
            request = body.send(send)
        except StopIteration as stop:
            if isinstance(stop.value, Again):
                return self.root(self._thread(parent), stop.value.key)
            request = ("end", stop.value)
        except (AssertionError, IndexError) as problem:
            request = ("wrong", f"{type(problem).__name__}: {problem}")
        self.request.append(request)
        self._from.append((parent, answer))
        self._live[len(self.request) - 1] = body
        return len(self.request) - 1

    def _thread(self, node: int) -> int:
        while self._from[node][0] >= 0:
            node = self._from[node][0]
        return int(self._from[node][1][0])

    def _replay(self, node: int) -> Any:
        answers = []
        while self._from[node][0] >= 0:
            node, answer = self._from[node]
            answers.append(answer)
        thread, key = self._from[node][1]
        body = self.bodies[thread](key)
        next(body)
        for answer in reversed(answers):
            body.send(answer)
        return body


class _State:
    """Values, writes that may still be read, and threads; a copy for each step."""

    __slots__ = ("fences", "plain", "threads", "writes")

    def __init__(self, plain: Any, writes: Any, threads: Any, fences: Any) -> None:
        self.plain, self.writes, self.threads, self.fences = plain, writes, threads, fences

    def copy(self) -> _State:
        return _State(list(self.plain), list(self.writes), list(self.threads), self.fences)

    def key(self) -> Any:
        return tuple(self.plain), tuple(self.writes), tuple(self.threads), self.fences


# a thread: (its node, known plain words as bits, view of the shared ones, the word it sleeps on or -1)
NODE, KNOWN, VIEW, ASLEEP = range(4)


def explore(
    memory: Memory,
    bodies: list[Callable[[Any], Iterator[Any]]],
    check: Callable[[Callable[[Words, Any], int], list[Any]], None],
    keys: list[Any] | None = None,
    timeouts: bool = False,
    most_states: int = 3_000_000,
) -> Explored:
    """Run every schedule; raises FoundError for one that goes wrong.

    bodies: a function of a key for each thread, which returns its generator.  check(value, results) is called at each
    end; value(array, index) is a word's last value.  timeouts: sleepers may wake by themselves if nobody else can.
    """
    return _Exploration(memory, bodies, check, timeouts, most_states).run(keys or [None] * len(bodies))


class _Exploration:
    def __init__(self, memory: Memory, bodies: Any, check: Any, timeouts: bool, most_states: int) -> None:
        self.memory, self.check, self.timeouts, self.most_states = memory, check, timeouts, most_states
        self.threads = _Threads(bodies)
        self.count = len(bodies)
        plain = [word for word in range(len(memory.values)) if word not in memory.shared]
        self.plain = {word: place for place, word in enumerate(plain)}
        self.places = {word: place for place, word in enumerate(sorted(memory.shared))}

    def run(self, keys: list[Any]) -> Explored:
        """Depth first, without recursion: the ways from a state are known when all that follow it are."""
        everything = (1 << len(self.plain) * (self.count + 1)) - 1
        start = (0,) * len(self.places)
        writes = [((self.memory.values[word], everything, start),) for word in sorted(self.memory.shared)]
        threads = [(self.threads.root(i, key), everything, start, -1) for i, key in enumerate(keys)]
        state = _State([self.memory.values[word] for word in self.plain], writes, threads, (0, start))
        for thread in range(self.count):
            self._run_plain(state, thread)
        self.trail: list[str] = []
        ways: dict[Any, int] = {}
        first = state.key()
        stack = [[first, self._steps(state), 0, None]]
        on_path = {first}
        while stack:
            frame = stack[-1]
            step = next(frame[1], None)
            if step is None:
                stack.pop()
                on_path.discard(frame[0])
                ways[frame[0]] = frame[2]
                if stack:
                    stack[-1][2] += frame[2]
                    self.trail.pop()
                continue
            if step == "end":
                frame[2] = 1
                continue
            text, following = step
            key = following.key()
            if key in ways:
                frame[2] += ways[key]
                continue
            if key in on_path:
                continue  # a turn that changed nothing
            if len(ways) > self.most_states:
                raise TooManyError(f"more than {self.most_states} states")
            self.trail.append(text)
            on_path.add(key)
            stack.append([key, self._steps(following), 0, None])
        return Explored(ways[first], len(ways))

    def _fail(self, text: str) -> None:
        raise FoundError(f"{text}\n" + "\n".join(self.trail[-40:]))

    def _steps(self, state: _State) -> Iterator[Any]:
        """The states that can follow; "end" if none has to."""
        able = False
        for thread in range(self.count):
            node, _, _, asleep = state.threads[thread]
            if asleep >= 0 or self.threads.request[node][0] in ("end", "settle"):
                continue
            able = True
            yield from self._step(state, thread)
        if able:
            return
        settling = [thread for thread in range(self.count) if self._is_settling(state.threads[thread])]
        if settling:
            for thread in settling:
                state = self._after(state, thread, "", None, settled=True)[1]
            yield f"{settling} see all that was written", state
            return
        sleepers = [thread for thread in range(self.count) if state.threads[thread][ASLEEP] >= 0]
        if not sleepers:
            self._check(state)
            yield "end"
        elif not self.timeouts:
            self._fail(f"thread {sleepers} sleeps for ever")
        for thread in sleepers:
            following = state.copy()
            yield f"{thread}: its time is over", self._woken(following, thread)

    def _is_settling(self, thread: Any) -> bool:
        return thread[ASLEEP] < 0 and self.threads.request[thread[NODE]][0] == "settle"

    def _check(self, state: _State) -> None:
        def value(array: Words, index: Any) -> int:
            word = array.word(index)
            return state.plain[self.plain[word]] if word in self.plain else state.writes[self.places[word]][-1][0]

        try:
            self.check(value, [self.threads.request[thread[NODE]][1] for thread in state.threads])
        except AssertionError as problem:
            self._fail(f"at the end: {problem}")

    def _step(self, state: _State, thread: int) -> Iterator[Any]:
        """What one access of a thread can do."""
        node, _, view, _ = state.threads[thread]
        request = self.threads.request[node]
        kind = request[0]
        if kind == "fence":
            yield self._after(state, thread, f"{thread}: fence", None, fence=True)
            return
        word = request[1]
        place = self.places.get(word)
        name = self.memory.names[word]
        if place is None:
            self._fail(f"{thread}: {kind} of {name}, which is not declared as shared")
            return
        written = state.writes[place]
        oldest, newest = view[place], len(written) - 1
        if kind in ("read", "load"):
            for at in range(oldest, newest + 1):
                value = written[at][0]
                text = f"{thread}: {kind} {name} = {value}" + (f", of {newest - at} writes ago" if at < newest else "")
                yield self._after(state, thread, text, value, (place, at), kind == "load")
        elif kind in ("write", "store"):
            text = f"{thread}: {kind} {name} := {request[2]}"
            yield self._after(state, thread, text, None, write=(place, request[2]), release=kind == "store")
        elif kind == "add":
            value = written[newest][0]
            text, new = f"{thread}: add {request[2]} to {name}, which was {value}", (place, value + request[2])
            yield self._after(state, thread, text, value, (place, newest), True, new, True)
        elif kind == "swap":
            value = written[newest][0]
            if value != request[2]:
                text = f"{thread}: no swap of {name}, which was {value}"
                yield self._after(state, thread, text, False, (place, newest), True)
            else:
                text = f"{thread}: swap {name} from {request[2]} to {request[3]}"
                yield self._after(state, thread, text, True, (place, newest), True, (place, request[3]), True)
        elif kind == "wait":
            if written[newest][0] != request[2]:
                yield self._after(state, thread, f"{thread}: does not sleep on {name}", None)
            else:
                following = state.copy()
                following.threads[thread] = (*following.threads[thread][:ASLEEP], word)
                yield f"{thread}: sleeps on {name}", following
        else:
            assert kind == "wake"
            sleepers = [other for other in range(self.count) if state.threads[other][ASLEEP] == word]
            for other in sleepers or [None]:
                text, following = self._after(state, thread, f"{thread}: wakes {other} on {name}", None)
                yield text, following if other is None else self._woken(following, other)

    def _woken(self, state: _State, thread: int) -> _State:
        node, known, view, _ = state.threads[thread]
        state.threads[thread] = (self.threads.child(node, None), known, view, -1)
        self._run_plain(state, thread)
        return state

    def _after(
        self, state: _State, thread: int, text: str, answer: Any, seen: Any = None, acquire: bool = False,
        write: Any = None, release: bool = False, fence: bool = False, settled: bool = False,
    ) -> tuple[str, _State]:  # fmt: skip
        """The state after an access, and after the plain ones that follow it."""
        following = state.copy()
        node, known, view, _ = state.threads[thread]
        if seen:
            place, at = seen
            _, carried, old = state.writes[place][at]
            view = (*view[:place], max(view[place], at), *view[place + 1 :])
            if acquire:
                known, view = known | carried, tuple(map(max, view, old))
        if write:
            place, value = write
            at = len(state.writes[place])
            view = (*view[:place], at, *view[place + 1 :])
            carries = (known, view) if release else (0, (0,) * len(view))
            following.writes[place] = (*state.writes[place], (value, *carries))
        if settled:
            view = tuple(len(writes) - 1 for writes in state.writes)
        if fence:
            known, view = known | state.fences[0], tuple(map(max, view, state.fences[1]))
            following.fences = known, view
        following.threads[thread] = (self.threads.child(node, answer), known, view, -1)
        self.trail.append(text)  # for what goes wrong in the plain accesses
        self._run_plain(following, thread)
        self.trail.pop()
        self._forget(following)
        return text, following

    def _run_plain(self, state: _State, thread: int) -> None:
        """Plain accesses, at once: if the views order them, when they happen makes no difference."""
        node, known, view, asleep = state.threads[thread]
        forgotten, stride = 0, self.count + 1
        while True:
            request = self.threads.request[node]
            if request[0] == "wrong":
                self._fail(f"{thread}: {request[1]}")
            place = self.plain.get(request[1]) if request[0] in ("read", "write", "load", "store") else None
            if place is None:
                break
            written = 1 << place * stride
            if not known & written:
                self._fail(f"{thread}: race on {self.memory.names[request[1]]}: {request[0]} unordered after a write")
            if request[0] in ("read", "load"):
                forgotten |= written << 1 + thread
                known |= written << 1 + thread
                node = self.threads.child(node, state.plain[place])
                continue
            every = (written << stride) - written
            if known & every != every:
                self._fail(f"{thread}: race on {self.memory.names[request[1]]}: write unordered after a read")
            forgotten |= written
            state.plain[place] = request[2]
            node = self.threads.child(node, None)
        if forgotten:
            keep = ~forgotten
            state.threads = [(n, k & keep, v, a) for n, k, v, a in state.threads]
            state.writes = [tuple((value, k & keep, v) for value, k, v in written) for written in state.writes]
            state.fences = state.fences[0] & keep, state.fences[1]
        if self.threads.request[node][0] == "end":
            known, view = 0, (0,) * len(view)
        state.threads[thread] = (node, known, view, asleep)

    def _forget(self, state: _State) -> None:
        """Drop the writes that nobody can read any more."""
        live = [thread[VIEW] for thread in state.threads if self.threads.request[thread[NODE]][0] != "end"]
        oldest = tuple(map(min, zip(*live, strict=True))) if live else tuple(len(w) - 1 for w in state.writes)
        if not any(oldest):
            return

        def moved(view: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(max(0, at - first) for at, first in zip(view, oldest, strict=True))

        state.writes = [
            tuple((value, k, moved(v)) for value, k, v in written[first:])
            for written, first in zip(state.writes, oldest, strict=True)
        ]
        state.threads = [(n, k, moved(v), a) for n, k, v, a in state.threads]
        state.fences = state.fences[0], moved(state.fences[1])
