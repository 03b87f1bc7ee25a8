"""What hostile input has found, made small: each of these once ended in a traceback, or in no end."""

from __future__ import annotations

import json
import socket
import struct
import threading
import zlib
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import hostile_peers
from wirecap.config.convert import parse_ranges
from wirecap.config.specs import QueueSpec
from wirecap.errors import UsageError
from wirecap.files import reader
from wirecap.files.index import END_MAGIC, MAGIC, Index, StaleError, sample
from wirecap.filters.expression import compile_filter
from wirecap.flows import broker, collecting
from wirecap.flows import nats as sent
from wirecap.flows.collecting import Collector
from wirecap.flows.dataset import Dataset
from wirecap.flows.records import Records
from wirecap.observe import trigger_socket


@pytest.mark.parametrize("text", ["not " * 400, "!" * 1000])
def test_a_filter_of_nothing_but_not(text: str):
    with pytest.raises(UsageError, match="syntax error"):
        compile_filter(text)


def test_an_interface_that_is_no_text():
    assert QueueSpec.parse("\udcff").interface == "\udcff"  # a byte of a command line that is not UTF-8
    with pytest.raises(UsageError, match="not a valid interface"):
        QueueSpec.parse("\udcff" * 100)


def test_numbers_of_thousands_of_digits():
    with pytest.raises(UsageError, match="above the largest number"):
        QueueSpec.parse("eth1@" + "9" * 5000)
    assert QueueSpec.parse("eth1@" + "0" * 5000 + "7").queues == (7,)
    assert parse_ranges("3-" + "9" * 5000) == parse_ranges("3-")


def index_with(folder: Path, columns: bytes = MAGIC, raw: bytes = b"", **changes: Any) -> Index:
    """An index with a hostile end, whose sum is right."""
    capture = folder / "a.pcap"
    capture.write_bytes(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
    with capture.open("rb") as file:
        known = sample(file.fileno(), 24)
    end = {
        "version": 1, **known, "mtime_ns": capture.stat().st_mtime_ns, "covered": 24, "packets": 0, "first_ns": 0,
        "last_ns": 0, "linktypes": [1], "always": [], "frames": [], "segments": [], **changes,
    }  # fmt: skip
    data = raw or json.dumps(end).encode()
    Path(f"{capture}.wcidx").write_bytes(columns + data + struct.pack("<II", len(data), zlib.crc32(data)) + END_MAGIC)
    return Index(str(capture))


HOSTILE_ENDS: dict[str, dict[str, Any]] = {
    "deep": {"raw": b"[" * 100_000}, "infinite": {"covered": 1e999}, "infinite time": {"first_ns": 1e999},
    "negative": {"covered": -5}, "huge": {"covered": 10**30}, "no segments": {"segments": ["x"]},
    "before the file": {"always": [[-50, -20]]}, "backwards": {"always": [[20, 10]]},
    "out of order": {"always": [[10, 12], [2, 4]]}, "frames": {"frames": [[10**30, 0]]},
    "late frames": {"frames": [[5, 0]]}, "frames behind": {"frames": [[0, 1 << 40]]}, "link": {"linktypes": [10**30]},
    "half a segment": {"segments": [{"blocks": 1, "words": 4, "crc": 0}]},
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_ENDS)
def test_an_index_that_says_what_cannot_be(tmp_path: Path, name: str):
    with pytest.raises(StaleError, match="damaged"):
        index_with(tmp_path, **HOSTILE_ENDS[name])


@pytest.mark.parametrize(
    ("starts", "words"), [((24, 24), 0), ((24, 24), 257), ((-9, 24), 4), ((24, 0), 4), ((0, 1 << 40), 4)]
)
def test_blocks_of_an_index_that_cannot_be(tmp_path: Path, starts: tuple[int, int], words: int):
    columns = np.array([*starts, 0, 0, 0], np.int64).tobytes() + bytes(4 * words)
    described = {"at": len(MAGIC), "blocks": 1, "words": words, "crc": zlib.crc32(columns)}
    index = index_with(tmp_path, MAGIC + columns + bytes(8 * words), segments=[described])
    with pytest.raises(StaleError, match="damaged"):
        index.segments()


def test_a_file_that_describes_interfaces_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reader, "MOST_INTERFACES", 100)
    section = struct.pack("<IIIHHqI", 0x0A0D0D0A, 28, 0x1A2B3C4D, 1, 0, -1, 28)
    path = tmp_path / "many.pcapng"
    path.write_bytes(section + struct.pack("<IIHHII", 1, 20, 1, 0, 0, 20) * 101)
    with pytest.raises(UsageError, match="more than 100 interfaces"):
        reader.open_capture(str(path))


def test_a_trigger_that_comes_in_drops_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(trigger_socket, "_PATIENCE_S", 0.3)
    fired: list[str] = []
    listener = trigger_socket.TriggerSocket(fired.append, tmp_path)
    stop = threading.Event()

    def drop() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as slow:
            slow.connect(str(listener.path))
            began.set()
            try:
                while not stop.wait(0.05):  # well within the patience each time
                    slow.sendall(b"x")
            except OSError:
                ended.set()

    began, ended = threading.Event(), threading.Event()
    thread = threading.Thread(target=drop)
    thread.start()
    try:
        assert began.wait(60)
        assert ended.wait(60), "the socket still listens to a client that never ends"
    finally:
        stop.set()
        thread.join()
        listener.close()
    assert fired == []


def test_triggers_are_heard_after_a_lack_of_descriptors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(trigger_socket, "_PATIENCE_S", 60.0)
    fired = threading.Event()
    listener = trigger_socket.TriggerSocket(lambda name: fired.set(), tmp_path)
    refuse = _Refusing(listener._listener)
    try:
        listener._listener = refuse  # type: ignore[assignment]
        trigger_socket.send(listener.path, "first")  # by the accept that is waiting
        assert refuse.refused.wait(60)
        fired.clear()
        trigger_socket.send(listener.path, "again")
        assert fired.wait(60)
    finally:
        listener.close()


def test_flow_messages_that_lie_are_counted_and_passed_over(tmp_path: Path):
    """Each ended ``wirecap collect``, or had it ask for the same message for ever: damaged flatbuffers, texts that run
    backwards, columns of other types, headers that nest without end or are infinite."""
    pa = collecting.arrow()
    dataset = Dataset(str(tmp_path / "flows" / "%H.parquet"))
    collector = Collector(
        broker.parse("nats://127.0.0.1/a", False), dataset, 1.0, True, lambda: True, list[str]().append
    )
    collector._unreadable, collector._records = Counter(), 0
    good = Records(hostile_peers.flow_words(3)).to_arrow()

    def stream(batch: Any) -> bytes:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        return bytes(sink.getvalue())

    place = good.schema.names.index("sourceIPv4Address")
    buffers = good.columns[place].buffers()
    offsets = pa.py_buffer(np.array([0, 20, 5, 24], np.int32))
    backwards = pa.Array.from_buffers(pa.string(), 3, [None, offsets, buffers[2]])
    text = stream(pa.RecordBatch.from_arrays(
        [backwards if at == place else column for at, column in enumerate(good.columns)], schema=good.schema
    ))  # fmt: skip
    others = stream(pa.RecordBatch.from_arrays([pa.array([1, 2, 3])] * len(good.columns), names=good.schema.names))
    whole = stream(good)
    given = {sent.SCHEMA: "1", sent.SPOOL: "a", sent.COUNT: "3", sent.SENT: "3", sent.MADE: "3", sent.SPOOLED: "0",
             sent.DROPPED: "{}"}  # fmt: skip
    hostile = [(whole[:16] + b"\xff" * 8 + whole[24:], {}), (text, {}), (others, {}),
               (whole, {sent.DROPPED: "[" * 20_000}), (whole, {sent.DROPPED: '{"a": 1e999}'}),
               (whole, {sent.SEQUENCE: "9" * 5000})]  # fmt: skip
    for number, (data, changes) in enumerate([*hostile, (whole, {})]):
        headers = {**given, sent.SEQUENCE: str(number), **changes}
        collector._store(SimpleNamespace(data=data, headers=headers, subject="flows.a"))
    collector._commit()
    dataset.close()
    assert (collector._unreadable["flows.a"], collector._records) == (len(hostile), 3)


class _Refusing:
    """A listener whose next accept fails as where a process has no descriptor left."""

    def __init__(self, real: socket.socket) -> None:
        self._real, self.refused = real, threading.Event()

    def accept(self) -> Any:
        if not self.refused.is_set():
            self.refused.set()
            raise OSError(24, "Too many open files")
        return self._real.accept()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)
