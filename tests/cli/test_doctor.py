from __future__ import annotations

import json
import os
import subprocess

import pytest

from wirecap.cli import doctor, main
from wirecap.linux import ethtool, netns
from wirecap.linux.probes import Finding


def test_doctor_shows_every_finding(monkeypatch, capsys):
    """Each thing that is looked at has a line, each advice an arrow, and the interfaces follow."""
    port = Finding("eth7 MTU", False, "eth7 has an MTU of 9000", "ip link set eth7 mtu 1500")
    monkeypatch.setattr(doctor, "ports", lambda: [port])
    status = main.run(["doctor"])
    shown = capsys.readouterr().out
    findings = [*doctor.examine(), port]
    for finding in findings:
        assert finding.name in shown
    assert shown.count("->") == sum(bool(finding.advice) for finding in findings)
    assert "INTERFACE" in shown
    assert status == any(finding.essential and finding.good is False for finding in findings)


@pytest.mark.parametrize(("essential", "status"), [(True, 1), (False, 0)])
def test_exit_status_1_only_for_what_is_essential(monkeypatch, capsys, essential, status):
    """Only what rules a capture out makes the exit status 1."""
    monkeypatch.setattr(doctor, "examine", lambda: iter([Finding("x", False, "no", "do", essential)]))
    monkeypatch.setattr(doctor, "ports", list)
    assert main.run(["doctor", "--json"]) == status
    assert json.loads(capsys.readouterr().out) == [
        {"name": "x", "good": False, "found": "no", "advice": "do", "essential": essential}
    ]


def test_cache_that_cannot_be_written(monkeypatch, tmp_path):
    """A cache folder that cannot be written is a finding, with the variable that moves it."""
    from wirecap.kernels import jit

    monkeypatch.setattr(jit, "CACHE_DIR", tmp_path / "x" / "y")
    assert doctor._compiled_kernels().good is None
    monkeypatch.setattr("os.access", lambda *_: False)
    found = doctor._compiled_kernels()
    assert found.good is False
    assert "WIRECAP_CACHE_DIR" in found.advice


def test_names_are_unique():
    """Findings can be told apart by name."""
    names = [finding.name for finding in doctor.examine()]
    assert len(set(names)) == len(names)


@pytest.mark.live
def test_what_to_change_on_a_port(testbed):
    """A port that auto takes AF_XDP for is told what it drops or misses, and the command told with it mends that."""
    bed = testbed(queues=2)
    inside = bed.nics[0].inside

    def told(subject):
        found = [f for f in netns.call(bed.name, doctor.ports) if f.name == f"{inside} {subject}"]
        return found[0].advice if found else ""

    def follow(advice):
        arguments = advice.rpartition(", or ")[2].split()
        subprocess.run(["ip", "netns", "exec", bed.name, *arguments], check=True, capture_output=True, timeout=20)

    netns.call(bed.name, ethtool.set_features, inside, {"rx-vlan-hw-parse": False, "rx-vlan-stag-hw-parse": False})
    assert not told("MTU")
    assert not told("VLAN tags")
    follow(f"ip link set {inside} mtu 3000")
    assert "--cell 4096" in told("MTU")
    follow(f"ip link set {inside} mtu 9000")
    assert "--engine packet" in told("MTU")
    follow(told("MTU"))
    assert not told("MTU")
    netns.call(bed.name, ethtool.set_features, inside, {"rx-vlan-hw-parse": True})
    assert told("VLAN tags").startswith(f"ethtool -K {inside} rxvlan off")


@pytest.mark.live("ethtool")
def test_queues_that_lie_idle_are_told(testbed, monkeypatch):
    """A NIC with fewer receive queues than it and the CPUs could have is told the ethtool command that adds them."""
    bed = testbed(queues=2)
    inside = bed.nics[0].inside
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})

    def advice():
        return [f.advice for f in netns.call(bed.name, doctor.ports) if f.name == f"{inside} queues"]

    def run(*arguments):
        subprocess.run(["ip", "netns", "exec", bed.name, *arguments], check=True, capture_output=True, timeout=20)

    assert not advice()
    run("ethtool", "-L", inside, "rx", "1")
    assert advice() == [f"ethtool -L {inside} rx 2"]
    run(*advice()[0].split())
    assert not advice()
