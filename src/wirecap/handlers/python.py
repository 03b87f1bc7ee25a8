"""Users' handlers in Python, in a pipeline: called for a chunk, or for each of its packets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wirecap.chunk import Chunk
from wirecap.handlers.failure import reason
from wirecap.handlers.state import Records
from wirecap.handlers.user import UserHandler, Way


class HandlerError(Exception):
    """A handler raised: for which packet of the chunk (None: for the chunk), what and where."""

    def __init__(self, packet: int | None, reason: str) -> None:
        super().__init__(reason)
        self.packet, self.reason = packet, reason


class PythonHandler:
    """A handler of the ways CHUNK and CALLBACK."""

    def __init__(self, user: UserHandler, options: Mapping[str, str] | None = None) -> None:
        self.user, self.name = user, user.name
        values = user.options(options or {})
        self._options = dict(zip(user.defaults, values, strict=True))
        self.records = Records(user.kind())

    def state(self) -> tuple[Any, ...]:
        """A thread's own record, as the last argument of a call; nothing where the function takes none."""
        return (self.records.at(self.records.new()),) if self.user.takes_state else ()

    def call(self, chunk: Chunk, state: tuple[Any, ...], first: int) -> None:
        """Handle the chunk from packet ``first`` on.  Raises HandlerError."""
        number: int | None = None
        try:
            if self.user.way is Way.CHUNK:
                self.user.function(chunk, *state, **self._options)
                return
            function, options, memory = self.user.function, self._options, chunk.arena.data
            stamps, starts, sizes = chunk.timestamps.tolist(), chunk.offsets.tolist(), chunk.lengths.tolist()
            for number in range(first, len(chunk)):
                start = starts[number]
                if sizes[number] == 0 and chunk.editable:
                    continue  # an earlier handler dropped it
                verdict = function(stamps[number], bytes(memory[start : start + sizes[number]]), *state, **options)
                if verdict is False and chunk.editable:
                    chunk.drop(number)
        except BrokenPipeError:
            raise  # the reader of what it prints went away: no packet's fault
        except BaseException as error:  # sys.exit() in a handler ends neither a thread nor the run in silence
            raise HandlerError(number, reason(error, self.user.function)) from error

    def result(self) -> Any:
        """The merged state; None for a function without one."""
        return self.records.merged(self.user.merge) if self.user.takes_state else None
