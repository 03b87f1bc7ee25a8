"""The log of offload decisions, as live runs make it."""

from __future__ import annotations

from pathlib import Path

import pytest

from rig import Rig, check_identity, until
from wirecap.engine import decisions
from wirecap.errors import UsageError
from wirecap.handlers.handler import Setting
from wirecap.handlers.pipeline import Pipeline
from wirecap.handlers.pkt_handler import PktHandler
from wirecap.kernels.pool import pool as k


def overload(kept: int) -> Rig:
    """Three queues of which one gets everything, with handlers of 5,000 packets a second."""
    handler = PktHandler.make({"rate": "5000"}, Setting())
    return Rig(Pipeline([handler]), queues=3, M=8, R=12, advanced=True, T=25, decisions=kept)


def test_live_decisions_replay_to_the_same_answers(tmp_path: Path) -> None:
    """Every kept decision of a run with offloading comes out the same when the policy is asked again."""
    with overload(4096) as rig:
        for _ in range(40):
            rig.inject_copies(0, 24)
            until(lambda: rig.engine.depths()[0] < 8)
        rig.stop()
        check_identity(rig.engine, 40 * 24)
        assert rig.engine.summary().total("offloaded") > 0
        log = str(tmp_path / "log.npz")
        made = decisions.save(rig.engine, log)
    assert made == rig.engine.pool.queues[k.CHUNKS :: k.QUEUE_WORDS].sum()
    assert decisions.replay(log) == (made, 0)


def test_the_log_keeps_the_last_decisions(tmp_path: Path) -> None:
    """A log that is shorter than the run holds its end, oldest first."""
    with overload(16) as rig:
        for turn in range(40):
            rig.inject_copies(0, 8)
            rig.done(8 * (turn + 1))
        rig.stop()
        log = str(tmp_path / "log.npz")
        assert decisions.save(rig.engine, log) == 16
    assert decisions.replay(log) == (16, 0)


def test_a_log_that_was_tampered_with_is_found_out(tmp_path: Path) -> None:
    """The replay compares with what was decided, not with itself."""
    with overload(64) as rig:
        rig.inject_copies(0, 64)
        until(lambda: rig.delivered == 64)
        rig.stop()
        rig.engine.pool.decisions[0, 3] = 2 if rig.engine.pool.decisions[0, 3] != 2 else 1
        log = str(tmp_path / "log.npz")
        decisions.save(rig.engine, log)
    assert decisions.replay(log)[1] == 1


def test_a_log_that_cannot_be_written_is_a_usage_error(tmp_path: Path) -> None:
    """The path is named, with a hint."""
    with overload(16) as rig, pytest.raises(UsageError, match="missing"):
        decisions.save(rig.engine, str(tmp_path / "missing" / "log.npz"))
