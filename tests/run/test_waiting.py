"""What is said of interfaces that are gone and waited for."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from wirecap.run.waiting import Waiting


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        (["eth1"], "eth1 is gone: waiting for it to come back (Ctrl-C ends the capture)"),
        (["eth1", "eth2"], "eth1 and eth2 are gone: waiting for them to come back (Ctrl-C ends the capture)"),
    ],
)
def test_interfaces_that_go_away_are_named_once(gone, said):
    """One line names them, however many there are, and none follows while they stay away."""
    lines = []
    source = SimpleNamespace(live=True, away=lambda: gone, news=list, returned=list)
    display = SimpleNamespace(warn=lines.append)
    waiting = Waiting(SimpleNamespace(source=source), SimpleNamespace(netns=None), display)
    waiting()
    waiting()
    assert lines == [said]
