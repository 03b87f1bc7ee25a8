"""Filter programs as native code of this host, compiled by LLVM, which is imported only for a new program.

The code is kept beside the kernels, by a digest of the program and of what makes code of it.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wirecap.filters.apart import apart
from wirecap.filters.expand import plain
from wirecap.filters.metadata import Link
from wirecap.filters.program import Program
from wirecap.filters.tables import bits_of, table_of
from wirecap.kernels.base import cache as kept
from wirecap.kernels.base import image
from wirecap.kernels.base.jit import PURE
from wirecap.kernels.handlers import filter as kernels
from wirecap.kernels.pool.handler_loop import by_interface

MOST_KEPT = 500
"""Programs whose code is kept: every expression leaves one behind."""

_lock = threading.Lock()


class NativeFilter:
    """A compiled filter: ``process`` (a kernel) with ``state`` (its int64 array).

    ``process(arena, address, captured, original, timestamp, n, state)`` brings the descriptors that match to the
    front of the rows, in order, the others behind them, and returns how many match.  The code lives as long
    as this object: keep it while a kernel may run.  ``state`` is only read; threads may share it.
    """

    process = staticmethod(kernels.select)

    def __init__(self, program: Program) -> None:
        self.program = program
        self._code: image.Code | None = None
        self._tables = [table_of(keys) for keys in program.sets]
        compiled = {} if PURE else apart(self._load)  # Ctrl-C is heard meanwhile
        assert compiled is not None
        rows = plain(program).instructions if PURE else program.instructions
        self.state = kernels.new_state(rows, compiled.get("test", 0), compiled.get("match", 0), program.reads)

    def repeated(self, times: int) -> npt.NDArray[np.int64]:
        """A state for the kernel ``repeat``, which applies the filter ``times`` times to each packet."""
        state: npt.NDArray[np.int64] = self.state.copy()
        state[kernels.TIMES] = times
        return state

    def _load(self) -> dict[str, int]:
        """The addresses of ``match`` and, where there is one, ``test``."""
        name = f"{_digest_of(self.program)}.code"
        found = image.first_of(folder / "filters" / name for folder in kept.folders())
        if found is None:
            with _lock:
                found = import_module("wirecap.filters.native_code").compile_program(self.program)
            if kept.CACHE_DIR:
                image.write(kept.CACHE_DIR / "filters" / name, found, MOST_KEPT)
        tables = {f"table{number}": table.ctypes.data for number, table in enumerate(self._tables)}
        self._code = image.Code(found, tables)
        return self._code.addresses


@cache
def _makers() -> bytes:
    """The text of the modules that make code of a program."""
    return b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))


def _digest_of(program: Program) -> str:
    sizes = [bits_of(keys) for keys in program.sets]  # the code has the sizes of tables, not what is in them
    digest = hashlib.sha256(_makers() + repr(sizes).encode() + program.instructions.tobytes())
    return digest.hexdigest()[:32]


class LinkFilters:
    """An expression as native code for each link that it meets."""

    process = staticmethod(NativeFilter.process)

    def __init__(
        self, expression: str, links: Iterable[Link], optimise: bool = True, where_it_fits: bool = False
    ) -> None:
        """Raises UsageError where it does not fit one of the links, or no packet of any can match.

        where_it_fits: no packet of such a link matches, and nothing is raised.
        """
        self._expression, self._optimise, self._where_it_fits = expression, optimise, where_it_fits
        self._by_program: dict[Program, NativeFilter] = {}
        self.by_link: dict[Link, NativeFilter] = {}
        self._compile(links)

    def _compile(self, links: Iterable[Link]) -> None:
        from wirecap.filters.expression import compile_each, compile_fitting

        if self._where_it_fits:
            programs = {link: compile_fitting(self._expression, link, self._optimise) for link in links}
        else:
            programs = compile_each(self._expression, links, self._optimise)
        for link, program in programs.items():
            if program not in self._by_program:
                self._by_program[program] = NativeFilter(program)
            self.by_link.setdefault(link, self._by_program[program])

    @property
    def note(self) -> str:
        """What the user should know of it, a line or ""."""
        return "; ".join(self.notes)

    @property
    def notes(self) -> list[str]:
        """The same, a line for each thing; there are more once it has met other links."""
        return list(dict.fromkeys(program.note for program in list(self._by_program) if program.note))

    def states(self, links: Sequence[Link]) -> npt.NDArray[np.int64]:
        """The states for interfaces on these links, as ``by_interface`` lays them out; compiles for new ones."""
        if set(links) - set(self.by_link):
            self._compile([*self.by_link, *links])
        states: npt.NDArray[np.int64] = by_interface([self.by_link[link].state for link in links])
        return states
