"""Users' handlers in Python, called for a chunk or for each of its packets, and how their failures are reported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from wirecap.engine.chunk import Chunk
from wirecap.handlers.handler import Handler, ThreadPlace
from wirecap.handlers.parts import Fold, Joining, Merging, Summing, fields_of, pickled
from wirecap.handlers.state import Objects, Records
from wirecap.handlers.user import UserHandler, Way, reason_of
from wirecap.kernels.pool import pool as k


class HandlerError(Exception):
    """A handler raised an exception: for which packet of the chunk (None: the whole chunk), what, and where."""

    def __init__(self, packet: int | None, why: str) -> None:
        super().__init__(why)
        self.packet, self.why = packet, why


class PythonHandler(Handler):
    """A handler that is called the CHUNK or the CALLBACK way."""

    in_python = True
    has_result = True

    def __init__(self, user: UserHandler, options: Mapping[str, str] | None = None) -> None:
        self.user, self.name = user, user.name
        values = user.options(options or {})
        self._options = dict(zip(user.defaults, values, strict=True))
        self.records = Records(user.kind())
        self._objects = Objects(user.factory) if user.factory else None

    def on_thread(self, place: ThreadPlace) -> Callable[[int, int], None]:
        engine, pool = place.engine, place.engine.pool
        # The thread's own record, as the last argument of a call, unless the function takes none.
        record = (self._new_state(),) if self.user.takes_state else ()

        def handle(slot: int, count: int) -> None:
            home = engine.source.queues[int(pool.meta[slot * k.SLOT_WORDS + k.HOME])]
            described = engine.source.interfaces[int(pool.meta[slot * k.SLOT_WORDS + k.INTERFACE])]
            first = 0
            while first < count:
                chunk = Chunk(pool, slot, count, home, lambda: None, place.editable, described)
                try:
                    self.call(chunk, record, first)
                    return
                except HandlerError as error:
                    if not place.keeps_going:
                        raise self.failed(engine, slot, error.packet, error.why) from error.__cause__
                    place.count_failure(place.stage)
                    first = count if error.packet is None else error.packet + 1
                finally:
                    chunk.release()

        return handle

    def _new_state(self) -> Any:
        return self._objects.new() if self._objects else self.records.at(self.records.new())

    def call(self, chunk: Chunk, state: tuple[Any, ...], first: int) -> None:
        """Handle the chunk from packet ``first`` on.  Raises HandlerError."""
        number: int | None = None
        try:
            if self.user.way is Way.CHUNK:
                self.user.function(chunk, *state, **self._options)
                return
            function, options, memory = self.user.function, self._options, chunk.arena.data
            timestamps, starts, sizes = chunk.timestamps.tolist(), chunk.offsets.tolist(), chunk.lengths.tolist()
            for number in range(first, len(chunk)):
                start = starts[number]
                if sizes[number] == 0 and chunk.editable:
                    continue  # an earlier handler dropped it
                verdict = function(timestamps[number], bytes(memory[start : start + sizes[number]]), *state, **options)
                if verdict is False and chunk.editable:
                    chunk.drop(number)
        except BrokenPipeError as error:
            vars(error)["packet"] = number
            raise  # the reader of its output has gone away, which is no packet's fault
        except BaseException as error:  # sys.exit() in a handler must not silently end a thread or the run
            raise HandlerError(number, reason_of(error, self.user.function)) from error

    def result(self) -> Any:
        """The merged state; None for a function without one."""
        if self._objects:
            return self._objects.merged(self.user.merge)
        return self.records.merged(self.user.merge) if self.user.takes_state else None

    def fold(self) -> Fold | None:
        if not self.user.takes_state:  # whatever it does, it does in order
            return None
        if self.user.factory:
            return Joining(self.user.factory, self.user.merge)
        kind, merge = self.records.kind, self.user.merge
        return Merging(kind, {}, merge) if merge else Summing(kind, {})

    def part(self) -> Any:
        if self._objects:
            return pickled(self.name, self._objects.all())
        return self.records.copies() if self.user.merge else fields_of(self.records)

    def explain(self, error: BaseException) -> str:
        return reason_of(error, self.user.merge or self.user.function)
