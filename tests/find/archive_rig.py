"""What the tests of finding share: small files, queries about what is in them, and a full scan to compare with."""

from __future__ import annotations

import ipaddress
import random
import struct
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from filter_corpus import c_program, expressions, interpreter

from wirecap.errors import UsageError
from wirecap.files.index import Index, make_index
from wirecap.files.reader import open_capture
from wirecap.filters.expression import compile_filter
from wirecap.filters.narrow import holds, narrowed
from wirecap.filters.program import Program

Record = tuple[int, int, bytes]
"""Where a record begins in its file, its original length and its packet."""


def records(path: Path) -> list[Record]:
    """Those of a little-endian pcap file."""
    data, at, found = path.read_bytes(), 24, []
    while at + 16 <= len(data):
        captured, original = struct.unpack_from("<II", data, at + 8)
        found.append((at, original, data[at + 16 : at + 16 + captured]))
        at += 16 + captured
    return found


def first_packets(source: Path, path: Path, count: int) -> Path:
    at, _, packet = records(source)[count - 1]
    path.write_bytes(source.read_bytes()[: at + 16 + len(packet)])
    return path


def pcap(path: Path, packets: Iterable[bytes], linktype: int = 1, originals: int = 0) -> Path:
    """A pcap file of these packets, a millisecond apart; originals: is added to their original lengths."""
    parts = [struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, linktype)]
    for number, packet in enumerate(packets):
        times = (1_700_000_000 + number // 1000, number % 1000 * 1000)
        parts += [struct.pack("<IIII", *times, len(packet), len(packet) + originals), packet]
    path.write_bytes(b"".join(parts))
    return path


def indexed(path: Path, block_bytes: int) -> Index:
    with open_capture(str(path)) as file:
        make_index(file, str(path), block_bytes)
    return Index(str(path))


def full_scan(program: Program, packets: list[Record]) -> np.ndarray:
    """Where the records begin that libpcap's interpreter accepts."""
    run, code = interpreter(), c_program(program).ctypes.data
    return np.array([at for at, original, packet in packets if run(code, packet, original, len(packet))], np.int64)


def chosen(index: Index, program: Program, at: np.ndarray) -> tuple[np.ndarray, int, int]:
    """Which of these records lie in blocks that the index does not rule out; how many blocks those are, and of all."""
    found, read, blocks = np.zeros(len(at), bool), 0, 0
    for segment in index.segments():
        inside = holds(narrowed(program), lambda hashed, of=segment: index.has(of, hashed), len(segment.packets))
        block = np.searchsorted(segment.start, at, "right") - 1
        here = (block >= 0) & (block < len(inside))
        found[here] |= inside[block[here]]
        read, blocks = read + int(inside.sum()), blocks + len(inside)
    return found, read, blocks


def queries(packets: list[Record], count: int, seed: int) -> list[str]:
    """Half of them random expressions, half about hosts, ports, networks and tags of the packets."""
    dice = random.Random(seed)
    found = dict.fromkeys(expressions(count // 2))
    while len(found) < count:
        about = dict.fromkeys(terms(dice, dice.choice(packets)[2]))
        if not about:
            continue
        picked = dice.sample(list(about), min(len(about), dice.randint(1, 4)))
        text = picked[0]
        for term in picked[1:]:
            text = dice.choice(("({}) and ({})", "({}) or ({})", "({}) and not ({})", "not ({}) and ({})")).format(
                text, term
            )
        try:
            compile_filter(text)
        except UsageError:
            continue
        found[text] = None
    return list(found)[:count]


def terms(dice: random.Random, packet: bytes) -> list[str]:
    """What can be said of a packet, as filters say it."""
    at, said = 12, []
    while packet[at : at + 2] in (b"\x81\0", b"\x88\xa8", b"\x91\0") and len(packet) > at + 6:
        said.append(f"vlan {int.from_bytes(packet[at + 2 : at + 4], 'big') & 0xFFF}")
        at += 4
    inside = f"{' and '.join(said)} and " if said else ""
    kind, body = packet[at : at + 2], packet[at + 2 :]
    if kind == b"\x08\0" and len(body) > 24:
        ends, first = [str(ipaddress.ip_address(body[k : k + 4])) for k in (12, 16)], 4 * (body[0] & 15)
        said.append(f"{inside}net {ipaddress.ip_network(ends[0] + '/' + str(dice.randint(14, 31)), False)}")
        said.append(f"{inside}ip proto {body[9]}")
    elif kind == b"\x86\xdd" and len(body) > 44:
        ends, first = [str(ipaddress.ip_address(body[k : k + 16])) for k in (8, 24)], 40
        said.append(f"{inside}net {ipaddress.ip_network(ends[1] + '/' + str(dice.choice((32, 48, 64, 96))), False)}")
        said.append(f"{inside}ip6 proto {body[6]}")
    elif kind in (b"\x08\x06", b"\x80\x35") and len(body) >= 28:
        return [f"{inside}host {ipaddress.ip_address(body[k : k + 4])}" for k in (14, 24)]
    else:
        return [*said, f"ether proto {int.from_bytes(kind, 'big')}"] if kind >= b"\x06\0" else said
    ports = [int.from_bytes(body[first + k : first + k + 2], "big") for k in (0, 2)]
    said += [f"{inside}host {ends[0]} and host {ends[1]}", f"{inside}src host {ends[0]}", f"{inside}dst {ends[1]}"]
    said += [f"{inside}{dice.choice(('', 'tcp ', 'udp '))}port {ports[0]}", f"{inside}dst port {ports[1]}"]
    said.append(f"{inside}host {ends[0]} and host {ends[1]} and port {ports[0]} and port {ports[1]}")
    return said
