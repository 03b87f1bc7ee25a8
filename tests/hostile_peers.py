"""Hostile bytes from whoever connects or publishes: the sockets of a capture, and flow messages from a broker."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from types import SimpleNamespace
from typing import Any

import numpy as np

import rig
import states
from hostile_python import FILTER_WORDS, PythonTarget, changed
from wirecap.config.endpoint import Endpoint
from wirecap.config.keep import trigger_name
from wirecap.config.serve import ServeConfig
from wirecap.errors import WirecapError
from wirecap.flows import broker, collecting
from wirecap.flows import nats as sent
from wirecap.flows.collecting import Collector
from wirecap.flows.dataset import Dataset
from wirecap.flows.nats import encode
from wirecap.flows.records import Records
from wirecap.flows.spool import Sealed
from wirecap.handlers.pipeline import Pipeline
from wirecap.handlers.serve import Server
from wirecap.kernels.flows import layout as f
from wirecap.observe.counters import Counters
from wirecap.observe.metrics import MetricsServer
from wirecap.observe.trigger_socket import TriggerSocket, send

PATIENCE_S = 100.0
ODD_HEADERS = ("", "-1", "9" * 5000, "9" * 30, "x", "1e3", "[" * 20_000, '{"a": {}}', '{"a": 1e999}', "\udcff", "{}")


class SilentError(Exception):
    """A server that does not answer a well-behaved client any more, or a thread of one that has failed."""


def flow_words(count: int, first: int = 0) -> Any:
    """Records of flows as a table makes them, of both versions of IP."""
    found = np.zeros((count, f.ENTRY_WORDS), np.int64)
    found[:, f.A_LOW], found[:, f.B_LOW] = 0x0A000001, 0x0A000002
    found[:, f.KEY] = 17 << f.PROTOCOL | 53 << f.PORT_B
    found[:, f.FIRST] = found[:, f.LAST] = (1_700_000_000 + first + np.arange(count)) * 1_000_000_000
    found[:, f.PACKETS] = 5
    return found


class Messages(PythonTarget):
    """Flow messages for ``wirecap collect``, whose Arrow streams and headers are changed; counters for ``top``."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        pa = collecting.arrow()
        self.streams = []
        for count in (0, 1, 7, 60):
            batch = Records(flow_words(count)).to_arrow()
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, batch.schema) as writer:
                writer.write_batch(batch)
            self.streams += [(count, bytes(sink.getvalue())), (count, encode(Sealed(1, 0, flow_words(count))))]
        self.counters = states.counters_of(states.queue_of(received=9, pool_exhausted=2)).to_json()
        self.number, self.lines = 0, list[str]()
        self._begin()

    def _begin(self) -> None:
        dataset = Dataset(str(self.work / f"flows{self.number}" / "%H.parquet"))
        address = broker.parse("nats://127.0.0.1/flows.a.b", False)
        self.collector = Collector(address, dataset, 1.0, True, lambda: True, self.lines.append)
        self.collector._unreadable, self.collector._records = collecting.Counter(), 0

    def close(self) -> None:
        self.collector.dataset.close()

    def attempt(self) -> Any:
        dice = self.dice
        self.number += 1
        if dice.random() < 0.1:
            self.case = changed(dice, self.counters, [self.counters, b"[" * 9000, b'{"M":' * 9000])
            with contextlib.suppress(ValueError):
                return len(Counters.from_json(self.case).queues)
            return "refused"
        count, data = dice.choice(self.streams)
        data = changed(dice, data, [data, self.counters]) if dice.random() < 0.9 else data
        self.case = data
        given = {
            sent.SCHEMA: "1", sent.SPOOL: "a", sent.SEQUENCE: str(self.number), sent.COUNT: str(count),
            sent.SENT: "1", sent.MADE: "1", sent.SPOOLED: "0", sent.DROPPED: "{}",
        }  # fmt: skip
        for _ in range(dice.choice([0, 0, 0, 1, 2])):
            given[dice.choice(list(given))] = dice.choice(ODD_HEADERS)
        before = self.collector._records
        self.collector._store(SimpleNamespace(data=data, headers=given, subject="flows.a.b"))
        if self.number % 500 == 0:
            self.collector._commit()
            self.collector.dataset.close()
            self._begin()
        del self.lines[:]
        return self.collector._records - before


class Servers(PythonTarget):
    """The sockets of ``wirecap trigger``, ``--metrics`` and ``wirecap serve``: after some clients that speak anyhow,
    one that speaks well gets its answer."""

    batch = 50

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.failed: list[str] = []
        threading.excepthook = lambda found: self.failed.append(f"{found.thread}: {found.exc_value!r}")
        self.fired: list[str] = []
        self.triggers = TriggerSocket(lambda name: self.fired.append(trigger_name(name)), self.work)
        counters = states.counters_of(states.queue_of(received=9))
        self.metrics = MetricsServer(Endpoint("127.0.0.1", 0), lambda: counters)
        self.server = Server(ServeConfig(listen=Endpoint("127.0.0.1", 0), clients=8), "", 262144)
        self.rig = rig.Rig(Pipeline([], self.server), 1, M=64, R=64)
        self.server.check(self.rig.source)
        self.rig.engine.start()
        self.doors = {
            "trigger": self._trigger, "metrics": lambda: self._tcp(self.metrics._server.server_address),
            "serve": lambda: self._tcp(self.server._door.listener.getsockname()),
        }  # fmt: skip

    def _trigger(self) -> socket.socket:
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        channel.settimeout(PATIENCE_S)
        channel.connect(str(self.triggers.path))
        return channel

    def _tcp(self, address: Any) -> socket.socket:
        return socket.create_connection(address[:2], PATIENCE_S)

    def close(self) -> None:
        self.triggers.close()
        self.metrics.close()
        self.rig.__exit__()
        self.server.discard()
        threading.excepthook = threading.__excepthook__

    def run(self, count: int) -> None:
        super().run(count)
        self._well_behaved()
        if self.failed:
            raise SilentError(self.failed[0])

    def attempt(self) -> Any:
        dice = self.dice
        door = dice.choice(list(self.doors))
        self.case = self._text(door)
        got = b""
        with contextlib.suppress(OSError), self.doors[door]() as channel:  # it may hang up at any time
            cut = sorted(dice.randrange(len(self.case) + 1) for _ in range(dice.randrange(3)))
            for first, last in zip([0, *cut], [*cut, len(self.case)], strict=True):
                channel.sendall(self.case[first:last])
            if dice.random() < 0.8:
                channel.shutdown(socket.SHUT_WR)
            if door != "metrics" and dice.random() < 0.3:
                got = channel.recv(200)
        return door, got[:30]

    def _text(self, door: str) -> bytes:
        dice = self.dice
        words = " ".join(dice.choice(FILTER_WORDS) for _ in range(dice.randrange(1, 6))).encode(errors="surrogatepass")
        given = {
            "trigger": [b"name", b"", b"x" * 9000, b"\xff\xfe", words],
            "metrics": [b"GET /metrics HTTP/1.1\r\nHost: a\r\nAccept: text/plain\r\n\r\n", b"GET / HTTP/1.0\r\n\r\n",
                        b"POST /metrics HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\nabc",
                        b"GET /metrics?name[]=a HTTP/1.1\r\nAccept-Encoding: gzip\r\n\r\n", b"GET " + b"/" * 70_000],
            "serve": [words + b"\n", b"tcp\n", b"\n", b"x" * 40_000, b"\x16\x03\x01\x02\x00\x01" + bytes(99), words],
        }[door]  # fmt: skip
        data = dice.choice(given)
        return changed(dice, data, given[:1]) if data and dice.random() < 0.7 else data

    def _well_behaved(self) -> None:
        self.fired.clear()
        end = time.monotonic() + PATIENCE_S
        while True:
            try:
                send(self.triggers.path, "well")
                break
            except WirecapError:  # a busy machine takes longer than it waits
                if time.monotonic() > end:
                    raise
        if "well" not in self.fired:  # a client before it may be heard after it
            raise SilentError("the trigger was not heard")
        with self.doors["metrics"]() as channel:
            channel.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            if b"200 OK" not in channel.recv(64):
                raise SilentError("the metrics do not answer")
        end = time.monotonic() + PATIENCE_S
        while True:  # until others' places are free again
            with contextlib.suppress(OSError), self.doors["serve"]() as channel:
                channel.sendall(b"udp\n")
                if channel.recv(4) == b"\n\r\r\n" and self._head_of(channel):
                    return
            if time.monotonic() > end:
                raise SilentError("the door stays shut")
            time.sleep(0.05)

    def _head_of(self, channel: socket.socket) -> bool:
        """Whether this client got the head of a stream, and not the reason why it gets none."""
        return b"udp" in channel.recv(4096)


TARGETS = {"messages": Messages, "servers": Servers}
