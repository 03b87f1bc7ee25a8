from __future__ import annotations

import json

import pytest

from wirecap.cli import doctor, main
from wirecap.linux.probes import Finding


def test_doctor_shows_every_finding(capsys):
    """Each thing that is looked at has a line, each advice an arrow, and the interfaces follow."""
    status = main.run(["doctor"])
    shown = capsys.readouterr().out
    findings = list(doctor.examine())
    for finding in findings:
        assert finding.name in shown
    assert shown.count("->") == sum(bool(finding.advice) for finding in findings)
    assert "INTERFACE" in shown
    assert status == any(finding.essential and finding.good is False for finding in findings)


@pytest.mark.parametrize(("essential", "status"), [(True, 1), (False, 0)])
def test_exit_status_1_only_for_what_is_essential(monkeypatch, capsys, essential, status):
    """Only what rules a capture out makes the exit status 1."""
    monkeypatch.setattr(doctor, "examine", lambda: iter([Finding("x", False, "no", "do", essential)]))
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
