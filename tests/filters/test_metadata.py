"""What only a live capture knows, in filters: directions and interfaces."""

from __future__ import annotations

import numpy as np
import pytest
from click.testing import CliRunner
from filter_corpus import libpcap_says

from wirecap.cli.capture import command
from wirecap.errors import UsageError
from wirecap.filters.expression import compile_each, compile_filter
from wirecap.filters.metadata import MARKED, Link, NothingMatchesError, one_way, settled
from wirecap.filters.native import NativeFilter
from wirecap.kernels.base import jit
from wirecap.kernels.handlers.filter import select
from wirecap.traffic import synthetic

PACKETS = [synthetic.udp(90), synthetic.udp(60, source_port=443), bytes(14), b"\xff" * 200]
IN, OUT = Link(1, 3, "in"), Link(1, 3, "out")


@pytest.mark.parametrize("optimize", [True, False])
@pytest.mark.parametrize(
    ("text", "link", "same"),
    [
        ("inbound", IN, ""), ("outbound", OUT, ""), ("not outbound and udp", IN, "udp"), ("inbound or udp", OUT, "udp"),
        ("inbound or udp", IN, ""), ("udp and not (outbound and port 443)", OUT, "udp and not port 443"),
        ("ifindex 3", IN, ""), ("ifindex 3 and udp port 443", OUT, "udp port 443"), ("not ifindex 4 and ip", IN, "ip"),
        ("ifindex 4 or udp", IN, "udp"), ("ifindex 3 and inbound and greater 80", IN, "greater 80"),
    ],
)  # fmt: skip
def test_what_is_known_is_a_constant(text, link, same, optimize):
    """On a link, the program decides as one without the primitives that are decided already."""
    own, plain = settled(compile_filter(text, optimize=optimize), link), compile_filter(same)
    for packet in PACKETS:
        assert libpcap_says(own, packet) == libpcap_says(plain, packet)


@pytest.mark.parametrize("optimize", [True, False])
@pytest.mark.parametrize(
    ("text", "link"),
    [("outbound", IN), ("inbound and udp", OUT), ("ifindex 4", IN), ("not ifindex 3 and udp", IN), ("not inbound", IN)],
)
def test_what_no_packet_of_a_link_can_be(text, link, optimize):
    """A filter that wants only what the link never has is refused, and among several links it only rejects."""
    with pytest.raises(NothingMatchesError, match="matches no packet"):
        settled(compile_filter(text, optimize=optimize), link)
    other = Link(1, 4, "out" if link.direction == "in" else "in")
    programs = compile_each(text, [link, other], optimize)
    assert not any(libpcap_says(programs[link], packet) for packet in PACKETS)
    assert any(libpcap_says(programs[other], packet) for packet in PACKETS)


@pytest.mark.parametrize("optimize", [True, False])
@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("outbound", "why only in"), ("outbound and (udp or ifindex 3)", "why only in"),
        ("ifindex 4 and udp", "eth1 is interface 3"), ("outbound and ifindex 4", "eth1 is interface 3"),
        ("not ifindex 3", "eth1 is interface 3"), ("outbound and inbound", "the filter contradicts itself"),
    ],
)  # fmt: skip
def test_the_hint_names_the_cause(text, hint, optimize):
    """What excludes all packets: the direction, which the source can explain, or another interface."""
    with pytest.raises(UsageError) as error:
        settled(compile_filter(text, optimize=optimize), Link(1, 3, "in", "eth1", "why only in"))
    assert error.value.hint == hint or "rejects all packets" in error.value.message  # which the optimiser may find


def test_which_direction_a_filter_wants():
    """The direction that a filter keeps, as -Q would; for a mixture of both, packets are marked."""
    wants = {"inbound": "in", "udp and outbound": "out", "not inbound and ip": "out", "tcp": "inout"}
    for optimize in (True, False):
        for text, way in wants.items():
            assert one_way(compile_filter(text, optimize=optimize), 3) == way
            assert one_way(compile_filter("inbound or udp", optimize=optimize), 3) == MARKED


@pytest.mark.kernel
@pytest.mark.parametrize(
    "text", ["inbound or udp", "outbound and udp or inbound and not port 443", "not inbound or ip"]
)
def test_marked_packets(text):
    """Where each packet's direction stands before it, the native filter decides as the filter for that direction."""
    jit.prepare([select])
    packets = [packet for packet in PACKETS for _ in range(2)]
    marked = (bytes([0, 0b1001 + at % 2]) + one for at, one in enumerate(packets))
    arena = np.frombuffer(b"".join(marked), np.uint8).copy()
    sizes = np.array([len(packet) for packet in packets], np.uint32)
    rows = [np.cumsum(sizes + 2, dtype=np.int64) - sizes, sizes, sizes.copy(), np.arange(len(packets))]
    compiled = NativeFilter(settled(compile_filter(text), Link(1, 3, MARKED)))
    m = compiled.process(arena, *rows, len(packets), compiled.state)
    own = [settled(compile_filter(text), link) for link in (IN, OUT)]
    wanted = [at for at, packet in enumerate(packets) if libpcap_says(own[at % 2], packet)]
    assert 0 < len(wanted) < len(packets)
    assert rows[3][:m].tolist() == wanted


@pytest.mark.parametrize("text", ["inbound", "outbound", "ifindex 3"])
def test_files_do_not_hold_it(mixed_trace, text):
    """An Ethernet file knows neither: one line says so, and names -Q in."""
    done = CliRunner().invoke(command, ["-q", "--count", "-r", str(mixed_trace), text])
    assert isinstance(done.exception, UsageError)
    assert "not known here" in done.exception.message
    assert "-Q in" in str(done.exception.hint)


def test_cooked_packets_hold_it(tmp_path):
    """LINKTYPE_LINUX_SLL2 has the interface and the direction in its header."""
    rows = [(index, way) for index in (2, 3, 4) for way in (0, 4, 4)]
    packets = [b"\x08\x00\0\0" + index.to_bytes(4, "big") + bytes([0, 1, way, 6]) + bytes(48) for index, way in rows]
    for text, wanted in (
        ("ifindex 3", [index == 3 for index, _ in rows]),
        ("inbound", [way != 4 for _, way in rows]),
        ("outbound and not ifindex 2", [way == 4 and index != 2 for index, way in rows]),
    ):
        program = settled(compile_filter(text, 276), Link(276))
        assert [libpcap_says(program, packet) for packet in packets] == wanted
