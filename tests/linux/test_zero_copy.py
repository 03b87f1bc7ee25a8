"""Frames longer than a zero-copy buffer: which drivers break them, and what the XDP program makes of pieces."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from wirecap.linux import bpf, xdp_program, zero_copy
from wirecap.linux.asm import assemble
from wirecap.linux.probes import XdpFeature
from wirecap.source import nics

ROOMS = {2048: 1792, 4096: 3840}
ADDRESS = "0000:03:00.0"


@pytest.fixture
def eth9(monkeypatch, tmp_path):
    """An interface of a driver, with its MTU and PCI device."""

    def become(driver, mtu=1500, device=""):
        facts = SimpleNamespace(name="eth9", index=9, rx_queues=1, mtu=mtu, driver=driver, kind="")
        monkeypatch.setattr(nics.netlink, "interface", lambda name: facts)
        monkeypatch.setattr(nics.ethtool, "bus", lambda name: ADDRESS)
        monkeypatch.setattr(nics.ethtool, "strips_tags", lambda name: False)
        monkeypatch.setattr(nics.af_xdp, "joins_cells", lambda: True)
        monkeypatch.setattr(zero_copy.probes, "release", lambda: (6, 18))
        place = tmp_path / "sys/bus/pci/devices" / ADDRESS
        place.mkdir(parents=True, exist_ok=True)
        (place / "device").write_text(f"0x{device}\n")
        return nics.Nic("eth9", 9, 1, (0,), mtu)

    become.root = tmp_path
    return become


@pytest.mark.parametrize(
    ("driver", "device", "mtu", "cell", "size", "spills"),
    [
        ("igb", "", 1500, 2048, 1024, True),
        ("igb", "", 1500, 4096, 3072, False),
        ("igb", "", 985, 2048, 1024, False),
        ("igb", "", 986, 2048, 1024, True),
        ("igb", "", 3034, 4096, 3072, True),
        ("igc", "", 1500, 2048, 1024, True),
        ("ixgbe", "10fb", 1500, 2048, 1024, True),
        ("ixgbe", "10fb", 1500, 4096, 3072, False),
        ("ixgbe", "1528", 1500, 2048, 0, False),  # X540 takes any length
        ("i40e", "", 1500, 2048, 0, False),
        ("virtio_net", "", 1500, 2048, 0, False),
    ],
)
def test_which_drivers_spill(eth9, driver, device, mtu, cell, size, spills):
    """Buffers of whole KiB, where the driver rounds; a frame as long as the MTU, with two tags, fits or does not."""
    nic = eth9(driver, mtu, device)
    buffer = zero_copy.buffer_of("eth9", ROOMS[cell], eth9.root)
    assert (buffer.size if buffer else 0) == size
    assert nics.spills(nic, buffer) == spills


@pytest.mark.parametrize(
    ("driver", "mtu", "cell", "release", "said"),
    [
        ("igb", 1500, 2048, (6, 18), ["breaks frames of more than 1,024 bytes", "--cell 4096 leaves room"]),
        ("igc", 3500, 2048, (6, 18), ["breaks frames of more than 1,024 bytes", "a smaller MTU leaves room"]),
        ("igb", 1500, 2048, (6, 12), []),  # this kernel's driver has no zero-copy: nothing is lost
        ("igb", 1500, 4096, (6, 18), []),
    ],
)
def test_copy_mode_is_explained(eth9, monkeypatch, driver, mtu, cell, release, said):
    """A line says why there is no zero-copy, and what would give it back."""
    eth9(driver, mtu)
    monkeypatch.setattr(zero_copy.probes, "release", lambda: release)
    rows = [row for row in nics.shortcomings("eth9", cell) if row.subject == nics.COPYING]
    lines = nics.told([("eth9", row) for row in rows])
    assert len(lines) == bool(said)
    assert all(part in line for part in said for line in lines)


ABLE, UNABLE = XdpFeature.REDIRECT | XdpFeature.ZERO_COPY, XdpFeature.REDIRECT


@pytest.mark.parametrize(
    ("drivers", "features", "sends", "said"),
    [
        (
            ["igb", "veth"],
            {1: ABLE, 2: UNABLE},
            False,
            "eth1: copy mode, which is slower: the driver of eth2 has no zero-copy",
        ),
        (["veth", "igb"], {1: UNABLE, 2: ABLE}, False, "and one capture has one mode (capture eth2 apart)"),
        (["igb", "veth"], {1: ABLE, 2: UNABLE}, True, "and one capture has one mode"),
        (["igb", "e1000e"], {1: ABLE}, False, "the driver of eth2 has no zero-copy"),
        (["igb", "mlx5_core"], {1: ABLE, 2: ABLE}, False, ""),
        (["e1000e", "veth"], {1: UNABLE, 2: UNABLE}, False, ""),
        (["igb", "igb"], None, False, ""),
        (
            ["igb", "veth"],
            None,
            False,
            "eth1 and eth2: copy mode, which is slower: before Linux 6.3 a kernel does not tell",
        ),
    ],
)
def test_one_mode_for_all(monkeypatch, drivers, features, sends, said):
    """Where one NIC of several, of which the last may only send, has no zero-copy, none has, and a line says why."""
    facts = {f"eth{n}": SimpleNamespace(index=n, driver=driver) for n, driver in enumerate(drivers, 1)}
    monkeypatch.setattr(nics.netlink, "interface", facts.get)
    monkeypatch.setattr(nics.probes, "xdp_features", lambda: features)
    given = [nics.Nic(name, one.index, 1, (0,), 1500) for name, one in facts.items()]
    wires = SimpleNamespace(places=[("eth2", 0), ("eth2", 1)]) if sends else None
    lines = nics.all_copied(given[:1] if sends else given, wires)
    assert len(lines) == bool(said)
    assert all(said in line for line in lines)
    assert not (sends and "apart" in lines[0])


@pytest.fixture(params=[0, 2], ids=["first NIC", "second NIC"])
def hook(request):
    """A program that refuses pieces of buffers of 1 KiB: runs it on a packet; the counters of the queue."""
    counters, sockets = bpf.Map(bpf.PERCPU_ARRAY, xdp_program.COUNTER_BYTES, 1), bpf.Map(bpf.XSKMAP, 4, 1)
    ledger = xdp_program.make_ledger(3, 64)
    whole = zero_copy.Buffer("igb", 1024, True).whole
    code = xdp_program.program(
        counters.fd, sockets.fd, xdp_program.Ledger(ledger, request.param, 64), 1792, xdp_program.best_clock(), True,
        whole=whole, filter=[("jeq_imm", 1, 0, xdp_program.FILTER_REJECT, 1)],
    )  # fmt: skip
    program = bpf.Program(assemble(code))
    words = np.frombuffer(ledger.mapped(), np.int64)[request.param * xdp_program.ledger_words(64) :]
    words[xdp_program.OFFERED] = 1 << 62
    yield program.run, words, lambda: counters.lookup(0).sum(axis=0).tolist()
    for part in (program, ledger, counters, sockets):
        part.close()


@pytest.mark.live
@pytest.mark.parametrize(
    ("sizes", "whole"),
    [
        ([60, 1007, 700], 3),
        ([60, 1024, 490, 60], 2),  # a frame of 1,514 bytes between two others
        ([1024, 1024, 1024, 200, 1007], 1),
        ([1008, 60, 60], 1),  # one with the NIC's timestamp taken off
        ([1024, 1024], 0),
    ],
)
def test_pieces_are_refused_by_name(hook, sizes, whole):
    """What fills a buffer, and what follows it, is counted as oversize; all else is admitted."""
    run, words, counts = hook
    for size in sizes:
        run(bytes(size))
    packets, byte_count, _, oversize, *_ = counts()
    assert (packets, byte_count) == (len(sizes), sum(sizes))
    assert oversize == len(sizes) - whole
    assert words[xdp_program.ADMITTED] == whole
