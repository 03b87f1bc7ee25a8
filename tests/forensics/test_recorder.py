"""The recorder on an in-process NIC: losses are found, and explained by whoever had the chunks."""

from __future__ import annotations

import time

import pytest

from rig import Rig, until
from wirecap.config.capture import WriteConfig
from wirecap.forensics import recorder as recorder_module
from wirecap.forensics.explain import explain, lines
from wirecap.forensics.recorder import Recorder
from wirecap.handlers.pipeline import Pipeline
from wirecap.handlers.pkt_handler import Paced
from wirecap.handlers.write import Writer
from wirecap.kernels.base.jit import PURE
from wirecap.kernels.pool.pool import HANDED_CHUNKS

pytestmark = pytest.mark.skipif(PURE, reason="what is lost depends on times")
M, R = 16, 20
TRIES = 20
"""A machine that takes the capture thread's time away makes that the slow one, and is told so: then once more."""


def test_nothing_lost_nothing_said():
    """A run without a loss has none to explain; what arrived is in the history, all of it."""
    with Rig(M=M, R=R) as rig:
        recorder = Recorder(rig.engine)
        recorder.start()
        for _ in range(20):
            until(lambda: rig.room() >= 100)
            rig.inject_copies(0, 100)
            time.sleep(0.001)
        rig.done(2000)
        rig.stop()
        recorder.stop()
        assert explain(recorder) == []
        (arrived,) = recorder.history.named("arrived ").values()
        assert arrived.sum() == recorder.given.sum() == 2000


def test_a_burst_too_long_for_the_pool():
    """Queue 1 of 2 loses what R x M cells do not hold: it is said when, why, and which R would have been enough."""
    for _ in range(TRIES):
        rows, lost, before, after, in_time = _burst()
        if in_time and rows[0]["slow"] != "capture thread":
            break
    (row,) = rows
    assert (row["queue"], row["packets"], row["drops"]) == (1, lost, {"pool_exhausted": lost})
    assert before <= row["first_ns"] <= row["last_ns"] <= after
    assert row["times_of"] == "counters"
    assert row["slow"] == "handler"
    assert row["flows"] == []
    assert "not sampled" in row["flows_note"]
    basic, advanced = row["advice"]
    assert lost < basic["peak_packets"] <= 3000
    assert 0 <= basic["R"] * M - basic["peak_packets"] < 5 * M
    assert basic["simulated"]["lost_with_less"] > 0
    assert advanced["mode"] == "advanced"
    assert advanced["R"] <= basic["R"]
    text = "\n".join(lines([row]))
    assert f"queue 1 lost {lost} packets" in text
    assert f"-R {basic['R']} (simulated: 0 lost" in text


def _burst():
    """What is explained, packets lost, when it began and ended, and whether it came at once."""
    with Rig(Pipeline([Paced(20_000)]), queues=2, M=M, R=R) as rig:
        before = time.time_ns()
        recorder = Recorder(rig.engine)
        recorder.start()
        rig.inject_copies(0, 100)
        begun = time.monotonic()
        rig.inject_copies(1, 3000)
        in_time = time.monotonic() - begun < 0.5
        rig.done(3100)
        rig.stop()
        recorder.stop()
        return explain(recorder), rig.drops()["pool_exhausted"], before, time.time_ns(), in_time


def test_each_time_is_a_loss_of_its_own():
    """Two losses with more than a second between them are two; while the capture runs, the first one is told of."""
    told = []
    with Rig(Pipeline([Paced(20_000)]), M=M, R=R) as rig:
        recorder = Recorder(rig.engine, tell=told.append)
        recorder.start()
        rig.inject_copies(0, 1000)
        until(lambda: told)
        rig.inject_copies(0, 1000)
        rig.done(2000)
        rig.stop()
        recorder.stop()
        losses = recorder.losses.all()
        assert len(losses) == 2
        assert losses[0] is told[0]
        assert sum(loss.packets for loss in losses) == rig.drops()["pool_exhausted"]
        assert losses[0].last_ns < losses[1].first_ns


def test_buddies_get_chunks():
    """What was handed from which queue to whose handler is in the table, as the engine counts it."""
    with Rig(Pipeline([Paced(20_000)]), queues=2, M=M, R=R, advanced=True, T=20) as rig:
        recorder = Recorder(rig.engine)
        recorder.start()
        rig.inject_copies(0, 320)
        rig.done(320)
        rig.stop()
        recorder.stop()
        summary = rig.engine.summary()
        assert recorder.given[0].sum() == 320
        assert recorder.given[0, 1] == summary.queues[0].offloaded > 0
        assert sum(series.sum() for series in recorder.history.named("offloaded ").values()) == recorder.given[0, 1]


@pytest.mark.parametrize("behind", [True, False])
def test_who_is_slow_behind_the_handlers(tmp_path, behind):
    """Where a writer has the chunks it is the writer, or the disk if that is what it waits for."""
    for number in range(TRIES):
        rows = _behind(tmp_path / f"out{number}", behind)
        if not any(row["slow"] == "capture thread" for row in rows):
            break
    for row in rows:
        assert row["slow"] == ("disk" if behind else "writer")


def _behind(path, behind):
    writer = Writer(WriteConfig(path=str(path)))
    with Rig(Pipeline([], writer), M=M, R=R) as rig:
        recorder = Recorder(rig.engine, disk=lambda: behind)
        recorder.start()
        rig.inject_copies(0, 5000)
        rig.done(5000)
        until(lambda: recorder.losses.going_on() or recorder.losses.all() or not rig.drops())
        rig.stop()
        recorder.stop()
        rows = explain(recorder)
        assert bool(rows) == bool(rig.drops())
        return rows


def test_a_clock_that_jumps():
    """Packets with times from anywhere are counted once, at the time at which they are found."""
    with Rig(M=M, R=R) as rig:
        recorder = Recorder(rig.engine)
        recorder.start()
        for jump in (0, -(10**18), 10**18, 3):
            rig.inject(0, [bytes(60)] * 10, [time.time_ns() + jump] * 10)
        rig.done(40)
        rig.stop()
        recorder.stop()
        (arrived,) = recorder.history.named("arrived ").values()
        assert arrived.sum() == 40


def test_more_chunks_than_are_remembered(monkeypatch):
    """Chunks that were forgotten before anybody looked are counted all the same, when somebody does."""
    monkeypatch.setattr(recorder_module, "INTERVAL_S", 60)
    count = HANDED_CHUNKS + 1000
    with Rig(M=1, R=count) as rig:
        recorder = Recorder(rig.engine)
        recorder.start()
        for _ in range(count):
            rig.inject_copies(0, 1)
        rig.done(count)
        rig.stop()
        recorder.stop()
        (arrived,) = recorder.history.named("arrived ").values()
        assert arrived.sum() == count
