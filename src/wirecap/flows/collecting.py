"""``wirecap collect``: messages from a broker's stream into a dataset.

The collector keeps its own place in the stream (flows/dataset.py) and asks the broker for what follows, without
acknowledgements: so a message is taken exactly when it is on the disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from wirecap.errors import WirecapError
from wirecap.flows import broker
from wirecap.flows import nats as headers
from wirecap.flows.dataset import Dataset
from wirecap.flows.records import SCHEMA_VERSION, arrow, arrow_schema

BATCH = 256
WAIT_S = 0.5
LOST_WAITS = 20
"""So often in a row a message that was sent is waited for."""
RETRY_S = 0.5
GONE_S = 60.0
"""After this time without a question the broker forgets a collector's consumer."""
_NUMBERS = (headers.SEQUENCE, headers.COUNT, headers.SENT, headers.MADE, headers.SPOOLED)


@dataclass
class Collector:
    """commit_s: how long a record waits at most until it is on the disk.  once: end when the broker has no more.
    over: whether to end.  tell: gets lines about what is wrong."""

    address: broker.Address
    dataset: Dataset
    commit_s: float
    once: bool
    over: Callable[[], bool]
    tell: Callable[[str], None]

    def run(self) -> dict[str, Any]:
        """Collect until all is over; what there is now.  Raises WirecapError."""
        self._unreadable: Counter[str] = Counter()
        self._records = 0
        self._trouble = ""
        try:
            asyncio.run(self._live())
            self._commit()
        finally:
            self.dataset.close()
        return self._summary()

    def _summary(self) -> dict[str, Any]:
        sensors = [seen.as_dict() for _, seen in sorted(self.dataset.sensors.items())]
        return {"records": self._records, "sensors": sensors, "unreadable": dict(self._unreadable)}

    async def _live(self) -> None:
        """Follow the stream over one connection after the other."""
        library = broker.library()
        while not self.over():
            connection = await self._connect()
            try:
                if connection and await self._follow(connection):
                    return
            except (OSError, TimeoutError, library.errors.Error, _LostError) as error:
                self._say(f"{self.address.server}: {broker.reason(error)}")
            if self.dataset.rows:
                self._commit()
            await asyncio.sleep(RETRY_S)

    def _say(self, trouble: str) -> None:
        """Say once what is wrong with the broker."""
        if trouble != self._trouble:
            self.tell(f"{trouble}; trying again")
        self._trouble = trouble

    async def _connect(self) -> Any:
        """A connection; None if there is none yet, and it is to be tried again."""
        try:
            return await broker.connect(self.address, "wirecap collect")
        except WirecapError as error:
            if self.once:
                raise
            self._say(error.message)
            return None

    async def _follow(self, connection: Any) -> bool:
        """Take messages until the connection is lost; whether all is done.

        What the dataset raises ends the collector: of what it was given last, some may be on no disk.
        """
        try:
            js = connection.jetstream()
            name = await broker.stream_of(js, self.address.subject)
            await self._find_place(js, name)
            subscription = await self._subscribe(js, name)
            if self._trouble:
                self.tell(f"{self.address.server}: connected again")
                self._trouble = ""
            self._expected, self._waits = 1, 0
            while not self.over():
                left = await self._take(connection, subscription)
                if self.dataset.rows and (
                    self.dataset.is_full() or time.monotonic() - self.dataset.begun > self.commit_s
                ):
                    self._commit()
                if self.once and not left:
                    return True
            return True
        finally:
            with contextlib.suppress(OSError, TimeoutError):
                await asyncio.wait_for(connection.close(), 1)

    async def _find_place(self, js: Any, name: str) -> None:
        """Go on where the dataset ends, or begin with a stream that is another one than then."""
        info = await js.stream_info(name)
        stream = f"{name} {info.created}"
        if stream != self.dataset.stream or info.state.last_seq < self.dataset.position:
            self.dataset.stream, self.dataset.position = stream, 0

    async def _subscribe(self, js: Any, name: str) -> Any:
        from nats.js import api

        config = api.ConsumerConfig(
            deliver_policy=api.DeliverPolicy.BY_START_SEQUENCE, opt_start_seq=self.dataset.position + 1,
            ack_policy=api.AckPolicy.NONE, inactive_threshold=GONE_S, mem_storage=True,
        )  # fmt: skip
        return await js.pull_subscribe(self.address.subject, stream=name, config=config)

    async def _take(self, connection: Any, subscription: Any) -> bool:
        """Take some messages; whether there may be more."""
        try:
            messages = await subscription.fetch(BATCH, timeout=WAIT_S)
        except TimeoutError:
            messages = []
        if not messages:
            if not connection.is_connected:
                raise _LostError("the connection was lost")
            if self.once:
                about = await subscription.consumer_info()
                if about.num_pending or about.delivered.consumer_seq < self._expected:
                    return bool(about.num_pending)
                self._waits += 1  # a slow broker has sent what has not come yet
                if self._waits > LOST_WAITS:
                    raise _LostError("messages were lost on their way")
            return True
        for message in messages:
            place = message.metadata
            if place.sequence.consumer != self._expected:  # some were lost with a connection
                raise _LostError("messages were lost on their way")
            self._expected, self._waits = self._expected + 1, 0
            self._store(message)
            self.dataset.position = place.sequence.stream
        return bool(messages[-1].metadata.num_pending) or not self.once

    def _store(self, message: Any) -> None:
        """Put a message into the dataset, unless it is there already or cannot be read."""
        given = message.headers or {}
        try:
            version = int(given[headers.SCHEMA])
            if version != SCHEMA_VERSION:
                raise ValueError(f"version {version} of the columns, and this is wirecap for version {SCHEMA_VERSION}")
            number, count, sent, made, spooled = (int(given[name]) for name in _NUMBERS)
            dropped, spool = (
                {str(k): int(v) for k, v in json.loads(given[headers.DROPPED]).items()},
                given[headers.SPOOL],
            )
            batches = _decode(message.data)
            if sum(batch.num_rows for batch in batches) != count:
                raise ValueError("it does not have as many records as it says")
        except (
            KeyError, ValueError, TypeError, AttributeError, OverflowError, RecursionError, OSError,
            arrow().ArrowException,
        ) as error:  # fmt: skip
            if not self._unreadable[message.subject]:
                why = f"no header {error}" if isinstance(error, KeyError) else broker.reason(error)
                self.tell(f"{message.subject}: a message cannot be read: {why}")
            self._unreadable[message.subject] += 1
            return
        seen = self.dataset.seen(message.subject, spool)
        if not seen.add(number):
            return
        for batch in batches:
            self.dataset.add(message.subject, batch)
        seen.records += count
        self._records += count
        if number > seen.last:
            seen.last, seen.sent, seen.made, seen.spooled, seen.dropped = number, sent, made, spooled, dropped

    def _commit(self) -> None:
        for seen in self.dataset.sensors.values():
            gaps = seen.gaps()
            for first, last in [gap for gap in gaps if gap not in seen.told]:
                which = f"message {first} is" if first == last else f"messages {first} to {last} are"
                self.tell(f"{seen.sensor}: {which} missing; {seen.missing_records} records in all gaps so far")
            seen.told = gaps
        self.dataset.commit()


class _LostError(Exception):
    """The way from the broker has to be made anew."""


def _decode(data: bytes) -> list[Any]:
    """The record batches of a message, with the columns of ``arrow_schema``: another release may have more or fewer.

    Raises ArrowException, ValueError, OSError.  Arrow believes what a stream says of offsets and text, unless it is
    asked to look.
    """
    pa = arrow()
    with pa.ipc.open_stream(data) as reader:
        batches = [_fitted(pa, batch, arrow_schema()) for batch in reader]
    for batch in batches:
        batch.validate(full=True)
        pairs = zip(batch.schema, batch.columns, strict=True)
        if any(column.null_count for field, column in pairs if not field.nullable):
            raise ValueError("a value is missing")
    return batches


def _fitted(pa: Any, batch: Any, schema: Any) -> Any:
    """A batch with these columns, null where it has none."""
    if batch.schema.equals(schema):
        return batch
    columns = []
    for field in schema:
        places = batch.schema.get_all_field_indices(field.name)
        if len(places) == 1 and batch.schema.field(places[0]).type == field.type:
            columns.append(batch.column(places[0]))
        elif places or not field.nullable:
            raise ValueError(f"it has no column {field.name} as it should be")
        else:
            columns.append(pa.nulls(batch.num_rows, field.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)
