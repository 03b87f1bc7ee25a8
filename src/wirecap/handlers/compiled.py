"""A user's compiled handler in a pipeline: its kernel, its threads' words, what it came to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wirecap.errors import UsageError
from wirecap.handlers import compile_error
from wirecap.handlers.state import Records
from wirecap.handlers.user import UserHandler
from wirecap.kernels import raised
from wirecap.kernels import user as k
from wirecap.kernels.edit import ALLOWED
from wirecap.kernels.packet import LINK_TYPES


class CompiledHandler:
    """``process`` is the kernel; it is compiled by ``compile``."""

    def __init__(self, user: UserHandler, options: Mapping[str, str] | None = None) -> None:
        self.user, self.name = user, user.name
        self._options = user.options(options or {})
        self.records = Records(user.kind())
        self._function = k.compile_user(user.function)
        self.process = k.build_process(self._function, self.records.kind, self._options)
        self._link = k.UNKNOWN_LINK
        self._keep_going = self._editable = False

    def compile(self, tell: Callable[[str], None]) -> None:
        """Compile, or load what was compiled before.  Raises UsageError with the user's line where it cannot be."""
        try:
            k.compile_process(
                self.process, self._function, self.records.kind, self._options, lambda: tell(f"handler {self.name}")
            )
        except k.ReturnedError as error:
            raise compile_error.returns(self.user, str(error)) from None
        except Exception as error:  # what Numba raises is of many types
            raise compile_error.explain(self.user, error) from error

    def connect(self, link_types: Iterable[int], keep_going: bool, editable: bool = False) -> None:
        """Before the first packet: how packets begin, whether one that fails ends the run, and may be changed."""
        kinds = sorted(set(link_types)) or [1]
        known = {LINK_TYPES.get(kind) for kind in kinds}
        if len(known) > 1:
            raise UsageError(
                f"handler {self.name}: the packets have link types {', '.join(map(str, kinds))}",
                "a compiled handler reads packets of one link type",
            )
        if None in known:
            raise UsageError(
                f"handler {self.name}: headers of link type {kinds[0]} are not known",
                "a handler in Python gets such packets too: @wirecap.chunk_handler",
            )
        self._link, self._keep_going, self._editable = LINK_TYPES[kinds[0]], keep_going, editable

    def state(self, consumer: int) -> NDArray[np.int64]:
        words = np.zeros(k.OPTIONS + len(self._options), np.int64)
        words[k.RECORD] = self.records.new()
        words[k.LINK], words[k.KEEP_GOING] = self._link, self._keep_going
        words[k.EDIT + ALLOWED] = self._editable
        words[k.OPTIONS :] = k.option_words(self._options)
        return words

    def failures(self, words: NDArray[np.int64]) -> int:
        """Packets on which the handler failed, of one thread."""
        return int(words[k.FAILURES])

    def reason(self, words: NDArray[np.int64]) -> str:
        """What the first failure of a thread was, with the user's file and line."""
        what, file, line = raised.explain(int(words[k.RAISED]), self.user.function)
        return f"{what} ({file}, {f'line {line}' if line else f'in {self.name}'})"

    def result(self) -> Any:
        return self.records.merged(self.user.merge)
