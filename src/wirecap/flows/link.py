"""Counters to a broker and triggers from one, beside the flow records of a live capture: plain NATS messages.

Of ``flows.SITE.SENSOR``, counters go to ``counters.SITE.SENSOR``; triggers come on ``triggers.SITE.SENSOR``,
``triggers.SITE`` and ``triggers``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable
from typing import Any

from wirecap.errors import UsageError, WirecapError
from wirecap.flows import broker

COUNTERS, TRIGGERS = "counters", "triggers"
EVERY_S = 5.0
RETRY_S = 1.0
LOOK_S = 0.1
ANSWER_S = 2.0
"""How long the sender of a trigger waits for sensors to answer."""


class Link(threading.Thread):
    """Lives until ``end``; nothing that fails here touches the capture.

    counters: what to publish, an object for JSON.  fire: what a trigger's name is given to, and raises UsageError for
    a bad one; None where nothing is kept.
    """

    def __init__(self, target: str, counters: Callable[[], Any], fire: Callable[[str], None] | None) -> None:
        super().__init__(name="broker link", daemon=True)
        self._address, self._counters, self._fire = broker.parse(target, wildcards=False), counters, fire
        self._place = self._address.subject.split(".")[1:]
        self._over = threading.Event()

    def end(self) -> None:
        self._over.set()
        self.join(2 * broker.CONNECT_S)

    def run(self) -> None:
        with contextlib.suppress(Exception):  # a thread's traceback would be printed, and help nobody
            asyncio.run(self._live())

    async def _live(self) -> None:
        errors = (WirecapError, OSError, TimeoutError, broker.library().errors.Error)
        while not self._over.is_set():
            with contextlib.suppress(*errors):
                await self._follow()
            end = time.monotonic() + RETRY_S
            while not self._over.is_set() and time.monotonic() < end:
                await asyncio.sleep(LOOK_S)

    async def _follow(self) -> None:
        """One connection, until it is lost or all is over."""
        connection = await broker.connect(self._address, f"wirecap {self._address.subject} counters")
        try:
            for length in range(len(self._place) + 1) if self._fire else ():
                await connection.subscribe(".".join([TRIGGERS, *self._place[:length]]), cb=self._triggered)
            last = False
            while connection.is_connected and not last:
                last = self._over.is_set()  # the last ones are published, too
                said = json.dumps({"sensor": self._address.subject, **self._counters()}, default=vars)
                await connection.publish(".".join([COUNTERS, *self._place]), said.encode())
                await connection.flush(timeout=2)
                end = time.monotonic() + EVERY_S
                while connection.is_connected and not self._over.is_set() and time.monotonic() < end:
                    await asyncio.sleep(LOOK_S)
        finally:
            with contextlib.suppress(OSError, TimeoutError):
                await asyncio.wait_for(connection.close(), 1)

    async def _triggered(self, message: Any) -> None:
        assert self._fire
        try:
            self._fire(message.data.decode(errors="replace"))
            answer = "saves what it keeps"
        except UsageError as error:
            answer = f"refuses: {error.message}"
        if message.reply:
            await message.respond(json.dumps([self._address.subject, answer]).encode())


def send_trigger(text: str, name: str) -> list[tuple[str, str]]:
    """Tell sensors to save what they keep; (sensor, what it answers) of those that did.  Raises WirecapError."""
    address = broker.parse(text, wildcards=False)
    if address.subject.split(".")[0] != TRIGGERS:
        raise UsageError(f"{text}: triggers have subjects of their own", "write nats://HOST/triggers.SITE.SENSOR")
    broker.login(address)
    return sorted(asyncio.run(_send(address, name)))


async def _send(address: broker.Address, name: str) -> list[tuple[str, str]]:
    connection = await broker.connect(address, "wirecap trigger")
    try:
        inbox, found = connection.new_inbox(), []
        answers = await connection.subscribe(inbox)
        await connection.publish(address.subject, name.encode(), reply=inbox)
        end = time.monotonic() + ANSWER_S
        with contextlib.suppress(TimeoutError):
            while (left := end - time.monotonic()) > 0:
                message = await answers.next_msg(timeout=left)
                if (message.headers or {}).get("Status") == "503":  # nobody listens
                    break
                sensor, answer = json.loads(message.data)
                found.append((str(sensor), str(answer)))
        return found
    finally:
        with contextlib.suppress(OSError, TimeoutError):
            await asyncio.wait_for(connection.close(), 1)
