"""The offload decision against what the paper says in words, compiled and as plain Python."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from wirecap.kernels.base.jit import PURE
from wirecap.kernels.pool import offload_policy
from wirecap.kernels.pool.offload_policy import decide


def told_in_words(home, depths, group, capacity, threshold):
    """Longer than T percent of R: the shortest queue of the group, if it is shorter than the home queue."""
    if depths[home] / capacity <= threshold / 100:
        return home
    shortest = min(group, key=lambda queue: (depths[queue], queue))
    return shortest if depths[shortest] < depths[home] else home


plain = offload_policy.choose_capture_queue if PURE else offload_policy.choose_capture_queue.py_func


@st.composite
def situations(draw):
    queues = draw(st.integers(1, 12))
    capacity = draw(st.sampled_from([2, 3, 10, 64, 100, 500]))
    depths = draw(st.lists(st.integers(0, 2 * capacity), min_size=queues, max_size=queues))
    group = draw(st.lists(st.integers(0, queues - 1), min_size=1, unique=True))
    home = draw(st.sampled_from(group))
    return home, depths, group, capacity, draw(st.integers(1, 100))


@given(situations())
@settings(max_examples=1000, deadline=None)
def test_compiled_plain_and_naive_agree(situation):
    """The compiled decision, the same as plain Python, and the rule in words choose the same queue."""
    home, depths, group, capacity, threshold = situation
    expected = told_in_words(home, depths, group, capacity, threshold)
    arrays = np.array(depths, np.int64), np.array(group, np.int64)
    assert decide(home, *arrays, len(group), capacity, threshold) == expected
    assert plain(home, *arrays, len(group), capacity, threshold) == expected


@given(situations(), st.lists(st.integers(0, 11), max_size=4))
@settings(max_examples=200, deadline=None)
def test_only_the_group_is_looked_at(situation, others):
    """What stands behind the members does not matter, nor do queues outside the group."""
    home, depths, group, capacity, threshold = situation
    chosen = decide(home, np.array(depths), np.array(group), len(group), capacity, threshold)
    changed = [depth if queue in group else 0 for queue, depth in enumerate(depths)]
    assert decide(home, np.array(changed), np.array(group + others), len(group), capacity, threshold) == chosen
    assert chosen in group


@pytest.mark.parametrize(
    ("depths", "threshold", "chosen"),
    [
        ([60, 0, 0], 60, 0),  # at the threshold: at home
        ([61, 0, 0], 60, 1),  # above it: the lowest of the shortest
        ([61, 3, 2], 60, 2),
        ([61, 61, 61], 60, 0),  # nobody is better off
        ([200, 199, 200], 100, 1),  # twice as many slots as chunks: deeper than R is possible
        ([1, 0, 0], 1, 0),
        ([2, 0, 0], 1, 1),
    ],
)
def test_decisions_at_the_edges(depths, threshold, chosen):
    """R = 100: T percent is not yet too long, one chunk more is; ties stay at home or go to the lowest number."""
    assert decide(0, np.array(depths), np.array([0, 1, 2]), 3, 100, threshold) == chosen
