"""The flow table beside a plain reckoning: mixed traffic, made-up connections, a table that is full."""

from __future__ import annotations

import json
import random
import re
import struct
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from naive_flows import SECOND, Packet, Reckoning, packets_of
from wirecap.flows.memory import Table
from wirecap.flows.records import Records
from wirecap.kernels.base.jit import PURE
from wirecap.kernels.flows import layout as f
from wirecap.kernels.flows.process import advance, finish, process
from wirecap.kernels.packet.headers import ETHERNET, LINUX_SLL, LINUX_SLL2
from wirecap.traffic import synthetic as frames

SOME = 1000 if PURE else 10_000
FIN, SYN, RST, ACK = 1, 2, 4, 16


class Rig:
    """A table of its own, without an engine."""

    def __init__(
        self,
        capacity: int = 100_000,
        idle_s: float = 30,
        active_s: float = 120,
        linger_s: float = 2,
        inner: bool = False,
        link: int = ETHERNET,
    ) -> None:
        times = (int(s * SECOND) for s in (idle_s, active_s, linger_s))
        self.table = Table(capacity, *times, link, waits=False, inner=inner, seed=0x1234567)
        self._phase = np.zeros(64, np.int64)
        self._state = self.table.state(self._phase.ctypes.data)
        self.taken: list[Any] = []

    def feed(self, packets: list[Packet], chunk: int = 100) -> Rig:
        for first in range(0, len(packets), chunk):
            some = packets[first : first + chunk]
            sizes = np.array([len(p.data) for p in some], np.int64)
            arena = np.frombuffer(b"".join(p.data for p in some) + bytes(64), np.uint8).copy()
            address = np.cumsum(sizes) - sizes
            times = np.array([p.time for p in some], np.int64)
            originals = np.array([p.size for p in some], np.uint32)
            row = (arena, address, sizes.astype(np.uint32), originals, times)
            assert process(*row, len(some), self._state) == 0
            self.taken.append(self.table.take())
        return self

    def finish(self) -> list[dict[str, Any]]:
        while finish(self.table.kernel):
            self.taken.append(self.table.take())
        self.taken.append(self.table.take())
        return self.records()

    def records(self) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in Records(np.concatenate(self.taken)).lines()]
        for record in found:
            for name in ("flowStartNanoseconds", "flowEndNanoseconds"):
                record[name] = int(np.datetime64(record[name].removesuffix("Z"), "ns").astype(np.int64))
        return found

    def without(self) -> dict[str, int]:
        counts = {name: int(self.table.control[f.OTHERS + kind]) for kind, name in f.KINDS.items()}
        return {name: count for name, count in counts.items() if count}


def in_order(records: list[dict[str, Any]]) -> list[str]:
    return sorted(json.dumps(record, sort_keys=True) for record in records)


def tcp(time_s: float, source: str, target: str, ports: tuple[int, int], flags: int, more: bytes = b"") -> Packet:
    head = struct.pack("!HHIIBBHHH", *ports, 1, 1, 0x50, flags, 1024, 0, 0) + more
    addresses = b"".join(bytes(map(int, one.split("."))) for one in (source, target))
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(head), 0, 0, 64, 6, 0) + addresses
    data = bytes(12) + b"\x08\x00" + ip + head
    return Packet(int(time_s * SECOND), data, len(data))


@pytest.mark.parametrize(("idle_s", "active_s", "linger_s"), [(30, 120, 2), (1, 3, 0.25), (0.05, 0.02, 0.01)])
def test_mixed_traffic(mixed_trace, idle_s, active_s, linger_s):
    """Every record, and every packet without a flow, is as the plain reckoning has it, whatever the timeouts."""
    packets = list(islice(packets_of(mixed_trace), SOME))
    expected = Reckoning(idle_s, active_s, linger_s).read(packets)
    rig = Rig(idle_s=idle_s, active_s=active_s, linger_s=linger_s)
    rig.feed(packets)
    assert in_order(rig.finish()) == in_order(expected.records)
    assert rig.without() == dict(expected.without)


def test_tunnels(mixed_trace):
    """By option the flows are those inside: IP in IP, GRE, VXLAN, GENEVE, GTP-U, and tunnels in tunnels."""
    packets = [packet for packet in packets_of(mixed_trace) if _may_be_tunnel(packet.data)]
    if PURE:  # some of all: a trace's first packets may hold no tunnel
        packets = packets[:: max(1, len(packets) // (SOME // 4))]
    outer, inner = Reckoning().read(packets), Reckoning(inner=True).read(packets)
    rig = Rig(inner=True).feed(packets)
    assert in_order(rig.finish()) == in_order(inner.records)
    assert rig.without() == dict(inner.without)
    assert len(packets) > 100
    assert in_order(inner.records) != in_order(outer.records)


def _may_be_tunnel(data: bytes) -> bool:
    return any(port.to_bytes(2, "big") in data[34:80] for port in (4789, 6081, 2152)) or bool(
        {data[at] for at in (20, 23, 24, 27, 28) if at < len(data)} & {4, 41, 47}
    )


@pytest.mark.parametrize("link", [LINUX_SLL, LINUX_SLL2])
def test_tags_behind_cooked_headers(link):
    """A capture of ``any`` has the flow and the VLAN of a tagged packet, and says why a cut one has none."""
    frame = tcp(1, "10.0.0.1", "10.0.0.2", (5000, 80), SYN).data[14:]
    tag = bytes.fromhex("81006007")
    head = bytes(14) + tag if link == LINUX_SLL else tag[:2] + bytes(18) + tag[2:]
    whole, cut = (head + b"\x08\0" + frame[:size] for size in (None, 19))
    rig = Rig(link=link).feed([Packet(SECOND, whole, len(whole)), Packet(SECOND, cut, len(whole))])
    (found,) = rig.finish()
    assert (found["vlanId"], found["sourceTransportPort"], found["octetDeltaCount"]) == (7, 5000, len(frame))
    assert rig.without() == {"truncated": 1}


def test_random_connections():
    """Few hosts, many flags, times that stand still, leap and go back a little: as the plain reckoning has it."""
    dice = random.Random(8)
    packets, now = [], 1000.0
    for _ in range(800 if PURE else 6000):
        now += dice.choice((0, 0, 0.01, 0.2, 1.5, -0.004))
        one, other = f"10.0.0.{dice.randrange(4)}", f"10.0.0.{dice.randrange(4)}"
        flags = dice.choice((SYN, SYN | ACK, ACK, ACK, FIN | ACK, RST, 0, 0x18))
        packets.append(
            tcp(now, one, other, (dice.choice((80, 81)), dice.choice((80, 90))), flags, bytes(dice.randrange(9)))
        )
    packets.sort(key=lambda packet: packet.time)
    expected = Reckoning(2, 5, 0.5).read(packets)
    rig = Rig(idle_s=2, active_s=5, linger_s=0.5).feed(packets, chunk=7)
    assert in_order(rig.finish()) == in_order(expected.records)
    assert len({record["flowEndReason"] for record in expected.records}) == 4


def test_the_one_that_began_is_the_source():
    """Of a SYN's answer the destination is the source; a connection seen from its middle has no one that began."""
    answer = Rig().feed([tcp(1, "10.0.0.9", "10.0.0.1", (80, 5000), SYN | ACK)]).finish()[0]
    assert (answer["sourceIPv4Address"], answer["sourceTransportPort"]) == ("10.0.0.1", 5000)
    assert (answer["biflowDirection"], answer["packetDeltaCount"], answer["reversePacketDeltaCount"]) == (1, 0, 1)
    middle = Rig().feed([tcp(1, "10.0.0.9", "10.0.0.1", (80, 5000), ACK)]).finish()[0]
    assert (middle["sourceIPv4Address"], middle["biflowDirection"]) == ("10.0.0.9", 0)


def test_time_goes_on_without_packets():
    """What is over when time goes on gets its record then, and the rest does not."""
    rig = Rig(idle_s=10)
    rig.feed([tcp(100, "10.0.0.1", "10.0.0.2", (1, 2), ACK), tcp(105, "10.0.0.1", "10.0.0.3", (1, 2), ACK)])
    advance(rig.table.kernel, 109 * SECOND)
    assert len(rig.table.take()) == 0
    advance(rig.table.kernel, 111 * SECOND)
    rig.taken.append(rig.table.take())
    assert [record["destinationIPv4Address"] for record in rig.records()] == ["10.0.0.2"]
    assert rig.table.control[f.HELD] == 1


def test_a_full_table_evicts_and_loses_nothing():
    """A flow more than there is room for ends another one, by that name; the sums are those of all packets."""
    count = 300 if PURE else 5000
    packets = [tcp(100 + n / 1000, "10.0.0.1", f"10.{n >> 8 & 255}.{n & 255}.7", (n, 80), ACK) for n in range(count)]
    rig = Rig(capacity=64)
    records = rig.feed(packets).finish()
    reasons = [record["flowEndReason"] for record in records]
    assert reasons.count(f.EVICTED) == count - 64
    assert reasons.count(f.FORCED) == 64
    assert sum(record["packetDeltaCount"] for record in records) == count
    assert rig.table.control[f.MOST_HELD] == 64


def test_a_full_ring_loses_records_by_name():
    """Nobody takes records: those that do not fit are counted, with their packets and bytes."""
    rig = Rig(capacity=4)
    count = 200
    rig.table.control[f.TAIL] = rig.table.control[f.HEAD] = 1000
    room = len(rig.table.ring) - 20
    rig.table.control[f.HEAD] += room  # all but 20 places are taken
    packets = [tcp(100 + n / 1000, "10.0.0.1", f"10.0.{n}.7", (n, 80), ACK) for n in range(count)]
    sizes = np.array([len(p.data) for p in packets], np.int64)
    arena = np.frombuffer(b"".join(p.data for p in packets), np.uint8).copy()
    row = (arena, np.cumsum(sizes) - sizes, sizes.astype(np.uint32), sizes.astype(np.uint32))
    assert process(*row, np.array([p.time for p in packets], np.int64), count, rig._state) == 0
    control = rig.table.control
    assert control[f.MADE + f.EVICTED] == count - 4
    assert control[f.LOST] == control[f.LOST_PACKETS] == count - 4 - 20
    assert control[f.LOST_BYTES] == (count - 24) * 54


def test_frames_of_the_generator():
    """The flows that the generator makes are the flows that come out."""
    packet = frames.udp(64)
    data = [Packet(n * SECOND // 100, bytes(packet), 64) for n in range(20)]
    (record,) = Rig().feed(data).finish()
    assert (record["packetDeltaCount"], record["octetDeltaCount"], record["layer2OctetDeltaCount"]) == (20, 1000, 1280)


@pytest.mark.parametrize("time", [(1 << 62) + 5, (1 << 63) - 1, -(1 << 62) - 5, 1 - (1 << 63)])
def test_any_time_that_a_file_can_have(time):
    """Flows whose packets a file dates into the year 2116 and beyond, or before 1823, have their record, too."""
    frame = frames.udp(64)
    found = Rig().feed([Packet(time, frame, len(frame)), Packet(time, frame, len(frame))]).finish()
    assert [record["packetDeltaCount"] for record in found] == [2]
    assert found[0]["flowStartNanoseconds"] == found[0]["flowEndNanoseconds"] == time


def test_a_length_that_is_wrong():
    """A file may say that a packet was shorter on the wire than what it has of it; then no sum becomes negative."""
    frame = bytearray(frames.udp(64))
    frame[16:18] = 0, 0  # the IP length, left to a device
    (found,) = Rig().feed([Packet(SECOND, bytes(frame), 0)]).finish()
    assert found["octetDeltaCount"] == len(frame) - 14


@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="the kernel has no transparent huge pages"
)
def test_its_memory_may_be_in_huge_pages():
    """The kernel may make transparent huge pages of the parts that grow with the flows (proc_pid_smaps(5))."""
    table = Table(1 << 16, 1, 1, 1, ETHERNET, waits=False)
    maps = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.MULTILINE)
    for part in (table.kernel.entries, table.kernel.index):
        address = part.ctypes.data
        mine = next(one for one in maps[1:] if contains(one, address))
        assert mine.split()[1] == "rw-p"  # shared memory has them only where the administrator says so
        assert re.search(r"^VmFlags:.* hg\b", mine, re.MULTILINE)


def contains(mapping: str, address: int) -> bool:
    first, last = (int(word, 16) for word in mapping.split()[0].split("-"))
    return first <= address < last
