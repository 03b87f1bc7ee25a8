from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wirecap.cli.closing import counters, so_far
from wirecap.cli.options import Buffer
from wirecap.cli.remedies import remedy


def packets(**counts):
    zero = {"received": 0, "delivered": 0, "filtered_out": 0, "written": 0, "forwarded": 0, "offloaded": 0}
    drops = counts.pop("drops", {})
    return {"packets": zero | counts | {"dropped": sum(drops.values()), "drops": drops}}


def test_nothing_lost():
    """Without a drop, the last line says that none was."""
    assert counters(packets(received=1, delivered=1)) == [
        "1 packet captured",
        "1 packet received by filter",
        "0 packets dropped",
    ]


def test_all_that_happened():
    """Filtered, handed over, forwarded and not fully written packets have a line each."""
    summary = packets(
        received=100, delivered=60, filtered_out=30, written=50, forwarded=5, offloaded=7, drops={"x_y": 10}
    )
    assert counters(summary, writing=True) == [
        "60 packets captured",
        "70 packets received by filter",
        "30 packets rejected by filter",
        "7 packets handed to a buddy",
        "5 packets forwarded",
        "50 packets written",
        "10 packets not written",
        "10 packets dropped: x y",
    ]


def test_what_lies_behind_the_last_packet_is_not_lost():
    """Packets behind the last one of -c have a line of their own, and are none that were dropped."""
    summary = packets(received=8, delivered=3, drops={"pool_exhausted": 0, "unread_at_stop": 5})
    assert counters(summary)[2:] == ["5 packets unread when the capture ended", "0 packets dropped"]


def test_a_file_that_got_nothing_is_told():
    """A capture whose file holds less than was captured says how much, also when that is nothing."""
    lines = counters(packets(received=3, delivered=3), writing=True)
    assert "0 packets written" in lines
    assert "3 packets not written" in lines
    assert not [line for line in counters(packets(received=3, delivered=3)) if "written" in line]


@given(st.dictionaries(st.sampled_from(["a", "b_c", "d"]), st.integers(0, 5)))
def test_every_named_drop_has_its_line(drops):
    """Each drop that is not zero is shown with its number and name, and no other."""
    shown = [line for line in counters(packets(drops=drops)) if "dropped: " in line]
    assert len(shown) == sum(number > 0 for number in drops.values())
    for name, number in drops.items():
        noun = "packet" if number == 1 else "packets"
        assert (f"{number} {noun} dropped: {name.replace('_', ' ')}" in shown) == (number > 0)


def test_packets_out_of_order_in_the_file_are_told():
    """Packets that were written behind later ones have a line; without any there is none."""
    summary = packets(received=3, delivered=3, written=3, written_late=2)
    assert "2 packets written out of order" in counters(summary, writing=True)
    assert len(counters(packets(received=3, delivered=3, written=3, written_late=0), writing=True)) == 3


LIVE = {"engine": "xdp", "mode": "basic", "queues": 4, "M": 256, "R": 100}


def per_queue(*drops):
    return {"per_queue": [{"interface": "eth1", "queue": n, "drops": row} for n, row in enumerate(drops)]}


@pytest.mark.parametrize(
    ("changes", "given", "says"),
    [
        ({}, {}, "the handler is slower than the traffic; raise -R (now 100) or use --mode advanced"),
        ({"mode": "advanced"}, {}, "the handler is slower than the traffic; raise -R (now 100)"),
        ({"queues": 1}, {}, "the handler is slower than the traffic; raise -R (now 100)"),
        ({"queues": 1}, {"buffer_size": Buffer(1 << 26, "64MiB")}, "slower than the traffic; raise -B (now 64MiB)"),
        ({"engine": "packet", "queues": 1}, {"ring_cells": 4096}, "slower than the traffic; raise --ring (now 4096)"),
        ({}, {"write_path": "x"}, "writing is slower than the traffic; raise -R (now 100) or keep less of each packet"),
    ],
)
def test_what_helps_against_an_exhausted_pool(changes, given, says):
    """The closing line says what helps, with the option that sets the pool's size in this command."""
    summary = packets(received=9, delivered=4, drops={"pool_exhausted": 5}) | LIVE | changes
    (line,) = [line for line in counters(summary, given) if "dropped" in line]
    assert line.startswith("5 packets dropped: pool exhausted: ")
    assert says in line


@pytest.mark.parametrize(("slow", "says"), [("handler", "the handler is slower"), ("disk", "writing is slower")])
def test_a_file_is_not_blamed_for_a_handler(slow, says):
    """Where both are there, the line goes by the largest loss, as the explanation below it does."""
    losses = [{"packets": 1, "slow": "writer", "advice": []}, {"packets": 5, "slow": slow, "advice": []}]
    assert remedy("pool_exhausted", LIVE | {"losses": losses}, {"write_path": "x"}).startswith(says)


def test_every_drop_has_its_remedy():
    """No name of docs/drops.md is without one, except for packets that were left unread."""
    text = (Path(__file__).parents[2] / "docs" / "drops.md").read_text()
    names = set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) - {"unread_at_stop"}
    assert len(names) > 10
    for name in names:
        summary = packets(received=1, drops={name: 1}) | LIVE
        (line,) = [line for line in counters(summary, {"cell": 2048}) if "dropped: " in line]
        assert re.fullmatch(rf"1 packet dropped: {name.replace('_', ' ')}: .{{20,}}", line)


@pytest.mark.parametrize(
    ("drops", "where"),
    [
        ([{}, {}, {"oversize": 7}, {}], " (all on eth1 queue 2)"),
        ([{"oversize": 1}, {"oversize": 9}], " (90 % on eth1 queue 1)"),
        ([{"oversize": 6}, {"oversize": 4}], ""),
        ([{"oversize": 3}] * 4, ""),
        ([{"oversize": 7}], ""),
    ],
)
def test_the_queue_that_stands_out(drops, where):
    """Where one of several queues lost most of them, the line names it."""
    number = sum(row.get("oversize", 0) for row in drops)
    summary = packets(received=number, drops={"oversize": number}) | LIVE | per_queue(*drops)
    (line,) = [line for line in counters(summary, {"cell": 2048}) if "dropped: " in line]
    assert line.startswith(f"{number} packets dropped: oversize{where}: longer than a cell; use --cell 4096, or")


def test_of_a_file_packets_are_read():
    """What was read of a file comes first, and then how much of it the filter took."""
    summary = packets(received=100, delivered=30, filtered_out=70) | {"engine": "file"}
    assert counters(summary) == [
        "100 packets read", "30 packets received by filter", "70 packets rejected by filter", "0 packets dropped",
    ]  # fmt: skip


def test_a_forwarder_counts_each_direction():
    """With --both a line says what came and went each way; one way alone needs none."""
    ways = [
        {"from": "eth1", "to": ["eth2"], "received": 5, "forwarded": 5},
        {"from": "eth2", "to": ["eth1"], "received": 3, "forwarded": 2},
    ]
    summary = packets(received=8, delivered=7, forwarded=7) | {"directions": ways}
    assert counters(summary)[3:5] == [
        "eth1 -> eth2: 5 received, 5 forwarded", "eth2 -> eth1: 3 received, 2 forwarded",
    ]  # fmt: skip
    assert not any("->" in line for line in counters(summary | {"directions": ways[:1]}))


def test_counters_of_a_run_that_goes_on_say_so():
    """SIGUSR1's first line ends with "so far", in capture and in forward."""
    assert so_far(packets(received=8, delivered=3))[:2] == [
        "3 packets captured so far", "8 packets received by filter",
    ]  # fmt: skip


def test_what_is_on_its_way_has_a_line():
    """Counters of a running capture (SIGUSR1) say how many packets still wait."""
    assert "5 packets waiting in the pool" in counters(packets(received=8, delivered=3, pending=5))
