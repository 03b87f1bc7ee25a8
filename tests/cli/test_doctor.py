from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile

import pytest

from wirecap.cli import doctor, main
from wirecap.linux import af_xdp, ethtool, metadata, netns
from wirecap.linux.probes import Finding


def test_doctor_shows_every_finding(monkeypatch, capsys):
    """Each thing that is looked at has a line, each advice an arrow, and the interfaces follow."""
    port = Finding("eth7 MTU", False, "eth7 has an MTU of 9000", "ip link set eth7 mtu 1500")
    monkeypatch.setattr(doctor, "ports", lambda names: [port])
    examined = list(doctor.examine())  # once: what is free or compiled may be another the next moment
    monkeypatch.setattr(doctor, "examine", lambda: iter(examined))
    status = main.run(["doctor"])
    shown = capsys.readouterr().out
    findings = [*examined, port]
    for finding in findings:
        assert finding.name in shown
    assert shown.count("->") == sum(bool(finding.advice) for finding in findings)
    assert "INTERFACE" in shown
    assert status == any((each.essential or each.loses) and each.good is False for each in findings)


@pytest.mark.parametrize(("essential", "loses", "status"), [(True, False, 1), (False, True, 1), (False, False, 0)])
def test_exit_status_1_only_for_what_is_essential(monkeypatch, capsys, essential, loses, status):
    """Only what rules a capture out, or loses packets, makes the exit status 1."""
    monkeypatch.setattr(doctor, "examine", lambda: iter([Finding("x", False, "no", "do", essential, loses)]))
    monkeypatch.setattr(doctor, "ports", lambda names: [])
    assert main.run(["doctor", "--json"]) == status
    assert json.loads(capsys.readouterr().out) == [
        {"name": "x", "good": False, "found": "no", "advice": "do", "essential": essential, "loses": loses}
    ]


def test_cache_that_cannot_be_written(monkeypatch, tmp_path):
    """A cache folder that cannot be written is a finding, with the variable that moves it."""
    from wirecap.kernels.base import cache

    monkeypatch.setattr(cache, "CACHE_DIR", tmp_path / "x" / "y")
    assert doctor._compiled_kernels().good is None
    monkeypatch.setenv("WIRECAP_CACHE_DIR", "/dev/null/cache")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(cache, "CACHE_NOTE", cache.find_cache()[1])
    found = doctor._compiled_kernels()
    assert "/dev/null/cache cannot be written to" in found.found
    assert found.good is False
    assert "WIRECAP_CACHE_DIR" in found.advice


def test_names_are_unique():
    """Findings can be told apart by name."""
    names = [finding.name for finding in doctor.examine()]
    assert len(set(names)) == len(names)


@pytest.mark.live
def test_what_to_change_on_a_port(testbed, monkeypatch):
    """A port that auto takes AF_XDP for is told what it misses, and the command told with it mends that.

    Frames longer than a cell are no loss: AF_XDP joins cells, and where it does not, auto takes another engine.
    """
    bed = testbed(queues=2)
    inside = bed.nics[0].inside

    def told(subject):
        found = [f for f in netns.call(bed.name, doctor.ports) if f.name == f"{inside} {subject}"]
        return found[0].advice if found else ""

    def follow(advice):
        arguments = advice.rpartition(", or ")[2].split()
        subprocess.run(["ip", "netns", "exec", bed.name, *arguments], check=True, capture_output=True, timeout=60)

    netns.call(bed.name, ethtool.set_features, inside, {"rx-vlan-hw-parse": False, "rx-vlan-stag-hw-parse": False})
    assert not told("MTU")
    assert not told("VLAN tags")
    follow(f"ip link set {inside} mtu 9000")
    assert not told("MTU")
    monkeypatch.setattr(af_xdp, "joins_cells", lambda: False)
    assert not told("MTU")
    monkeypatch.undo()
    netns.call(bed.name, ethtool.set_features, inside, {"rx-vlan-hw-parse": True})
    monkeypatch.setattr(metadata, "offered", lambda index: frozenset({metadata.TAG}))
    assert not told("VLAN tags")
    monkeypatch.setattr(metadata, "offered", lambda index: frozenset())
    assert told("VLAN tags").startswith("at the other end: ethtool -K INTERFACE txvlan off")


@pytest.mark.live("ethtool")
def test_queues_that_lie_idle_are_told(testbed, monkeypatch):
    """A NIC with fewer receive queues than it and the CPUs could have is told the ethtool command that adds them."""
    bed = testbed(queues=2)
    inside = bed.nics[0].inside
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})

    def advice():
        return [f.advice for f in netns.call(bed.name, doctor.ports) if f.name == f"{inside} queues"]

    def run(*arguments):
        subprocess.run(["ip", "netns", "exec", bed.name, *arguments], check=True, capture_output=True, timeout=60)

    assert not advice()
    run("ethtool", "-L", inside, "rx", "1")
    assert advice() == [f"ethtool -L {inside} rx 2"]
    run(*advice()[0].split())
    assert not advice()


def test_kernels_that_are_not_compiled_yet_are_named(monkeypatch, tmp_path):
    """Of a cache that one command filled, doctor tells what others will have to compile; of a full one, nothing."""
    from wirecap.cli.warmup import import_kernels
    from wirecap.kernels.base import cache

    monkeypatch.setattr(cache, "CACHE_DIR", tmp_path)
    monkeypatch.setattr(cache, "FILLED", None)
    monkeypatch.setattr(cache, "CACHE_NOTE", "")
    names = import_kernels().entry_points()
    for name in names:
        if not name.startswith(("sim.", "convert.")):
            (tmp_path / f"{name}.code").touch()
    (found,) = [finding for finding in doctor.examine() if finding.name == "kernels"]
    assert re.fullmatch(rf"\d+ compiled, in {tmp_path}; not yet: \d+ of convert, \d+ of simulate", found.found)
    assert "warmup" in found.advice
    for name in names:
        (tmp_path / f"{name}.code").touch()
    (found,) = [finding for finding in doctor.examine() if finding.name == "kernels"]
    assert (found.good, found.found) == (True, f"{len(names)} compiled, in {tmp_path}")
