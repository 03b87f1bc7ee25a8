"""What a handler is.  handlers/table.py lists those with a name; a user's own is made from a function."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from wirecap.config.bounds import Bounds
from wirecap.config.capture import MAX_SNAPLEN, Spooling, WriteConfig
from wirecap.config.serve import ServeConfig
from wirecap.engine.engine import Engine
from wirecap.errors import UsageError, WirecapError
from wirecap.handlers.printer import Printer
from wirecap.kernels.packet.headers import LINK_TYPES
from wirecap.kernels.pool import pool as k
from wirecap.kernels.pool.handler_loop import KEEP_GOING, NO_FILTER, address_of, everything
from wirecap.source.source import Source

if TYPE_CHECKING:
    from wirecap.files.retention import Retention
    from wirecap.filters.native import LinkFilters
    from wirecap.handlers.parts import Fold
    from wirecap.handlers.triggers import Keeps


@dataclass(frozen=True)
class Selection:
    """A filter as the threads apply it: a kernel of PROCESS_SIGNATURE and its states, as ``by_interface`` has them."""

    kernel: Any = everything
    states: NDArray[np.int64] = field(default_factory=lambda: NO_FILTER)
    owner: LinkFilters | None = None
    """The filter itself, whose code must live as long as it runs."""
    note: str = ""
    """What the user should know of the filter, a line or ""."""
    changeable: bool = False
    """Whether ``states`` has room for another filter (handlers/exchange.py)."""

    @property
    def later_notes(self) -> list[str]:
        """What the user should know of link types that came after the first packets."""
        return [note for note in self.owner.notes if note not in self.note] if self.owner else []

    @cached_property
    def address(self) -> Any:
        """The address by which loops call the kernel, once it is compiled."""
        return address_of(self.kernel)


@dataclass(frozen=True)
class Setting:
    """What a handler may know about the capture that it is made for: its filter, the file to write, and ``--to``."""

    selection: Selection = field(default_factory=Selection)
    filter: str = ""
    write: WriteConfig | None = None
    to: tuple[str, ...] = ()
    """Where flow records go (flows/targets.py)."""
    serve: ServeConfig | None = None
    snaplen: int = MAX_SNAPLEN
    spooling: Spooling = field(default_factory=Spooling)


@dataclass(frozen=True)
class ThreadPlace:
    """What a handler works with on one handler thread.

    words: int64, the handler's own state, and last the chunk's interface; settings: int64 (4,), see
    kernels/pool/handler_loop.py.  editable: handlers may change packets.  count_failure: called with the stage of a
    handler that failed, if the run carries on.
    """

    engine: Engine
    stage: int
    words: NDArray[np.int64]
    settings: NDArray[np.int64]
    editable: bool
    count_failure: Callable[[int], None]

    @property
    def keeps_going(self) -> bool:
        return bool(self.settings[KEEP_GOING])


class Handler:
    """A compiled handler: ``process`` is its kernel, of PROCESS_SIGNATURE (kernels/pool/handler_loop.py).

    The defaults mean: no state, no result, and no code of the user's to compile.
    """

    name: str
    process: Any = None
    in_row: ClassVar[bool] = True
    """Whether it runs on the handler threads, in a chain with others over each chunk."""
    in_python: ClassVar[bool] = False
    """Whether it needs a handler thread whose loop is in Python."""
    has_result: ClassVar[bool] = False
    """Whether the summary lists its result."""
    exports: ClassVar[bool] = False
    """Whether it has records to put where ``--to`` says."""
    divides: ClassVar[bool] = True
    """Whether parts of one file may be handled apart, if files can (``fold``)."""

    @classmethod
    def make(cls, options: Mapping[str, str], setting: Setting) -> Handler:
        """The handler that ``NAME:key=value,...`` asks for; options are checked here.  Raises UsageError."""
        if options:
            raise UsageError(f"handler {cls.name} has no option {next(iter(options))!r}", "leave it out")
        return cls()

    @property
    def follower(self) -> Follower | None:
        """The handler itself, if it has threads of its own behind the chain."""
        return None

    def check(self, source: Source) -> None:
        """Raise UsageError for what it cannot do with the source's packets, as far as that is known before the run."""
        return

    def compile(self, tell: Callable[[str], None]) -> None:
        """Compile the user's own code; ``tell`` gets its name.  Raises UsageError with the user's line."""
        return

    def open(self, engine: Engine, keep_going: bool, editable: bool) -> None:
        """Prepare for the first packet.  editable: the handler may change and drop packets."""
        return

    def state(self, consumer: int) -> NDArray[np.int64]:
        """A thread's own words."""
        return np.zeros(1, np.int64)

    def on_thread(self, place: ThreadPlace) -> Callable[[int, int], None]:
        """The function by which a thread whose loop is in Python handles the first ``count`` packets of a slot."""
        pool = place.engine.pool

        def handle(slot: int, count: int) -> None:
            row = (pool.address[slot], pool.captured[slot], pool.original[slot], pool.timestamp[slot])
            place.words[-1] = pool.meta[slot * k.SLOT_WORDS + k.INTERFACE]
            failed = self.process(pool.arena, *row, count, place.words)
            if failed and not place.keeps_going:
                raise self.failed(place.engine, slot, failed - 1, self.reason(place.words))

        return handle

    def warnings(self) -> list[str]:
        """What the user should know before the first packet."""
        return []

    @property
    def messages(self) -> deque[str]:
        """Lines about how it goes that nobody has shown yet; who shows them takes them out."""
        return deque()

    def discard(self) -> None:
        """End what ``open`` began, where that failed or what came after it; nothing where all ended as it should."""
        return

    def failures(self, words: NDArray[np.int64]) -> int:
        """How many packets it failed on in one thread, if the run carried on."""
        return 0

    def reason(self, words: NDArray[np.int64]) -> str:
        """Why it first failed in one thread."""
        return ""

    def alarms(self) -> list[tuple[str, Any]]:
        """The triggers in its threads' states, once there are these: what each is called, and its table."""
        return []

    def result(self) -> Any:
        """Its result, once all threads have ended."""
        return None

    def fold(self) -> Fold | None:
        """What merges ``part``s of several processes; None if what it does cannot be taken apart."""
        return None

    def keep_parts(self) -> None:
        """``part`` will be asked for; called before ``open``."""

    def part(self) -> Any:
        """In place of ``result``: what its threads counted, to be merged elsewhere."""
        return None

    def explain(self, error: BaseException) -> str:
        """Describe an exception raised while making its result."""
        return f"{type(error).__name__}: {error}"

    def failed(self, engine: Engine, slot: int, packet: int | None, why: str) -> WirecapError:
        """The error that ends the run; packet (also its attribute): its index in the chunk, None for all of it."""
        queue = engine.source.queues[int(engine.pool.meta[slot * k.SLOT_WORDS + k.HOME])]
        time = str(np.datetime64(int(engine.pool.timestamp[slot, packet or 0]), "ns")).replace("T", " ")
        where = f"{queue.interface} queue {queue.queue}" if engine.source.live else queue.interface
        what = "a chunk" if packet is None else f"packet {packet} of a chunk"
        begins = "starting at" if packet is None else "at"
        error = WirecapError(
            f"handler {self.name} failed on {what} of {where} {begins} {time} UTC{': ' if why else ''}{why}",
            "--keep-going counts such packets and carries on",
        )
        vars(error)["packet"] = packet
        return error


def link_of(name: str, link_types: Iterable[int]) -> int:
    """How packets of these link types begin, for a compiled handler of this name.  Raises UsageError if that is unknown
    or differs among them."""
    kinds = sorted(set(link_types)) or [1]
    known = {LINK_TYPES.get(kind) for kind in kinds}
    if len(known) == 1 and None not in known:
        return LINK_TYPES[kinds[0]]
    from wirecap.filters.libpcap import link_name  # libpcap is loaded only for what it says

    if len(known) > 1:
        names = ", ".join(link_name(kind).removeprefix("link type ") for kind in kinds)
        raise UsageError(
            f"handler {name}: the packets have link types {names}",
            "capture each link type on its own: a compiled handler reads only one",
        )
    raise UsageError(
        f"handler {name}: unknown headers of {link_name(kinds[0])}",
        "use a handler in Python, which gets such packets too: @wirecap.chunk_handler",
    )


class Follower(Handler, ABC):
    """A handler with threads of its own, which get chunks from the handler threads or directly from the pool."""

    in_row = False
    per_queue: bool
    """Whether there is a thread for each home queue."""
    printer: Printer | None = None
    """Who prints what is written, if anybody."""
    keeping: Keeps | None = None
    """What has kept packets saved; None where none are kept."""
    retention: Retention | None = None
    """What holds its files within bounds, if there are any."""
    serving: str = ""
    """Where clients connect, if any can."""

    @property
    def follower(self) -> Follower:
        return self

    @abstractmethod
    def count(self, queues: int) -> int:
        """How many threads it has for this many home queues."""

    @abstractmethod
    def of_queue(self, queue: int) -> int:
        """Which of its threads takes a home queue's chunks."""

    @abstractmethod
    def kernels(self) -> list[Any]:
        """The entry points that its threads call, to be compiled ahead."""

    @abstractmethod
    def run(self, engine: Engine, number: int, consumer: int, selection: Selection, direct: bool) -> None:
        """The life of thread ``number``.  direct: it takes chunks, unfiltered, directly from the capture queues."""

    @abstractmethod
    def close(self) -> None: ...

    @property
    def messages(self) -> deque[str]:
        return self.printer.messages if self.printer else deque()

    def report(self, summary: dict[str, Any]) -> None:
        """Add what it alone knows to the summary object."""
        return

    def serving_now(self) -> dict[str, Any] | None:
        """What clients get while it runs, as observe/counters.py has it; None where there are none."""
        return None

    @abstractmethod
    def flush(self) -> None:
        """Let readers of its output soon see what has been captured."""

    def disk_is_behind(self) -> bool:
        """Whether it waits at this moment until what it has put together is written."""
        return False

    def bound_by(self, bounds: Bounds) -> Callable[[], None]:
        """What holds its files within other bounds from now on.  Raises UsageError if they cannot be."""
        raise UsageError("there are no files to bound", "restart the capture")

    @property
    def packets_written(self) -> int:
        """Into files, as the next two; none where it writes no files."""
        return 0

    @property
    def files_written(self) -> int:
        return 0

    @property
    def bytes_written(self) -> int:
        return 0

    @property
    def late(self) -> int:
        """Packets that came too late for their place in order of time."""
        return 0

    @property
    @abstractmethod
    def notes(self) -> list[str]:
        """What its output could not hold as it was, a sentence for each."""
