"""Taking out of packet blocks what a filter wants: whole blocks, in order, by interface, and by direction."""

from __future__ import annotations

import random
import struct
from dataclasses import replace

import numpy as np

from rig import flow_frames
from wirecap.files.headers import Interface
from wirecap.filters.metadata import MARKED, Link
from wirecap.handlers.clients import wanted
from wirecap.kernels.file.sift import count_interfaces, scan_state, sift
from wirecap.kernels.handlers.filter import select
from wirecap.kernels.pool.handler_loop import address_of

IN, OUT = 1, 2


def block(interface: int, packet: bytes, flags: int) -> bytes:
    """An enhanced packet block with epb_flags."""
    padded = packet + bytes(-len(packet) % 4)
    total = 32 + len(padded) + 12
    head = struct.pack("<7I", 6, total, interface, 0, 1000, len(packet), len(packet))
    return head + padded + struct.pack("<HHIII", 2, 4, flags, 0, total)


def sifted(blocks: list[bytes], expression: str, interfaces: int) -> tuple[list[bytes], list[int]]:
    """What ``sift`` makes of the blocks: bytes, cut into blocks again, and packets by interface."""
    written = np.frombuffer(b"".join(blocks), np.uint8).copy()
    before = written.copy()
    filter = wanted(expression, [Link(1, number + 1, MARKED) for number in range(interfaces)])
    words = np.concatenate([replace(Interface(), resolution=9).words()] * interfaces)
    rows = np.zeros(7, np.int64), np.zeros(7, np.uint32), np.zeros(7, np.uint32), np.zeros(7, np.int64)
    out, counts = np.zeros(written.size, np.uint8), np.zeros(interfaces, np.int64)
    size = sift(
        written, written.size, scan_state(interfaces), words, *rows, address_of(select), filter.states, 1, out, counts
    )
    assert (written == before).all()
    found, at = [], 0
    while at < size:
        length = int(out[at + 4 : at + 8].view(np.uint32)[0])
        found.append(out[at : at + length].tobytes())
        at += length
    return found, counts.tolist()


def test_blocks_that_match_are_copied_whole():
    """Of interfaces in any order, rows of a few packets: what plain Python finds, and the counts by interface."""
    numbers = random.Random(1)
    blocks, ports = [], []
    for packet in flow_frames(200, 61):
        interface, port = numbers.randrange(3), int.from_bytes(packet[34:36], "big")
        blocks.append((interface, block(interface, packet, IN)))
        ports.append(port)
    found, counts = sifted([one for _, one in blocks], "udp src portrange 1050-1150", 3)
    wanted_ones = [one for one, port in zip(blocks, ports, strict=True) if 1050 <= port <= 1150]
    assert found == [one for _, one in wanted_ones]
    assert counts == [sum(number == interface for interface, _ in wanted_ones) for number in range(3)]
    every = np.zeros(3, np.int64)
    data = np.frombuffer(b"".join(one for _, one in blocks), np.uint8).copy()
    count_interfaces(data, data.size, every)
    assert every.tolist() == [sum(number == interface for interface, _ in blocks) for number in range(3)]


def test_directions_are_read_from_the_flags():
    """``inbound`` and ``outbound`` go by each block's epb_flags, and leave the blocks as they were."""
    frames = flow_frames(30)
    blocks = [block(0, frame, OUT if number % 3 == 0 else IN) for number, frame in enumerate(frames)]
    assert sifted(blocks, "outbound", 1) == (blocks[::3], [10])
    assert sifted(blocks, "inbound", 1) == ([one for number, one in enumerate(blocks) if number % 3], [20])
