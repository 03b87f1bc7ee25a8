"""Hostile packets through everything that reads a packet's headers: fields, changes, flows, forwarding, the index,
columns, anonymising.  Each packet ends where its memory ends, so that one byte too far is outside."""

from __future__ import annotations

from typing import Any

import numpy as np

import mixed_trace
from hostile_dice import CASES_KIND, KIND, SIZE, WORK, Target, below, is_new, mutated, new_cases, next_cases, thrown
from wirecap.kernels.base.jit import inline, kernel
from wirecap.kernels.base.kinds import byte_array, i64, lengths, words
from wirecap.kernels.convert.addresses import ADDRESSES, new_addresses
from wirecap.kernels.convert.anonymise import SCRATCH, walk
from wirecap.kernels.convert.columns import COLUMNS, look, new_columns
from wirecap.kernels.file.index import BLOCKS, file_row, known_link, new_blocks
from wirecap.kernels.flows.process import process
from wirecap.kernels.flows.tunnels import put_innermost_key
from wirecap.kernels.forward.checksum import finish, is_finished
from wirecap.kernels.forward.route import FRAGMENTS, flow_hash
from wirecap.kernels.packet import attributes
from wirecap.kernels.packet.edit import ALLOWED, EDIT_WORDS, WRITERS, carry_out, editable
from wirecap.kernels.packet.fields import LAYER_ATTRIBUTES, METHODS, PACKET_ATTRIBUTES
from wirecap.kernels.packet.headers import (
    ETHERNET,
    FAMILY,
    LINUX_SLL,
    LINUX_SLL2,
    NULL,
    PROTOCOL,
    PROTOCOL_MASK,
    RAW_IP,
    TRANSPORT_MASK,
    at,
)  # fmt: skip

assert attributes  # gives packets their fields
ROOM = 512
LINKS = np.array([ETHERNET, ETHERNET, ETHERNET, ETHERNET, RAW_IP, LINUX_SLL, LINUX_SLL2, NULL, 147], np.int64)
CHUNK = 64


def _made(text: str, **names: Any) -> Any:
    scope: dict[str, Any] = dict(names)
    exec(text, scope)
    return inline(scope["made"])


def _reading() -> Any:
    """A function that reads every field that a handler can read, and folds them into one number."""
    lines = ["def made(packet, place):", "    total = np.int64(0)"]
    for layer, names in LAYER_ATTRIBUTES.items():
        for name in names:
            if layer == "ip6" and name in ("src", "dst"):
                lines.append(f"    total ^= np.int64(packet.ip6.{name}[0] & np.uint64(0xFFFF))")
            else:
                lines.append(f"    total += packet.{layer}.{name}")
    lines += [f"    total += packet.{name}" for name in PACKET_ATTRIBUTES]
    lines += [f"    total += packet.{name}(place)" for name in METHODS]
    return _made("\n".join([*lines, "    return total"]), np=np)


def _changing() -> Any:
    """A function that changes every field that a handler can change."""
    lines = ["def made(packet, value):"]
    for layer, names in WRITERS.items():
        lines += [f"    if packet.{layer}:", *(f"        packet.{layer}.{name} = value" for name in names)]
    return _made("\n".join([*lines, "    return 0"]))


read_all, change_all = _reading(), _changing()


def link_header(link: int, data: bytes) -> bytes:
    """An Ethernet frame as a packet of another link type."""
    kind, body = data[12:14], data[14:]
    return {
        RAW_IP: body, NULL: b"\2\0\0\0" + body, LINUX_SLL: b"\0\0\0\1\0\6" + data[6:12] + b"\0\0" + kind + body,
        LINUX_SLL2: kind + b"\0\0\0\0\0\1\0\1\0\6" + data[6:12] + b"\0\0" + body,
    }.get(link, data)  # fmt: skip


def seeds(count: int = 600) -> list[tuple[int, bytes]]:
    """(link type, packet): made traffic, which has tunnels, fragments and lies in it, in frames of each link type."""
    found, known = [], set()
    for _, data, _ in mixed_trace.packets(count * 4):
        look = data[12:24].hex()
        if len(found) < count and (look not in known or len(found) < count // 4):
            known.add(look)
            found.append((ETHERNET, data[:ROOM]))
    others = [(link, link_header(link, data)[:ROOM]) for link in (RAW_IP, LINUX_SLL, LINUX_SLL2, NULL)
              for _, data in found[::9]]  # fmt: skip
    return found + others


@inline
def forget(addresses):
    addresses.count[0] = 0
    for k in range(addresses.places.size):
        addresses.places[k] = 0


@kernel(i64(CASES_KIND, BLOCKS, ADDRESSES, COLUMNS, words, words, lengths, words, words, words, i64))
def try_packets(cases, blocks, addresses, columns, keys, address, captured, timestamp, fragments, edit, count):
    """Make and read so many packets; returns how many said something new."""
    run, fresh = cases.run, i64(0)
    for _ in range(count):
        size = mutated(cases)
        if below(run, 16) == 0:
            run[KIND] = LINKS[below(run, LINKS.size)]
        link = run[KIND]
        data = cases.buffer[:size]
        packet = at(data, 0, size, size, 0, link)
        headers = packet._headers
        place = below(run, 600) - 40
        read_all(packet, thrown(run) if below(run, 64) == 0 else place)
        hashed = flow_hash(data, 0, size, below(run, 2), fragments)
        original = size + below(run, 2000)
        why = put_innermost_key(data, 0, size, original, link, keys, 0)
        address[0], captured[0], timestamp[0] = 0, np.uint32(size), thrown(run)
        file_row(blocks, data, address, captured, timestamp, 1, known_link(link))
        forget(addresses)
        for column in columns:
            column[0] = -1
        look(data, 0, packet, addresses, columns, 0)
        met = addresses.count[0]
        finished = 0
        if link == ETHERNET and not is_finished(data, 0, size):
            finished = 1 + i64(finish(data, 0, size))
        feature = (
            headers >> PROTOCOL & PROTOCOL_MASK ^ (headers >> FAMILY & 3) << 9 ^ (headers & TRANSPORT_MASK) << 12
            ^ why << 24 ^ met << 27 ^ finished << 30
        )  # fmt: skip
        fresh += i64(is_new(cases, feature ^ link * 0x9E3779))
        # What changes the packet comes last.
        forget(addresses)
        walk(data, 0, size, link, addresses, 0, edit[EDIT_WORDS:])
        second = addresses.count[0]
        fresh += i64(is_new(cases, feature ^ second * 0x85EBCA6B))
        walk(data, 0, size, link, addresses, 1, edit[EDIT_WORDS:])
        if link == ETHERNET:
            edit[ALLOWED] = 1
            change_all(editable(at(data, 0, size, size, 0, link), edit, 0), thrown(run))
            if at(data, 0, size, size, 0, link).vlan:
                edit[2] = -1
                carry_out(data, address, captured, 0, edit, 0)
        run[WORK] += hashed & 1
    return fresh


@kernel(i64(CASES_KIND, byte_array, words, lengths, lengths, words, words, i64))
def try_flows(cases, arena, address, captured, original, timestamp, state, count):
    """So many chunks of hostile packets, at hostile times, into a flow table that is always full."""
    run, now = cases.run, i64(1_700_000_000_000_000_000)
    for _ in range(count):
        place = next_cases(cases, arena, address, captured, CHUNK)
        for i in range(CHUNK):
            original[i] = np.uint32(thrown(run) & 0xFFFFFFFF)
            now += below(run, 2_000_000_000)
            odd = below(run, 200)
            timestamp[i] = -thrown(run) if odd == 0 else thrown(run) if odd == 1 else now - below(run, 5_000_000_000)
        process(arena[:place], address, captured, original, timestamp, CHUNK, state)
    return run[SIZE]


class Packets(Target):
    """Everything that ``try_packets`` needs."""

    name = "packets"

    def __init__(self, seed: int, given: list[tuple[int, bytes]] | None = None) -> None:
        self.cases = new_cases(given or seeds(), ROOM, seed)
        self._rest = (
            new_blocks(2), new_addresses(128), new_columns(1), np.zeros(16, np.int64), np.zeros(1, np.int64),
            np.zeros(1, np.uint32), np.zeros(1, np.int64), np.zeros(FRAGMENTS, np.int64),
            np.zeros(EDIT_WORDS + SCRATCH, np.int64),
        )  # fmt: skip

    def run(self, count: int) -> None:
        try_packets(self.cases, *self._rest, count)


class Flows(Target):
    """Everything that ``try_flows`` needs."""

    name = "flows"

    def __init__(self, seed: int, given: list[tuple[int, bytes]] | None = None, link: int = ETHERNET) -> None:
        from wirecap.flows.memory import Table

        self.cases = new_cases(given or seeds(), ROOM, seed)
        second = 10**9
        self.table = Table(100, 30 * second, 120 * second, 2 * second, link, waits=False, inner=True, seed=seed)
        self._phase = np.zeros(64, np.int64)
        self._row = (
            np.zeros(CHUNK * ROOM, np.uint8), np.zeros(CHUNK, np.int64), np.zeros(CHUNK, np.uint32),
            np.zeros(CHUNK, np.uint32), np.zeros(CHUNK, np.int64), self.table.state(self._phase.ctypes.data),
        )  # fmt: skip

    def run(self, count: int) -> None:
        """count: packets, in whole chunks."""
        for _ in range(0, count, 16 * CHUNK):
            try_flows(self.cases, *self._row, 16)
            self.table.take()
