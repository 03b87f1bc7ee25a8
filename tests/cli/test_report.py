"""doctor --report: what belongs in an issue, and nothing that says whose machine it is."""

from __future__ import annotations

import ipaddress
import json
import re
import socket
import subprocess
from types import SimpleNamespace

import pytest

from wirecap.cli import doctor, main, report
from wirecap.linux import netlink, netns
from wirecap.linux.probes import Finding

HEX = re.compile(r"[0-9a-fA-F]{2}(?:[:-][0-9a-fA-F]{2}){5}")


def assert_clean(text, *more):
    """No MAC address, no IP address, not the host's name, no interface's name and none of these words."""
    assert not HEX.search(text)
    for word in re.split(r"[^\w.:/]+", text):
        with pytest.raises(ValueError):
            ipaddress.ip_interface(word.strip(".:") or "-")
    names = [name for _, name in socket.if_nameindex() if name != "lo"]
    for secret in (socket.gethostname(), *names, *more):
        assert not re.search(rf"(?<![\w-]){re.escape(secret)}(?![\w-])", text), secret


def test_the_report_of_this_machine(capsys):
    """It has the kernel, the versions and each finding, and is free of addresses and names; as text and as JSON."""
    assert main.run(["doctor", "--report"]) in (0, 1)
    text = capsys.readouterr().out
    assert "### Findings" in text
    assert "- kernel: " in text
    assert "numba " in text
    assert_clean(text)
    assert main.run(["doctor", "--report", "--json"]) in (0, 1)
    text = capsys.readouterr().out
    assert {"wirecap", "kernel", "findings", "interfaces"} <= json.loads(text).keys()
    assert_clean(text)


def test_into_a_file(tmp_path, capsys):
    """With a name it is a file's text, and the findings are printed as always."""
    assert main.run(["doctor", "--report", str(tmp_path / "report.txt")]) in (0, 1)
    assert "### Host" in (tmp_path / "report.txt").read_text()
    assert "ok  kernel" in capsys.readouterr().out
    assert main.run(["doctor", "--report", str(tmp_path / "none" / "x")]) == 2


@pytest.mark.live
def test_interfaces_with_addresses(testbed, capsys):
    """A port with addresses, named after its MAC address, in a namespace: what it is stands there, what it is called
    does not."""
    bed = testbed(queues=2)
    inside, name = bed.nics[0].inside, "enx02a1b2c3d4e5"
    for line in (
        f"link set {inside} down", f"link set {inside} address 02:a1:b2:c3:d4:e5 name {name} mtu 9000",
        f"link set {name} up", f"address add 198.51.100.7/24 dev {name}",
    ):  # fmt: skip
        subprocess.run(["ip", "netns", "exec", bed.name, "ip", *line.split()], check=True, timeout=60)
    main.run(["doctor", "--report", "--netns", bed.name, "-i", name])
    text = capsys.readouterr().out
    assert "- mtu: 9000" in text
    assert "- kind: veth" in text
    assert_clean(text, bed.name, name, "02a1b2c3d4e5")
    assert netns.call(bed.name, netlink.interface, name).addresses


def test_an_interface_that_goes_meanwhile(monkeypatch, capsys):
    """What the findings name may be gone before the report is written: its name is hidden all the same."""
    there = [SimpleNamespace(name="lo"), SimpleNamespace(name="usb7"), SimpleNamespace(name="eth6")]
    monkeypatch.setattr(netlink, "interfaces", lambda: there)

    def found(names):
        del there[1]
        yield Finding("NIC of usb7", None, "usb7 is fast, eth6 is not")

    monkeypatch.setattr(doctor, "examine", lambda: ())
    monkeypatch.setattr(doctor, "ports", found)
    monkeypatch.setattr(report, "interfaces", lambda names: [])
    main.run(["doctor", "--report"])
    assert "-- NIC of nic1: nic1 is fast, nic2 is not" in capsys.readouterr().out


def test_scrubbing():
    """Addresses of all kinds go, also inside other text; versions, times and counts stay."""
    hidden = {"eth1": "nic1", "myhost": "HOST"}
    said = {"eth1 MTU": ["on eth1@0, eth10, eth1-x and myhost.example: 192.0.2.1/24, fe80::1, 02:00:00:00:00:01"]}
    assert report.scrubbed(said, hidden) == {
        "nic1 MTU": ["on nic1@0, eth10, eth1-x and HOST.example: ADDRESS/24, ADDRESS, MAC"]
    }
    for kept in ("6.18.0-rc1", "numpy 2.4.6", "at 12:30:59", "1.5 GiB/s", "0000:03:00.0", "queue 0: 5, 3"):
        assert report.scrubbed(kept, hidden) == kept
    for gone in ("2001:db8::1", "::ffff:192.0.2.1", "1:2:3:4:5:6:7:8", "aa-bb-cc-dd-ee-ff"):
        assert report.scrubbed(gone, hidden) in ("ADDRESS", "MAC")
