"""Counters by key, top-N tables and histograms beside collections.Counter: exact, or within the bound they name."""

from __future__ import annotations

import bisect
import collections
import json
import struct
from ipaddress import IPv6Address

import dpkt
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import wirecap
from naive_packet import naive
from wirecap.errors import UsageError
from wirecap.handlers.state import plain
from wirecap.handlers.table import bind
from wirecap.kernels.base.jit import PURE

pytestmark = pytest.mark.kernel
CAPACITY = 8


def frame(key: int, port: int = 53) -> bytes:
    ip = struct.pack("!BBHHHBBH4sI", 0x45, 0, 28, 0, 0, 64, 17, 0, struct.pack("!I", key), 0xC6336401)
    return bytes(12) + b"\x08\x00" + ip + struct.pack("!HHHH", port, port, 8, 0)


@wirecap.handler(
    state={
        "sources": wirecap.Counter("ip.src", capacity=CAPACITY),
        "top": wirecap.Top(CAPACITY, "src", "src_port", capacity=CAPACITY),
        "sizes": wirecap.Histogram("length", edges=[10, 20, 21, 1000]),
        "numbers": wirecap.Counter(),
        "packets": np.int64,
    }
)
def everything(packet, state):
    state.packets += 1
    state.sources.add(packet)
    state.top.add(packet, packet.length)
    state.sizes.add(packet)
    state.numbers.add(packet.length - 50, 3)


BOUND = []


def bound():
    """The handler, compiled once, without any thread's state."""
    if not BOUND:
        BOUND.append(bind(everything))
        BOUND[0].compile(lambda name: None)
        BOUND[0].connect([1], keep_going=False)
    BOUND[0].records._bytes.clear()
    return BOUND[0]


def run(handler, packets: list[tuple[bytes, int]]) -> None:
    """One thread's life: packets as (bytes, length on the wire)."""
    arena = np.frombuffer(b"".join(data for data, _ in packets) + bytes(64), np.uint8).copy()
    sizes = np.array([len(data) for data, _ in packets], np.int64)
    original = np.array([length for _, length in packets], np.uint32)
    row = (np.cumsum(sizes) - sizes, sizes.astype(np.uint32), original, np.zeros(len(packets), np.int64))
    assert handler.process(arena, *row, len(packets), handler.state(0)) == 0


PACKETS = st.lists(
    st.tuples(st.one_of(st.integers(0, 5), st.integers(0, 40), st.sampled_from([0xFFFFFFFF, 0x0A000001, 0x80000000])),
              st.integers(0, 2000)),
    max_size=200,
)  # fmt: skip


@given(st.lists(PACKETS, min_size=1, max_size=3))
@settings(max_examples=10 if PURE else 100, deadline=None)
def test_beside_a_dictionary(threads):
    """Whatever comes on however many threads: sums are right, held counts exact, and errors within their bound."""
    handler = bound()
    for packets in threads:
        run(handler, [(frame(key), length) for key, length in packets])
    result = handler.result()
    everyone = [packet for packets in threads for packet in packets]
    times = collections.Counter(text(key) for key, _ in everyone)
    amounts: collections.Counter[tuple[str, int]] = collections.Counter()
    for key, length in everyone:
        amounts[text(key), 53] += length
    sources, top = result["sources"], result["top"]
    assert sources.total == result["packets"] == len(everyone)
    assert sum(sources.values()) + sources.other == sources.total
    for key, count in sources.items():
        assert times[key] - sources.error <= count <= times[key]
    if all(len({key for key, _ in packets}) <= CAPACITY for packets in threads):
        assert sources == times
        assert (sources.other, sources.error, top.error) == (0, 0, 0)
    assert top.total == sum(amounts.values()) == sum(top.values()) + top.other
    assert top.error <= 2 * top.total / CAPACITY
    for key, amount in top.items():
        assert amounts[key] - top.error <= amount <= amounts[key]
    if len(threads) == 1:
        assert all(key in top for key, amount in amounts.items() if amount > top.error)
    assert list(top.values()) == sorted(top.values(), reverse=True)
    assert result["numbers"] == {
        n: 3 * c for n, c in collections.Counter(length - 50 for _, length in everyone).items()
    }
    bins = [0] * 5
    for _, length in everyone:
        bins[bisect.bisect_right([10, 20, 21, 1000], length)] += 1
    assert result["sizes"] == dict(zip(["below 10", "10-19", "20", "21-999", "1000 or more"], bins, strict=True))


def text(address: int) -> str:
    return ".".join(map(str, address.to_bytes(4, "big")))


def test_the_first_keys_stay_in_a_full_counter():
    """A full counter goes on counting the keys that it has, exactly; everything else is in other."""
    handler = bound()
    run(handler, [(frame(key % 20), 60) for key in range(400)])
    sources = handler.result()["sources"]
    assert sources == {text(key): 20 for key in range(CAPACITY)}
    assert (sources.other, sources.error, sources.total) == (240, 0, 400)


def test_one_large_key_among_many_small_ones():
    """The key that matters is found among thousands of others that come once, and the bound says how exactly."""
    handler = bound()
    for _ in range(3):
        run(handler, [(frame(7 if i % 2 else 1000 + i), 100) for i in range(3000)])
    top = handler.result()["top"]
    assert next(iter(top)) == ("0.0.0.7", 53)
    assert 450_000 - top.error <= top["0.0.0.7", 53] <= 450_000
    assert 0 < top.error <= 2 * 900_000 / CAPACITY


def six(last: int) -> bytes:
    header = struct.pack("!IHBB", 6 << 28, 8, 17, 64) + bytes.fromhex("20010db8") + bytes(11) + bytes([last])
    return bytes(12) + b"\x86\xdd" + header + bytes(16) + struct.pack("!HHHH", 1, 53, 8, 0)


def test_keys_of_all_kinds(tmp_path):
    """Keys are addresses as text, numbers, or tuples; packets without any of the fields are counted apart."""
    arp = bytes(6) + bytes.fromhex("020000000009") + b"\x08\x06" + bytes(46)

    @wirecap.handler(
        state={
            "src": wirecap.Counter("src"),
            "both": wirecap.Counter("eth.src", "src", "dst_port"),
            "port": wirecap.Counter("dst_port"),
            "ttl": wirecap.Histogram("ip.ttl", edges=[64]),
        }
    )
    def keys(packet, state):
        state.src.add(packet)
        state.both.add(packet, 2)
        state.port.add(packet)
        state.ttl.add(packet)

    with wirecap.write(tmp_path / "k.pcap") as out:
        for data in (frame(0xC0000201), six(9), six(9), six(0), arp, bytes(10)):
            out.write(data, 1)
    result = wirecap.capture(str(tmp_path / "k.pcap"), keys).result
    assert result["src"] == {"2001:db8::9": 2, "192.0.2.1": 1, "2001:db8::": 1}
    zero = "00:00:00:00:00:00"
    assert result["both"] == {(zero, "2001:db8::9", 53): 4, ("02:00:00:00:00:09", "none", 0): 2,
                              (zero, "192.0.2.1", 53): 2, (zero, "2001:db8::", 53): 2}  # fmt: skip
    assert (result["src"].without, result["both"].without, result["port"].without) == (2, 2, 2)
    assert result["port"] == {53: 4}
    assert plain(result["ttl"]) == {"counts": {"below 64": 0, "64 or more": 1}, "total": 6, "without": 5}
    assert plain(result)["both"]["counts"][f"{zero} 192.0.2.1 53"] == 2


def test_the_same_function_with_other_keys(tmp_path):
    """What is compiled and kept belongs to its keys: with others the function is compiled again."""

    def count(packet, state):
        state.by.add(packet)

    with wirecap.write(tmp_path / "k.pcap") as out:
        out.write(frame(0x01020304, 99), 1)
    for name, key in (("src", "1.2.3.4"), ("dst", "198.51.100.1"), ("src_port", 99), ("src", "1.2.3.4")):
        handler = wirecap.handler(state={"by": wirecap.Counter(name)})(count)
        assert wirecap.capture(str(tmp_path / "k.pcap"), handler).result == {"by": {key: 1}}


def test_real_traffic(mixed_trace):
    """Talkers of the mixed trace are those that a plain parser and collections.Counter find."""

    @wirecap.handler(state={"talkers": wirecap.Top(10, "ip.src"), "packets": wirecap.Counter("src")})
    def talkers(packet, state):
        state.talkers.add(packet, packet.length)
        state.packets.add(packet)

    limit = 400 if PURE else 10_000
    amounts: collections.Counter[str] = collections.Counter()
    counts: collections.Counter[str] = collections.Counter()
    with mixed_trace.open("rb") as file:
        for _, (_, data) in zip(range(limit), dpkt.pcap.Reader(file), strict=False):
            found = naive(data)
            if "ip" in found:
                amounts[text(found["ip"]["src"])] += len(data)
                counts[text(found["ip"]["src"])] += 1
            elif "ip6" in found:
                high, low = found["ip6"]["src"]
                counts[str(IPv6Address(high << 64 | low))] += 1
    handler = wirecap.capture(str(mixed_trace), talkers, count=limit)
    assert handler.result["packets"] == counts
    assert len(handler.result["talkers"]) == 10
    with wirecap.open(str(mixed_trace), count=limit) as capture:
        wire: collections.Counter[str] = collections.Counter()
        for packet in capture.packets():
            if packet.ip:
                wire[str(packet.src)] += packet.length
    assert list(handler.result["talkers"].values()) == sorted(wire.values(), reverse=True)[:10]
    assert all(wire[key] == amount for key, amount in handler.result["talkers"].items())
    assert set(wire) == set(amounts)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: wirecap.Counter("sourc"), "packets have no field 'sourc'.*did you mean src"),
        (lambda: wirecap.Counter("ip6.src"), "either IP version"),
        (lambda: wirecap.Counter("src", capacity=0), "unsupported capacity: 0 keys"),
        (lambda: wirecap.Top("src"), "Top takes how many keys to show"),
        (lambda: wirecap.Top(10_000, "src"), "1 to 8192, not 10000"),
        (lambda: wirecap.Histogram("src"), "name one field that is a number"),
        (lambda: wirecap.Histogram("length", edges=[3, 1]), "unsupported edges of a histogram"),
        (lambda: wirecap.Histogram("length", edges=[]), "unsupported edges of a histogram"),
        (lambda: wirecap.Histogram(edges=[1 << 70]), "whole numbers of 64 bits"),
        (lambda: wirecap.Histogram(edges=[-(1 << 63) - 1, 0]), "whole numbers of 64 bits"),
        (lambda: wirecap.Histogram(edges=[1, float("inf")]), "whole numbers of 64 bits"),
        (lambda: wirecap.Histogram(edges=[None]), "whole numbers of 64 bits"),
    ],
)  # fmt: skip
def test_bad_tables(make, message):
    """What cannot be a table is refused where it is written."""
    with pytest.raises(UsageError, match=message):
        make()


def test_tables_belong_to_compiled_handlers():
    """A handler in Python is told what to use, and a compiled one that its state cannot be any object."""
    with pytest.raises(UsageError, match=r"state\.n is for compiled ones \(use collections\.Counter"):
        wirecap.chunk_handler(state={"n": wirecap.Counter("src")})(lambda chunk, state: None)
    with pytest.raises(UsageError, match="is compiled, and its state is"):
        wirecap.handler(state=collections.Counter)(lambda packet, state: None)


@pytest.mark.skipif(PURE, reason="plain Python raises what it raises")
def test_adding_what_does_not_fit():
    """What a table cannot do does not compile, and the message names the table and its method, not Numba's types."""

    def number(packet, state):
        state.by.add(7)

    def half(packet, state):
        state.by.add(packet, 0.5)

    def plus(packet, state):
        state.sizes += 1

    def subscript(packet, state):
        state.by[packet.length] += 1

    def other(packet, state):
        state.by.update(packet)

    takes, only = "takes the packet and, if it is not 1, a whole amount", "and only its add can be called"
    for wrong, message in (
        (number, f"state.by.add {takes}"), (half, f"state.by.add {takes}"),
        (plus, f"state.sizes is a Histogram, {only} .write state.sizes.add.number"),
        (subscript, f"state.by is a Counter, {only} .write state.by.add.packet"), (other, f"Counter, {only}"),
    ):  # fmt: skip
        handler = wirecap.handler(state={"by": wirecap.Counter("src"), "sizes": wirecap.Histogram()})(wrong)
        line = wrong.__code__.co_firstlineno + 1
        named = rf"test_tables\.py, line {line}: handler {wrong.__name__} does not compile: .*{message}"
        with pytest.raises(UsageError, match=named):
            bind(handler).compile(lambda name: None)


class Seen(list):
    """What a thread has seen."""


@pytest.mark.parametrize(
    ("make", "merge", "expected"),
    [
        (collections.Counter, None, {60: 2, 61: 1}),
        (dict, None, {60: 2, 61: 1}),
        (lambda: collections.defaultdict(int), lambda states: len(states), 1),
        (list, None, []),
    ],
)
def test_a_python_handler_returns_its_result(tmp_path, make, merge, expected):
    """The state may be any object; all threads' as one is the result."""

    @wirecap.packet_handler(state=make, merge=merge)
    def sizes(timestamp_ns, data, state):
        if isinstance(state, dict):
            state[len(data)] = state.get(len(data), 0) + 1

    with wirecap.write(tmp_path / "k.pcap") as out:
        for size in (60, 61, 60):
            out.write(bytes(size), 1)
    assert wirecap.capture(str(tmp_path / "k.pcap"), sizes).result == expected


def test_results_as_json():
    """Anything becomes JSON: keys of any kind, bytes, sets, numbers that JSON does not have."""
    assert plain({("a", 1): {b"\x01": {2}}, np.int64(3): float("nan")}) == {"a 1": {"01": [2]}, "3": None}
    assert json.loads(json.dumps(plain(Seen([b"\xff", None])))) == ["ff", None]
