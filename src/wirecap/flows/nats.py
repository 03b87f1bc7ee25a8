"""Flow records to a NATS broker: ``--to nats://HOST/flows.SITE.SENSOR``.

The exporter's thread puts records into a spool on disk, which costs a write; another thread sends the spool's segments
as messages: Arrow IPC, with the headers below.  A segment is removed once JetStream has acknowledged it, so that
delivery is at least once; by its number others are recognised as the same.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wirecap.config.capture import Spooling
from wirecap.errors import UsageError, WirecapError
from wirecap.flows import broker
from wirecap.flows.records import SCHEMA_VERSION, Records, arrow, arrow_schema
from wirecap.flows.spool import LIMIT, Sealed, Spool
from wirecap.flows.targets import Output
from wirecap.linux import netns

FLOWS = "flows"
"""What subjects begin with."""
SCHEMA, SEQUENCE, SPOOL = "Wirecap-Schema", "Wirecap-Sequence", "Wirecap-Spool"
COUNT, SENT, MADE, SPOOLED, DROPPED = (
    "Wirecap-Records", "Wirecap-Sent", "Wirecap-Made", "Wirecap-Spooled", "Wirecap-Dropped",
)  # fmt: skip
"""Headers of a message: the version of the columns, the segment's number and its spool's id; records in it, and in
all segments up to it; and, when it was sent, records made, those that waited behind this message, and drops as JSON."""
WINDOW = 16
"""Segments that are under way at once."""
ACKNOWLEDGE_S = 5.0
RETRY_S = 0.5
LOOK_S = 0.05
LAST_S = 3.0
"""How long the end of a capture waits for the broker; what is left stays in the spool for the next one."""


def check(rest: str) -> None:
    """Raise UsageError for what is no ``//HOST[:PORT]/SUBJECT``, or if there is no way to send."""
    address = broker.parse(f"nats:{rest}", wildcards=False)
    kind, _, who = address.subject.partition(".")
    if kind != FLOWS or not who:
        raise UsageError(
            f"--to nats:{rest}: {address.subject!r} names no sensor",
            f"write it as nats://HOST/{FLOWS}.SITE.SENSOR: counters go to counters.SITE.SENSOR beside it",
        )
    broker.login(address)
    broker.library()
    arrow()


def state_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Where spools are if nothing else is said: systemd's folder for the service, root's, or the user's."""
    if given := environment.get("STATE_DIRECTORY"):
        return Path(given.split(":")[0]) / "spool"
    if os.geteuid() == 0:
        return Path("/var/lib/wirecap/spool")
    return Path(environment.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "wirecap/spool"


def open_output(target: str, spooling: Spooling) -> Output:
    """The output for ``nats://HOST/SUBJECT`` or ``nats+tls://HOST/SUBJECT``."""
    return NatsOutput(target, spooling)


class NatsOutput(Output):
    """``stored``: records that the spool has taken; ``lost``: those that it has dropped in this run."""

    def __init__(self, target: str, spooling: Spooling) -> None:
        super().__init__(target)
        self.address = broker.parse(target, wildcards=False)
        folder = Path(spooling.folder) if spooling.folder else state_folder()
        self.spool = Spool(folder / self.address.subject, spooling.limit or LIMIT)
        self._dropped_before = self.spool.dropped
        self._put_before = self.spool.put_records
        self._sender = Sender(self.address, self.spool, self.messages)
        netns.call_at_home(self._sender.start)  # --netns says where packets are, not where the broker is

    def write(self, records: Records) -> None:
        self.spool.put(records.words, records.interfaces)
        self._count()

    def tick(self) -> None:
        try:
            self.spool.tick()
        except OSError:  # the disk is full; what the segment has is sent when there is room
            return

    def missed(self, records: int) -> None:
        if records:
            self.spool.drop("export_full", records)

    def _count(self) -> None:
        now = self.spool.dropped
        self.lost = {
            name: now[name] - self._dropped_before[name]
            for name in now
            if name != "export_full" and now[name] > self._dropped_before[name]
        }
        self.stored = self.spool.put_records - self._put_before - self.lost.get("too_large", 0)

    def close(self) -> None:
        try:
            self.spool.seal()
        except OSError:
            pass
        self._sender.end(LAST_S)
        self._count()
        self.way = {"acknowledged": self._sender.acknowledged, "spooled": self.spool.spooled()}
        if self.way["spooled"] and self._sender.trouble:
            self.way["trouble"] = self._sender.trouble
        self.spool.close()

    def discard(self) -> None:
        self._sender.end(0)
        self.spool.close()


class Sender(threading.Thread):
    """Sends sealed segments, in order, as long as there is a broker."""

    def __init__(self, address: broker.Address, spool: Spool, messages: deque[str]) -> None:
        super().__init__(name="flow sender", daemon=True)
        self._address, self._spool, self._messages = address, spool, messages
        self._until = float("inf")
        self.acknowledged = 0
        """Records that JetStream has acknowledged."""
        self.trouble = ""
        """What keeps messages from the broker, if anything does."""

    def end(self, patience_s: float) -> None:
        """Send what is left, for so long."""
        self._until = time.monotonic() + patience_s
        self.join(patience_s + 2 * broker.CONNECT_S)

    def run(self) -> None:
        asyncio.run(self._live())

    def _over(self) -> bool:
        """Whether there is nothing to be done any more."""
        ending = self._until != float("inf")
        return time.monotonic() > self._until or (ending and not self._spool.sealed(1))

    async def _live(self) -> None:
        while not self._over():
            try:
                await self._send()
            except (WirecapError, OSError, TimeoutError, broker.library().errors.Error) as error:
                self._fails(error.message if isinstance(error, WirecapError) else broker.reason(error))
                await asyncio.sleep(min(RETRY_S, max(0.0, self._until - time.monotonic())))

    def _fails(self, trouble: str) -> None:
        if trouble != self.trouble:
            where = "" if trouble.startswith(self._address.server) else f"{self._address.server}: "
            self._messages.append(f"wirecap: {where}{trouble}; flow records wait in {self._spool.folder}")
        self.trouble = trouble

    def _succeeds(self) -> None:
        if self.trouble:
            self._messages.append(f"wirecap: {self._address.server} is there: flow records are sent")
        self.trouble = ""

    async def _send(self) -> None:
        """Send over one connection, until it is lost or all is over.  Raises what went wrong."""
        connection = await broker.connect(self._address, f"wirecap {self._address.subject}")
        try:
            js = connection.jetstream()
            await broker.stream_of(js, self._address.subject)
            while not self._over() and connection.is_connected:
                numbers = self._spool.sealed(WINDOW)
                if not numbers:
                    self._succeeds()
                    await asyncio.sleep(LOOK_S)
                    continue
                sent = await asyncio.gather(
                    *(self._send_one(connection, js, number) for number in numbers), return_exceptions=True
                )
                for failure in sent:
                    if isinstance(failure, BaseException):
                        raise failure
        finally:
            try:
                await asyncio.wait_for(connection.close(), 1)
            except (OSError, TimeoutError):
                pass

    async def _send_one(self, connection: Any, js: Any, number: int) -> None:
        try:
            segment = self._spool.read(number)
            payload, records = encode(segment), len(segment.words)
        except (WirecapError, FileNotFoundError, ValueError, TypeError, LookupError, OverflowError):
            self._set_aside(number)
            return
        if len(payload) > connection.max_payload - 4096:  # the headers' part
            self._spool.drop("too_large", len(segment.words))
            segment = segment._replace(words=segment.words[:0])
            payload = encode(segment)
        await js.publish(self._address.subject, payload, timeout=ACKNOWLEDGE_S, headers=self._headers(segment, records))
        self.acknowledged += len(segment.words)
        self._spool.done(number)
        self._succeeds()

    def _set_aside(self, number: int) -> None:
        """A segment that cannot be read does not hold up the others; collectors see that its number is missing."""
        path = self._spool.set_aside(number)
        self._messages.append(f"wirecap: {path}: this is not a segment of a spool any more; the others are sent")

    def _headers(self, segment: Sealed, records: int) -> dict[str, str]:
        spool = self._spool
        dropped, put = spool.dropped, spool.put_records
        sent = segment.before + records
        return {
            "Nats-Msg-Id": f"{self._address.subject}-{spool.id}-{segment.number}",
            SCHEMA: str(SCHEMA_VERSION), SPOOL: spool.id, SEQUENCE: str(segment.number),
            COUNT: str(len(segment.words)), SENT: str(sent), SPOOLED: str(put - sent),
            MADE: str(put + sum(dropped.values()) - dropped["too_large"]),  # those were put
            DROPPED: json.dumps({name: count for name, count in dropped.items() if count}),
        }  # fmt: skip


def encode(segment: Sealed) -> bytes:
    """Records as an Arrow IPC stream of one batch, compressed."""
    pa = arrow()
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(sink, arrow_schema(), options=options) as writer:
        writer.write_batch(Records(segment.words, segment.interfaces).to_arrow())
    return bytes(sink.getvalue())
