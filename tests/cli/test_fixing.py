"""doctor --fix: asks, applies, looks whether it took, and says how to undo it."""

from __future__ import annotations

import io
import json
import os
import pty
import shlex
import subprocess

import pytest

from wirecap.cli import doctor, main
from wirecap.linux import ethtool, netns
from wirecap.linux.tuning import Change


def change(subject="eth9 rings", error=None, took=True):
    done = []

    def apply():
        if error:
            raise error
        done.append(subject)

    return Change(subject, "rings are short", f"do {subject}", f"undo {subject}", apply,
                  lambda: "512 descriptors", lambda: took and bool(done))  # fmt: skip


@pytest.fixture
def to_change(monkeypatch):
    def make(*changes):
        monkeypatch.setattr(doctor, "changes", lambda names: list(changes))

    return make


def test_yes_applies_all_and_tells_how_to_undo_it(to_change, capsys):
    """What took effect says how it is now; what undoes it stands at the end, the last change first."""
    to_change(change("a"), change("b"))
    assert main.run(["doctor", "--fix", "--yes"]) == 0
    shown = capsys.readouterr().out
    assert "ok  a: do a: now 512 descriptors" in shown
    assert shown.endswith("To undo this:\n  undo b\n  undo a\n")


def test_what_did_not_take(to_change, capsys):
    """A change that is refused or has no effect is told, is not undone, and makes the exit status 1."""
    to_change(change("a", error=PermissionError(1, "no")), change("b", took=False), change("c"))
    assert main.run(["doctor", "--fix", "--yes"]) == 1
    shown = capsys.readouterr().out
    assert "NO  a: do a: refused: operation not permitted (run it as root)" in shown
    assert "NO  b: do b: no effect: 512 descriptors" in shown
    assert shown.endswith("To undo this:\n  undo c\n")


def test_nothing_to_change(to_change, capsys):
    """Where all is well it says so, and needs no terminal."""
    to_change()
    assert main.run(["doctor", "--fix"]) == 0
    assert capsys.readouterr().out == "nothing to change\n"


def test_nobody_to_ask(to_change, capsys, monkeypatch):
    """Without a terminal and without --yes nothing is changed."""
    to_change(change("a"))
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert main.run(["doctor", "--fix"]) == 2
    assert "(add --yes)" in capsys.readouterr().err


def test_asked_on_a_terminal(to_change, capsys, monkeypatch):
    """Each change is asked for; one that is declined is left as it is."""
    to_change(change("a"), change("b"))
    leader, follower = pty.openpty()
    os.write(leader, b"n\ny\n")
    with os.fdopen(follower) as terminal:
        monkeypatch.setattr("sys.stdin", terminal)
        assert main.run(["doctor", "--fix"]) == 0
    os.close(leader)
    shown = capsys.readouterr().out
    assert "--  a: left as it is" in shown
    assert shown.endswith("To undo this:\n  undo b\n")


def test_as_json(to_change, capsys):
    """With --json on standard output that is all: each change, what became of it, and what undoes it."""
    to_change(change("a"), change("b", took=False))
    assert main.run(["doctor", "--fix", "--yes", "--json"]) == 1
    first, second = json.loads(capsys.readouterr().out)
    assert (first["outcome"], first["undo"], first["now"]) == ("applied", "undo a", "512 descriptors")
    assert (second["outcome"], second["undo"]) == ("no effect", "")


def test_an_interface_in_use_is_left_alone(capsys):
    """The host's own interfaces are not touched, not even if they are named."""
    assert main.run(["doctor", "--fix", "--yes", "-i", "lo"]) == 2
    assert "lo is the loopback interface: --fix leaves it alone" in capsys.readouterr().err


@pytest.mark.live
def test_a_real_port(testbed, monkeypatch, capsys):
    """A veth with an idle queue gets it back, is seen to have it, and the printed command undoes that."""
    bed = testbed(queues=2)
    inside = bed.nics[0].inside
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    netns.call(bed.name, ethtool.set_channels, inside, "rx", 1)
    fix = ["doctor", "--fix", "--yes", "--netns", bed.name, "-i", inside]
    assert main.run(fix) == 0
    shown = capsys.readouterr().out
    assert f"{inside} queues: ethtool -L {inside} rx 2: now 2 queues" in shown
    assert netns.call(bed.name, ethtool.channels, inside)[0] == 2
    undo = shlex.split(shown.strip().splitlines()[-1])
    assert undo == shlex.split(f"ip netns exec {bed.name} ethtool -L {inside} rx 1")
    try:
        subprocess.run(undo, check=True, capture_output=True, timeout=60)
    except FileNotFoundError:
        pytest.skip("needs ethtool")
    assert netns.call(bed.name, ethtool.channels, inside)[0] == 1
