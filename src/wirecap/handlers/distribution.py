"""The thread of ``wirecap serve`` that looks after clients: lets them in, filters for each, sends, and counts.

All sockets are its own, and none blocks.  What is captured comes in through a bounded backlog, so that the thread that
takes chunks from the pool never waits for a client.
"""

from __future__ import annotations

import os
import selectors
import ssl
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wirecap.errors import WirecapError
from wirecap.files import headers
from wirecap.files.headers import Interface
from wirecap.files.remote import REFUSED
from wirecap.filters.metadata import Link
from wirecap.handlers.clients import LONGEST_LINE, Block, Client, Phase, Wanted, wanted
from wirecap.handlers.door import Door
from wirecap.kernels.file.sift import count_interfaces, scan_state, sift
from wirecap.kernels.handlers.filter import select
from wirecap.kernels.pool.handler_loop import address_of
from wirecap.version import __version__

ASKED_S = 0.25
"""How long a client that has just come may take to send a filter, before it gets everything."""
HANDSHAKE_S = 10.0
TELL_S = 1.0
"""How often clients are told what they have lost."""
CLOSING_S = 5.0
"""How long a client may take nothing before its connection is closed, once nothing follows."""
LINGER_S = 1.0
"""How long we wait for a client to close its connection, which has got everything."""
READS = 16
"""How often a client is read before it is another's turn: it may send without end."""
ROWS = 4096
MOST_TOLD = 100
"""Refusals that are worth a line each; more are only counted: somebody tries doors."""
KEPT_ROWS = 1000
"""Clients of the past that the summary still lists."""

Lost = Callable[[], list[Mapping[str, int]]]
"""What the capture has lost so far, by name, on each interface."""


class Backlog:
    """Blocks on their way from the thread that takes chunks to the one that looks after clients."""

    def __init__(self, limit: int) -> None:
        self._limit, self._bytes = limit, 0
        self._blocks: deque[Block] = deque()
        self._lock = threading.Lock()

    def put(self, block: Block) -> None:
        """What finds no room leaves only its counts, in its place."""
        assert block.data is not None
        with self._lock:
            if self._bytes + block.data.size <= self._limit:
                self._blocks.append(block)
                self._bytes += block.data.size
            elif self._blocks and self._blocks[-1].data is None:
                self._blocks[-1] = Block(None, self._blocks[-1].counts + block.counts)
            else:
                self._blocks.append(Block(None, block.counts))

    def take(self) -> Block | None:
        with self._lock:
            if not self._blocks:
                return None
            block = self._blocks.popleft()
            self._bytes -= 0 if block.data is None else block.data.size
            return block

    def __bool__(self) -> bool:
        return bool(self._blocks)


class Bell:
    """Wakes the thread that looks after clients; its ``fd`` is not written to once it is closed, as others may have the
    number then."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock, self._closed = threading.Lock(), False

    def ring(self) -> None:
        """Any thread may, at any time."""
        with self._lock, suppress(BlockingIOError):
            if not self._closed:
                os.eventfd_write(self.fd, 1)

    def heard(self) -> None:
        with suppress(BlockingIOError):
            os.eventfd_read(self.fd)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            os.close(self.fd)


class Distribution:
    """Clients and what they get.  links: what filters can know of each interface; marked: blocks have epb_flags."""

    def __init__(
        self, door: Door, interfaces: Sequence[Interface], links: list[Link], marked: bool, filter: str, snaplen: int,
        lost: Lost, given_up: Callable[[], bool],
    ) -> None:  # fmt: skip
        self._door, self._interfaces, self._links = door, interfaces, links
        self._marked, self._filter, self._snaplen, self._lost, self._given_up = marked, filter, snaplen, lost, given_up
        self.messages: deque[str] = deque(maxlen=1000)
        """Lines about clients that nobody has shown yet."""
        self.failure: BaseException | None = None
        self.clients: list[Client] = []
        self.past: deque[dict[str, Any]] = deque(maxlen=KEPT_ROWS)
        self.served, self.refused = 0, Counter[str]()
        self.gone_sent, self.gone_bytes, self.gone_drops = 0, 0, Counter[str]()
        """Sums over the clients of the past."""
        self.leaving = threading.Lock()
        """Held while a client goes from those that are there to those of the past: else it would be in neither."""
        self._backlog = Backlog(door.config.buffer)
        self._compiled: deque[tuple[Client, Wanted | WirecapError | None]] = deque()
        self._compiling = 0
        """Filters under way, also of clients that have gone since."""
        self._ending = False
        self._selector = selectors.DefaultSelector()
        self._bell = Bell()
        self._state = scan_state(len(interfaces))
        self._words = np.concatenate([replace(one, resolution=9, offset_s=0).words() for one in interfaces])
        self._rows = (
            np.zeros(ROWS, np.int64), np.zeros(ROWS, np.uint32), np.zeros(ROWS, np.uint32), np.zeros(ROWS, np.int64)
        )  # fmt: skip
        self._thread = threading.Thread(target=self._live, name="wirecap clients", daemon=True)

    # for the thread that takes chunks

    def start(self) -> None:
        self._thread.start()

    @property
    def is_wanted(self) -> bool:
        """Whether anybody gets packets."""
        return any(client.phase is Phase.SERVED for client in list(self.clients))

    def put(self, data: NDArray[np.uint8], packets: int) -> None:
        """Packet blocks for the clients; ``data`` is the caller's again afterwards."""
        if self.is_wanted:
            self._backlog.put(Block(data.copy(), self._counts(data, packets)))
            self._bell.ring()

    def _counts(self, data: NDArray[np.uint8], packets: int) -> NDArray[np.int64]:
        if len(self._interfaces) == 1:
            return np.array([packets], np.int64)
        counts = np.zeros(len(self._interfaces), np.int64)
        count_interfaces(data, data.size, counts)
        return counts

    def end(self) -> None:
        """Nothing more comes: returns once every client has got what it was promised, or takes it no more."""
        self._ending = True
        self._bell.ring()
        self._thread.join()

    # for the thread itself

    def _live(self) -> None:
        try:
            self._look_after()
        except BaseException as error:
            self.failure = error
        finally:
            for client in list(self.clients):
                self._dismiss(client)
            self._selector.close()
            self._bell.close()

    def _look_after(self) -> None:
        self._selector.register(self._bell.fd, selectors.EVENT_READ)
        self._selector.register(self._door.listener, selectors.EVENT_READ)
        told = time.monotonic()
        while self.clients or not self._ending:
            for key, events in self._selector.select(self._patience(told)):
                self._attend(key, events)
            while self._compiled:
                self._compiling -= 1
                self._begin(*self._compiled.popleft())
            if block := self._backlog.take():
                self._distribute(block)
            elif self._ending:
                self._part()
            self._look_at_clocks()
            if time.monotonic() >= told + TELL_S:
                told = time.monotonic()
                self._tell_all()
            if self._given_up():
                return

    def _patience(self, told: float) -> float:
        if self._backlog or (self._ending and any(client.phase is not Phase.CLOSING for client in self.clients)):
            return 0
        return max(0.0, min([told + TELL_S, *(client.deadline for client in self.clients)]) - time.monotonic())

    def _attend(self, key: selectors.SelectorKey, events: int) -> None:
        if key.fd == self._bell.fd:
            self._bell.heard()
        elif key.fileobj is self._door.listener:
            self._admit()
        elif key.data in self.clients:
            self._trying(key.data, lambda: self._serve(key.data, events))

    def _trying(self, client: Client, action: Callable[[], None]) -> None:
        """Do something with a client, which may turn out to be gone."""
        try:
            action()
        except OSError as error:
            if client.phase is Phase.HANDSHAKE:
                self._count_refused("tls", client.name, f"TLS: {getattr(error, 'reason', None) or error}")
            self._dismiss(client)
            return
        if client in self.clients:
            self._watch(client)

    def _admit(self) -> None:
        if self._ending:
            self._selector.unregister(self._door.listener)
            return
        if not (found := self._door.accept()):
            return
        channel, name = found
        if why := self._door.objection(channel, len(self.clients)):
            self._count_refused(why[0], name, why[1])
            channel.close()
            return
        try:
            dressed = self._door.dressed(channel)
        except OSError as error:  # it has hung up since
            self._count_refused("gone", name, f"it was gone at once: {error.strerror or error}")
            channel.close()
            return
        client = Client(dressed, name, self._door.config.buffer, len(self._interfaces))
        self.clients.append(client)
        self._selector.register(client.channel, selectors.EVENT_READ, client)
        if client.encrypted:
            client.phase, client.deadline = Phase.HANDSHAKE, time.monotonic() + HANDSHAKE_S
            self._trying(client, lambda: self._shake_hands(client))
        else:
            client.deadline = time.monotonic() + ASKED_S

    def _count_refused(self, kind: str, name: str, why: str) -> None:
        self.refused[kind] += 1
        if self.refused.total() <= MOST_TOLD:
            self.messages.append(f"wirecap: client {name} refused: {why}")

    def _shake_hands(self, client: Client) -> None:
        assert isinstance(client.channel, ssl.SSLSocket)
        try:
            client.channel.do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as wish:
            client.waiting = isinstance(wish, ssl.SSLWantWriteError)
            return
        client.phase, client.deadline, client.waiting = Phase.ASKED, time.monotonic() + ASKED_S, False
        self._listen(client)

    def _serve(self, client: Client, events: int) -> None:
        if client.phase is Phase.HANDSHAKE:
            self._shake_hands(client)
            return
        if events & selectors.EVENT_READ:
            self._listen(client)
        if events & selectors.EVENT_WRITE:
            self._flush(client)

    def _listen(self, client: Client) -> None:
        """Take in what the client sends: lines, each a filter; of several the last that is not empty counts."""
        for _ in range(READS):
            if not (found := client.read()):
                break
            if client.phase is Phase.CLOSING:
                continue
            client.line += found
            if len(client.line) > LONGEST_LINE:
                self._refuse(client, f"a filter of more than {LONGEST_LINE} bytes")
                return
        if client.phase is Phase.CLOSING:
            if client.half_closed and client.shut:
                self._dismiss(client)
            return
        lines, newline, rest = client.line.rpartition(b"\n")
        if newline:
            client.line = rest
            filled = [line for line in lines.split(b"\n") if line.strip()]  # HTTP's lines end with an empty one
            self._ask(client, filled[-1] if filled else b"")

    def _ask(self, client: Client, line: bytes) -> None:
        """Have a client's filter compiled, elsewhere: that takes time, and names in it may take more."""
        try:
            text = line.decode().strip()
        except UnicodeDecodeError:
            self._refuse(client, "its filter is not UTF-8")
            return
        if client.compiling:
            self._refuse(client, "a second filter while the first was being compiled")
            return
        if self._compiling >= self._door.config.clients:
            self._refuse(client, f"{self._compiling} filters are being compiled already: ask again later")
            return
        client.deadline = float("inf")
        if not client.begun:
            client.phase = Phase.COMPILING
        client.compiling, self._compiling = True, self._compiling + 1
        threading.Thread(target=self._compile, args=(client, text), name="wirecap filter", daemon=True).start()

    def _compile(self, client: Client, text: str) -> None:
        """The life of a thread that compiles one filter."""
        found: Wanted | WirecapError | None
        try:
            found = wanted(text, self._links) if text else None
        except WirecapError as error:
            found = error
        except Exception as error:
            found = WirecapError(f"{type(error).__name__}: {error}")
        self._compiled.append((client, found))
        self._bell.ring()

    def _begin(self, client: Client, found: Wanted | WirecapError | None) -> None:
        """From here on the client gets what its filter wants."""
        client.compiling = False
        if client not in self.clients or client.phase is Phase.CLOSING:
            return
        if isinstance(found, WirecapError):
            self._refuse(client, str(found))
            return
        client.filter, client.deadline = found, float("inf")
        what = f"wants {client.text}" if client.text else "wants everything"
        self.messages.append(f"wirecap: client {client.name} {what}")
        if not client.begun:
            client.tell(self._head(client))
            client.begun, client.phase = True, Phase.SERVED
            client.lost_before = self._lost()
            self.served += 1
        self._trying(client, lambda: self._flush(client))

    def _head(self, client: Client, comment: str = "") -> bytes:
        """What a stream begins with: a section, and all interfaces."""
        both = [text for text in (self._filter, client.text) if text]
        filter = f"({both[0]}) and ({both[1]})" if len(both) == 2 else "".join(both)
        described = b"".join(
            headers.interface_description(
                one.name, min(self._snaplen, one.snaplen or one.largest), one.linktype, filter, one.description
            )
            for one in self._interfaces
        )
        return headers.section_header(f"wirecap {__version__}", [comment] if comment else []) + described

    def _refuse(self, client: Client, why: str) -> None:
        """End a client's stream with the reason."""
        self._count_refused("filter", client.name, why)
        if client.begun:
            self._say_last(client)
            client.tell(headers.interface_statistics(0, time.time_ns(), headers.Statistics(), REFUSED + why))
        else:
            client.tell(self._head(client, REFUSED + why))
        self._close(client)

    def _close(self, client: Client) -> None:
        """Nothing follows what waits for the client."""
        client.phase, client.deadline = Phase.CLOSING, time.monotonic() + CLOSING_S
        self._trying(client, lambda: self._flush(client))

    def _distribute(self, block: Block) -> None:
        """Put a block's packets before every client, each filter run once."""
        chosen: dict[int, Block | None] = {}
        for client in self.clients:
            if client.phase is not Phase.SERVED:
                continue
            key = id(client.filter)
            if key not in chosen:
                chosen[key] = self._sifted(client.filter, block) if client.filter else block
            client.offer(block, chosen[key])
        for client in [one for one in self.clients if one.phase is Phase.SERVED and not one.waiting]:
            self._trying(client, lambda one=client: self._flush(one))  # type: ignore[misc]

    def _sifted(self, filter: Wanted, block: Block) -> Block | None:
        if block.data is None:
            return None
        out, counts = np.empty(block.data.size, np.uint8), np.zeros(len(self._interfaces), np.int64)
        size = sift(
            block.data, block.data.size, self._state, self._words, *self._rows, address_of(select), filter.states,
            int(self._marked), out, counts,
        )  # fmt: skip
        return Block(out[:size].copy(), counts) if size else None

    def _flush(self, client: Client) -> None:
        before = client.queued
        client.flush()
        if client.phase is not Phase.CLOSING:
            return
        if client.queued < before:
            client.deadline = time.monotonic() + CLOSING_S
        if not client.queued and not client.shut:
            client.shut_down()
            client.deadline = time.monotonic() + LINGER_S
            if client.half_closed:
                self._dismiss(client)

    def _watch(self, client: Client) -> None:
        """Wait for what the client's socket can do next."""
        reads = 0 if client.half_closed else selectors.EVENT_READ
        events = reads | (selectors.EVENT_WRITE if client.waiting else 0)
        known = self._selector.get_map().get(client.channel.fileno())
        if known is None and events:
            self._selector.register(client.channel, events, client)
        elif known and not events:
            self._selector.unregister(client.channel)
        elif known and known.events != events:
            self._selector.modify(client.channel, events, client)

    def _look_at_clocks(self) -> None:
        now = time.monotonic()
        for client in [one for one in self.clients if now >= one.deadline]:
            if client.phase is Phase.ASKED:
                self._begin(client, None)
            elif client.phase is Phase.HANDSHAKE:
                self._count_refused("tls", client.name, f"no TLS handshake within {HANDSHAKE_S:g} s")
                self._dismiss(client)
            else:
                self._dismiss(client)

    def _tell_all(self) -> None:
        """Tell clients of new drops; and those that send nothing, to find out whether they are still there."""
        served = [client for client in self.clients if client.phase is Phase.SERVED and not client.untold]
        lost = self._lost() if served else []
        for client in served:
            drops = (client.drops(), lost)
            if client.half_closed or (drops != client.told and any([drops[0], *lost])):
                client.told = drops
                client.tell(client.statistics(lost, ended=False))
                self._trying(client, lambda one=client: self._flush(one))  # type: ignore[misc]

    def _say_last(self, client: Client) -> None:
        client.tell(client.statistics(self._lost(), ended=True))

    def _part(self) -> None:
        """The capture has ended: every client gets its last counters."""
        for client in list(self.clients):
            if client.phase is Phase.SERVED:
                self._say_last(client)
                self._close(client)
            elif client.phase is not Phase.CLOSING:
                self._dismiss(client)

    def _dismiss(self, client: Client) -> None:
        if client not in self.clients:
            return
        with suppress(KeyError, ValueError):
            self._selector.unregister(client.channel)
        client.close()
        with self.leaving:
            self.clients.remove(client)
            if client.begun:
                row = client.row()
                self.past.append(row)
                self.gone_sent, self.gone_bytes = self.gone_sent + row["sent"], self.gone_bytes + row["bytes"]
                self.gone_drops.update(row["drops"])
        if client.begun:
            lost = "".join(f", {count} {name}" for name, count in row["drops"].items())
            self.messages.append(f"wirecap: client {client.name} gone: {row['sent']} packets sent{lost}")
