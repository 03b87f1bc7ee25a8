"""What a driver does to a NIC's queues, and what follows for the XDP mode."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from wirecap.linux.probes import XdpFeature
from wirecap.source import nics


@pytest.mark.parametrize(
    ("driver", "in_use", "asked", "used", "said"),
    [
        ("virtio_net", 2, "auto", "generic", "eth9: generic mode, which is slower: "),
        ("virtio_net", 2, "native", "native", "their packets are missed"),
        ("virtio_net", 2, "generic", "generic", ""),
        ("virtio_net", 3, "auto", "auto", ""),  # no room for a queue of each CPU: the driver adds none
        ("igb", 2, "auto", "auto", ""),
    ],
)
def test_queues_that_a_native_program_adds(monkeypatch, driver, in_use, asked, used, said):
    """virtio_net adds queues that nobody can capture: auto avoids that; a line says what is lost."""
    rig(monkeypatch, {"eth9": driver}, None)
    monkeypatch.setattr(nics.ethtool, "most_channels", lambda name: (in_use, 4, "combined"))
    monkeypatch.setattr(nics.bpf, "len_possible_cpus", lambda: 2)
    mode, notes = nics.whole_mode([nics.Nic("eth9", 9, in_use, tuple(range(in_use)))], asked)
    assert mode == used
    assert [said in line and "ethtool -L eth9 combined 4" in line for line in notes] == ([True] if said else [])


@pytest.mark.parametrize(
    ("asked", "runs", "used", "said"),
    [
        ("auto", True, "generic", "eth9: generic mode, which is slower: vmxnet3 leaves a native XDP program out"),
        ("native", True, "native", "what comes afterwards is missed (leave --xdp-mode out)"),
        ("generic", True, "generic", ""),
        ("auto", False, "auto", ""),  # an older kernel's has no native mode
    ],
)
def test_a_driver_that_forgets_its_program(monkeypatch, asked, runs, used, said):
    """vmxnet3 loses packets in native mode once the port has changed: auto avoids that; a line says what is lost."""
    rig(monkeypatch, {"eth9": "vmxnet3"}, {9: XdpFeature.BASIC | XdpFeature.REDIRECT} if runs else None)
    mode, notes = nics.whole_mode([nics.Nic("eth9", 9, 1, (0,))], asked)
    assert mode == used
    assert [said in line for line in notes] == ([True] if said else [])


def test_the_others_of_a_capture(monkeypatch):
    """One capture has one mode: that others have generic mode because of one is said, too."""
    rig(monkeypatch, {"eth8": "igb", "eth9": "vmxnet3"}, {9: XdpFeature.BASIC | XdpFeature.REDIRECT})
    mode, notes = nics.whole_mode([nics.Nic("eth8", 8, 1, (0,)), nics.Nic("eth9", 9, 1, (0,))], "auto")
    assert mode == "generic"
    assert len(notes) == 2
    assert notes[1] == "eth8: generic mode, too: one capture has one mode"


def rig(monkeypatch, drivers, features):
    """Interfaces ethN, whose index is N."""
    facts = {name: SimpleNamespace(index=int(name[3:]), driver=driver) for name, driver in drivers.items()}
    monkeypatch.setattr(nics.netlink, "interface", facts.get)
    monkeypatch.setattr(nics.probes, "xdp_features", lambda: features)
