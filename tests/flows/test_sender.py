"""From the spool to a broker: segments that are damaged, a broker that is away."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rig import until
from wirecap.config.capture import Spooling
from wirecap.errors import WirecapError
from wirecap.flows import broker, nats
from wirecap.flows.nats import SEQUENCE, NatsOutput
from wirecap.flows.records import Records
from wirecap.flows.spool import HEADER_WORDS, RECORD_BYTES, Spool
from wirecap.kernels.flows import layout as f


def words(count: int) -> Any:
    return np.zeros((count, f.ENTRY_WORDS), np.int64)


class FakeBroker:
    """A broker's connection that takes everything, once ``there``."""

    is_connected, max_payload, there = True, 1 << 20, True

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sent: list[int] = []
        monkeypatch.setattr(broker, "connect", self._connect)
        monkeypatch.setattr(broker, "stream_of", self._stream_of)

    async def _connect(self, address: broker.Address, name: str) -> FakeBroker:
        if not self.there:
            raise WirecapError(f"{address.server}: connection refused", "see that the broker runs")
        return self

    async def _stream_of(self, js: Any, subject: str) -> str:
        return "stream"

    def jetstream(self) -> FakeBroker:
        return self

    async def publish(self, subject: str, payload: bytes, timeout: float, headers: dict[str, str]) -> None:
        self.sent.append(int(headers[SEQUENCE]))

    async def close(self) -> None: ...


def test_segments_that_are_damaged(tmp_path, monkeypatch):
    """After a power failure some may be empty, or nothing of a segment: they hold up neither the capture nor others."""
    one = Spool(tmp_path / "flows.a.b")
    for count in (3, 4, 5, 6, 7):
        one.put(words(count))
        one.seal()
    one.close()
    before = sorted((tmp_path / "flows.a.b").glob("*.flows"))
    before[1].write_bytes(b"")
    before[2].write_bytes(bytes(8 * HEADER_WORDS + 5 * RECORD_BYTES))
    before[-1].write_bytes(before[-1].read_bytes()[:100])
    server = FakeBroker(monkeypatch)
    output = NatsOutput("nats://127.0.0.1/flows.a.b", Spooling(str(tmp_path)))
    until(lambda: not output.spool.sealed(1))
    output.write(Records(words(2)))
    output.close()
    assert server.sent == [1, 4, 5, 7]
    assert output.way == {"acknowledged": 3 + 6 + 7 + 2, "spooled": 0}
    assert output.spool.put_records == 3 + 4 + 5 + 6 + 7 + 2
    assert [line.partition(": ")[2].partition(": ")[0] for line in output.messages] == [
        str(path.with_suffix(".damaged")) for path in (before[1], before[2], before[-1])
    ]
    assert sorted((tmp_path / "flows.a.b").glob("*.flows")) == [tmp_path / "flows.a.b" / f"{8:012}.flows"]


def test_a_broker_that_is_away_is_told(tmp_path, monkeypatch):
    """A line when the capture begins, though there is nothing to send yet, and one when the broker is there."""
    monkeypatch.setattr(nats, "RETRY_S", 0.01)
    server = FakeBroker(monkeypatch)
    server.there = False
    output = NatsOutput("nats://127.0.0.1/flows.a.b", Spooling(str(tmp_path)))
    until(lambda: output.messages)
    server.there = True
    until(lambda: len(output.messages) == 2)
    output.close()
    assert list(output.messages) == [
        f"wirecap: nats://127.0.0.1:4222: connection refused; flow records wait in {tmp_path}/flows.a.b",
        "wirecap: nats://127.0.0.1:4222 is there: flow records are sent",
    ]
