"""Losses that only a NIC's own counters show: which counters, how many packets, and how a capture tells them."""

from __future__ import annotations

import pytest

from rig import LiveRig
from wirecap.cli.closing import counters as closing_lines
from wirecap.linux import nic_losses
from wirecap.run.summary import as_dict


@pytest.fixture
def told(monkeypatch):
    """What the driver says: change it to have the NIC lose packets."""
    statistics = {}
    monkeypatch.setattr(nic_losses.ethtool, "statistics", lambda name, channel=None: dict(statistics.get(name, {})))
    return statistics


@pytest.mark.parametrize(
    ("statistics", "lost"),
    [
        ({"rx_missed_errors": 3, "rx_fifo_errors": 4, "rx_queue_0_drops": 4, "rx_no_buffer_count": 9}, 7),  # igb
        ({"rx_missed_errors": 3, "rx_no_dma_resources": 4}, 7),  # ixgbe
        ({"rx_no_buffer_count": 9, "rx_packets": 100, "tx_fifo_errors": 2, "rx_dropped": 1}, 0),  # e1000e
        ({"rx_out_of_buffer": 5, "rx_discards_phy": 2}, 5),  # mlx5: unknown which count the same
        ({"pkts rx out of buf": 6, "drv dropped rx total": 1}, 6),  # vmxnet3
        ({"rx_alloc_failed": 2}, 0),
        ({}, 0),
    ],
)
def test_counters_of_drivers(statistics, lost):
    """Each lost packet once, and none that waited for its buffer."""
    assert nic_losses.packets(nic_losses.counted(statistics)) == lost


def test_only_what_is_lost_meanwhile(told):
    """From the beginning on, over a reset of the driver's counters, and after the NIC is gone."""
    told["eth1"] = {"rx_missed_errors": 1000}
    losses = nic_losses.NicLosses(["eth1", "eth2"])
    try:
        assert losses.so_far() == {}
        told["eth1"] = {"rx_missed_errors": 1005, "rx_no_buffer_count": 7}
        expected = {nic_losses.NO_BUFFER: 5, "rx_missed_errors": 5, "rx_no_buffer_count": 7}
        assert losses.so_far() == {"eth1": expected}
        told["eth1"] = {"rx_missed_errors": 2}
        assert losses.so_far()["eth1"][nic_losses.NO_BUFFER] == 7
        del told["eth1"]
        assert losses.so_far()["eth1"][nic_losses.NO_BUFFER] == 7
    finally:
        losses.close()


@pytest.mark.live
@pytest.mark.parametrize("engine", ["xdp", "packet"])
def test_a_capture_tells_them(testbed, told, engine):
    """In the summary and in a closing line; what reached the hook is counted as ever, and the identity holds."""
    bed = testbed()
    inside = bed.nics[0].inside
    with LiveRig(bed, engine=engine) as rig:
        told[inside] = {"rx_missed_errors": 12}
        rig.stop()
        summary = as_dict(rig.engine)
        rig.source.report(summary)
    assert summary["nic_drops"] == {inside: {"nic_no_buffer": 12, "rx_missed_errors": 12}}
    packets = summary["packets"]
    assert packets["received"] == packets["delivered"] + packets["filtered_out"] + packets["dropped"]
    (line,) = [line for line in closing_lines(summary) if "nic no buffer" in line]
    assert line.startswith(f"12 packets never received: nic no buffer ({inside}: rx_missed_errors 12): ")
    assert "ethtool -G" in line
