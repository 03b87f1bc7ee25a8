from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wirecap.cli.closing import counters


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
        "30 packets not wanted by filter",
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
    assert "2 packets written behind later ones" in counters(summary, writing=True)
    assert len(counters(packets(received=3, delivered=3, written=3, written_late=0), writing=True)) == 3
