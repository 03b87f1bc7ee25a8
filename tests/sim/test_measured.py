"""What a plan takes from a run's summary."""

from __future__ import annotations

import copy
import json
import math

import hypothesis.strategies as st
import pytest
from hypothesis import example, given

from wirecap.errors import UsageError
from wirecap.sim import plan

SUMMARY = {
    "engine": "xdp",
    "mode": "basic",
    "duration_s": 2.0,
    "packets": {"received": 1000, "drops": {"pool_exhausted": 400}},
    "bytes": {"received": 60_000},
    "per_queue": [
        {"received": 900, "delivered": 500, "drops": {"pool_exhausted": 400}},
        {"received": 100, "delivered": 100, "drops": {}},
    ],
}
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["results", *SUMMARY]), inner),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """Read an object as a summary's file."""
    file = tmp_path_factory.mktemp("measured") / "summary.json"

    def of(found):
        file.write_text(json.dumps(found))
        return plan.read_summary(str(file))

    return of


def places(part, path=()):
    """The path of every part of an object, the whole one included."""
    yield path
    for key in part if isinstance(part, dict) else range(len(part)) if isinstance(part, list) else ():
        yield from places(part[key], (*path, key))


def test_a_summary(read):
    """A summary gives queues, worst share, mean rate and frames, and a handler's rate where a queue was overloaded."""
    assert read(SUMMARY) == plan.Measured(2, 0.9, 500.0, 64, 250.0)
    # in advanced mode the other queue's handler did a part of it
    assert read(SUMMARY | {"mode": "advanced"}).handler_pps == 150.0


@pytest.mark.parametrize("name", ["pool_exhausted", "ring_full", "nic_ring_full", "slots_full"])
def test_full_buffers_of_every_engine_tell_the_handlers_rate(read, name):
    """Every engine, live or simulated, has a drop that says that its handler was too slow; no other drop says so."""
    summary = copy.deepcopy(SUMMARY)
    summary["per_queue"][0]["drops"] = {name: 400}
    assert read(summary).handler_pps == 250.0
    summary["per_queue"][0]["drops"] = {name: 0, "oversize": 400}
    assert read(summary).handler_pps is None


def test_frames_are_those_whose_bytes_were_counted(read):
    """The packet engine counts the bytes of what it did not lose, other engines those of every packet; the simulator
    none; each frame has its check sequence besides."""
    lossy = SUMMARY | {"packets": {"drops": {"pool_exhausted": 400, "capture_late": 100, "unread_at_stop": 7}}}
    assert read(lossy | {"bytes": {"received": 100_000}}).frame_bytes == 104
    assert read(lossy | {"bytes": {"received": 100_000}, "engine": "packet"}).frame_bytes == 204
    assert read({name: SUMMARY[name] for name in SUMMARY if name != "bytes"}).frame_bytes is None


def test_a_file_has_no_rate(read):
    """Packets from a file come as fast as they are read, which is no rate to plan for."""
    assert read(SUMMARY | {"engine": "file"}).mean_pps == 0


def test_what_simulate_writes(read):
    """``simulate --json`` wraps its summaries: one is taken, of several one has to be named."""
    assert read({"workload": "x", "results": [SUMMARY]}) == read(SUMMARY)
    with pytest.raises(UsageError, match="2 engines") as error:
        read({"results": [SUMMARY, SUMMARY]})
    assert "--engine wirecap" in error.value.hint


@given(anything)
@example({"results": []})
@example({"results": [[]]})
@example({})
def test_other_json_is_no_summary(read, found):
    """Whatever JSON a file has: it is no summary, which is bad usage with a hint."""
    with pytest.raises(UsageError) as error:
        read(found)
    assert error.value.hint


@given(st.sampled_from(list(places(SUMMARY))), anything)
@example(("per_queue",), [])
@example(("bytes",), None)
@example(("packets",), None)
@example(("duration_s",), 0)
@example(("duration_s",), math.nan)
@example(("per_queue", 0, "received"), 10**400)
def test_a_summary_with_a_wrong_part(read, place, wrong):
    """A summary of which any one part is anything else: bad usage, or numbers that can be."""
    summary = copy.deepcopy(SUMMARY) | {"engine": "packet"}
    if place:
        part = summary
        for key in place[:-1]:
            part = part[key]
        part[place[-1]] = wrong
    try:
        found = read(summary)
    except UsageError:
        return
    assert found.queues == len(summary["per_queue"])
    assert 0 < found.worst_share <= 1
    assert 0 <= found.mean_pps < math.inf
    assert found.frame_bytes is None or found.frame_bytes >= 64
    assert found.handler_pps is None or 0 <= found.handler_pps < math.inf


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\x00\xff", "9" * 5000])
def test_not_json(tmp_path, text):
    """A file that is not JSON, or cannot be read as such, is named in one line."""
    file = tmp_path / "summary.json"
    file.write_bytes(text.encode("latin1"))
    with pytest.raises(UsageError, match="is not JSON") as error:
        plan.read_summary(str(file))
    assert "\n" not in str(error.value)
