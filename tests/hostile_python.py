"""Hostile input for what Python reads: texts of options and filters, whole capture files, the index beside one.

A case may be refused by a WirecapError, and by nothing else; it may not take long.
"""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import random
import struct
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lz4.frame
import numpy as np
import zstandard

import hostile_files
import mixed_trace
from wirecap import units
from wirecap.config import convert, find, keep, specs
from wirecap.config.find import FindConfig
from wirecap.errors import WirecapError
from wirecap.files.index import END_MAGIC, make_index
from wirecap.files.reader import Progress, open_capture
from wirecap.filters.expression import compile_filter
from wirecap.find.narrowed import open_narrowed
from wirecap.find.plan import plan_for
from wirecap.flows import targets
from wirecap.source import link_types

LONGEST_S = 30.0
"""What a case may take of the processor's time: libpcap's own optimiser gets 2 s."""


class SlowError(Exception):
    """A case that took too long."""


class PythonTarget:
    """Something that is tried with cases in Python: ``attempt`` makes one and tries it, and returns what it said."""

    batch = 200

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.tried, self.said = 0, set[Any]()
        self.case = b""
        self.work = Path(tempfile.mkdtemp(prefix="wirecap-fuzz-"))

    def run(self, count: int) -> None:
        for _ in range(count):
            self.tried += 1
            began = time.process_time()
            try:
                said: Any = self.attempt()
            except WirecapError as error:
                said = type(error).__name__, error.message[-24:]
            if time.process_time() - began > LONGEST_S:
                raise SlowError(f"{time.process_time() - began:.1f} s")
            if len(self.said) < 1 << 16:
                self.said.add(said)

    def attempt(self) -> Any:
        raise NotImplementedError

    def close(self) -> None:
        """Give back what is open."""

    def at_hand(self) -> tuple[int, bytes]:
        return 0, self.case

    def counts(self) -> tuple[int, int]:
        return self.tried, len(self.said)

    def capture(self, name: str, data: bytes) -> str:
        path = self.work / name
        path.write_bytes(data)
        return str(path)


OPTION_WORDS = [
    *"0 1 9 99 1e9 1e999999999 - + . , : = @ / k M G KiB ns us s min h d inf nan Infinity 0x _".split(" "),
    *"eth0 @0-3 @0- @-3 % pps bit/s Mb/s 2024-01-01T00:00:00Z 2024-02-30 9999-12-31T23:59:59.999999999".split(" "),
    *"T Z +99:99 file: ipfix: udp: tcp:// [::1]:99999 [ ] ( ) ~ ^ count write flows keep x.py:f .. .so".split(" "),
    "\u0661", "\u00b2", "\u00bd", "\u00e9", "\udcff", "\0", "\n", "\t", "9" * 60, "9" * 5000, " ", "",
]  # fmt: skip
FILTER_WORDS = [
    *"host net port portrange src dst ip ip6 tcp udp sctp ether vlan mpls pppoes and or not ( ) && || !".split(" "),
    *"[ ] : = != < > <= >= << >> & | ^ + - * / % 0 1 2 10 255 65535 65536 4294967295 4294967296 0x1ff".split(" "),
    *"1.2.3.4 1.2.3.0/24 10.1 ::1 2001:db8::/32 02:00:00:00:00:01 ip[0] tcp[13] len less greater".split(" "),
    *"broadcast multicast proto type inbound outbound ifname ifindex on eth1 arp icmp geneve vxlan".split(" "),
    *"mask 255.0.0.0 1.2.3.999 00 080 tcp-syn icmptype @ # ; \\ \" ' \0 \u00e9".split(" "),
]  # fmt: skip
PARSERS: tuple[Callable[[str], Any], ...] = (
    units.parse_size, units.parse_count, units.parse_packet_rate, units.parse_mean_rate, units.parse_bit_rate,
    units.parse_link, units.parse_duration_ns, units.parse_percent, specs.QueueSpec.parse, specs.HandlerSpec.parse,
    convert.parse_time_ns, convert.parse_shift_ns, convert.parse_ranges, convert.parse_split, find.parse_when_ns,
    keep.trigger_name, keep.Span.parse, keep.Rate.parse, targets.check, link_types.number,
)  # fmt: skip


class Texts(PythonTarget):
    """Options' texts, and filter expressions: half of them each."""

    def attempt(self) -> Any:
        dice = self.dice
        if dice.random() < 0.9:
            text = "".join(dice.choice(OPTION_WORDS) for _ in range(dice.randrange(1, 6)))
            parse = dice.choice(PARSERS)
        else:
            text = dice.choice([" ", " ", " ", ""]).join(
                dice.choice(FILTER_WORDS) for _ in range(dice.randrange(1, 14))
            )
            if dice.random() < 0.02:
                text = dice.choice("([!-") * dice.choice([10, 100, 1000]) + text
            parse = compile_filter
        self.case = text.encode(errors="surrogatepass")
        parse(text)
        return parse.__qualname__


PACKERS: tuple[Callable[[bytes], bytes], ...] = (
    gzip.compress, bz2.compress, lzma.compress, zstandard.ZstdCompressor().compress, lz4.frame.compress,
)  # fmt: skip
NUMBERS = (0, 1, 2, 3, 8, 12, 16, 28, 0xFF, 0x7F, 0xFFFF, 0x10000, 0x1000000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF,
           0x0A0D0D0A)  # fmt: skip


def whole_files() -> list[bytes]:
    """Capture files of both formats in both byte orders."""
    found = []
    for order in "<>":
        head = struct.pack(order + "IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
        found.append(head + hostile_files.records(order, 8, 3))
        section = struct.pack(order + "IIIHHqI", 0x0A0D0D0A, 28, 0x1A2B3C4D, 1, 0, -1, 28)
        one = struct.pack(order + "IIHHIHH", 1, 32, 1, 0, 0, 9, 1) + b"\x09\0\0\0" + struct.pack(order + "II", 0, 32)
        found.append(section + one * hostile_files.INTERFACES + hostile_files.blocks(order, 8, 3))
    return found


def changed(dice: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """Bytes with a few changes."""
    out = bytearray(data)
    for _ in range(dice.randrange(1, 6)):
        if not out:
            break
        what, at = dice.randrange(6), dice.randrange(min(len(out), dice.choice([32, 64, 200, 1 << 20])))
        if what == 0:
            out[at] = dice.randrange(256)
        elif what == 1:
            out[at] ^= 1 << dice.randrange(8)
        elif what == 2:
            out[at & ~3 : (at & ~3) + 4] = struct.pack(dice.choice("<>") + "I", dice.choice(NUMBERS))
        elif what == 3:
            del out[at : at + dice.randrange(1, 40)]
        elif what == 4:
            other = dice.choice(others)
            begin = dice.randrange(len(other))
            out[at:at] = other[begin : begin + dice.randrange(1, 60)]
        else:
            out = out[:at] if dice.random() < 0.3 else out + out[at:]
    return bytes(out)


def read_whole(file: Any) -> int:
    """The packets of an opened capture file; each must lie in its memory."""
    row = np.zeros(64, np.int64), np.zeros(64, np.uint32), np.zeros(64, np.uint32), np.zeros(64, np.int64)
    found = 0
    while True:
        n, progress = file.fill(*row, 64)
        if n:
            assert row[0][:n].min() >= 0
            assert (row[0][:n] + row[1][:n]).max() <= file.arena.size
            file.release(int(row[0][0]))
            found += n
        elif progress is Progress.ENDED:
            return found


class Captures(PythonTarget):
    """Capture files, plain and compressed, mapped and through a pipe."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.plain = whole_files()
        self.all = self.plain + [pack(data) for pack in PACKERS for data in self.plain[:2]]
        for data in self.plain:
            self._read(self.capture("case.pcap", data))  # whatever is compiled is compiled now

    def attempt(self) -> Any:
        dice = self.dice
        self.case = changed(dice, dice.choice(self.all), self.all)
        if dice.random() < 0.3:
            self.case = dice.choice(PACKERS)(changed(dice, dice.choice(self.plain), self.all))
        if dice.random() < 0.3 and len(self.case) < 60_000:
            reading, writing = os.pipe()
            try:
                os.write(writing, self.case)
                os.close(writing)
                return self._read(f"/dev/fd/{reading}")
            finally:
                os.close(reading)
        return self._read(self.capture("case.pcap", self.case))

    def _read(self, path: str) -> Any:
        with open_capture(path) as file:
            if self.dice.random() < 0.5:
                file.keep_blocks()
            return read_whole(file), len(file.interfaces), len(file.descriptions)


class Indexes(PythonTarget):
    """The index beside a capture file: what an attacker wrote, whose sums are right."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        packets = b"".join(
            struct.pack("<IIII", 1_700_000_000, us, len(data), size) + data
            for us, data, size in mixed_trace.packets(300)
        )
        self.path = self.capture("a.pcap", struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1) + packets)
        with open_capture(self.path) as file:
            make_index(file, self.path, 4096)
        whole = Path(self.path + ".wcidx").read_bytes()
        length = int.from_bytes(whole[-16:-12], "little")
        self.columns, self.end = whole[: -16 - length], json.loads(whole[-16 - length : -16])
        self._search()  # whatever is compiled is compiled now

    def _search(self) -> Any:
        plan = plan_for(self.path, FindConfig(paths=(self.path,), filter="port 80 or host 10.0.0.1"))
        with open_narrowed(plan) as file:
            return read_whole(file), plan.blocks_read, plan.note[-20:]

    def _value(self, value: Any) -> Any:
        """Another value in a place of the end."""
        dice = self.dice
        if isinstance(value, list) and value and dice.random() < 0.7:
            at = dice.randrange(len(value))
            return [*value[:at], self._value(value[at]), *value[at + 1 :]]
        if isinstance(value, dict) and value and dice.random() < 0.8:
            key = dice.choice(list(value))
            return {**value, key: self._value(value[key])}
        if isinstance(value, int) and dice.random() < 0.4:
            return value + dice.choice([-1, 1, -4096, 4096, 1 << 32])
        return dice.choice(
            [0, 1, -1, 1 << 31, 1 << 63, -(1 << 63), 10**30, 1e999, -1e999, float("nan"), 0.5, "x", None, [], {}, [[]],
             [[0, 0]], [[-5, 9]], [[9, 5]], [{}], [[1 << 70, 0]], True, [1, 2, 3]]
        )  # fmt: skip

    def attempt(self) -> Any:
        dice, end, columns = self.dice, self.end, self.columns
        if dice.random() < 0.4:
            raw = bytearray(columns)
            place = dice.randrange(16, min(len(raw), 4096)) & ~7
            raw[place : place + 8] = struct.pack("<q", dice.choice([0, -1, 24, 1 << 40, -(1 << 63), (1 << 63) - 1]))
            columns = bytes(raw)
            one = end["segments"][0]
            size = 8 * (4 * one["blocks"] + 1) + 4 * one["words"]
            end = {**end, "segments": [{**one, "crc": zlib.crc32(columns[one["at"] : one["at"] + size])}]}
        for _ in range(dice.randrange(3)):
            key = dice.choice([name for name in end if name not in ("head", "tail", "size", "mtime_ns", "version")])
            end = {**end, key: self._value(end[key])}
        data = json.dumps(end).encode()
        if dice.random() < 0.1:
            data = changed(dice, data, [data, b"[" * 20_000, b'{"a":' * 20_000])
        self.case = columns + data + struct.pack("<II", len(data), zlib.crc32(data)) + END_MAGIC
        Path(self.path + ".wcidx").write_bytes(self.case)
        return self._search()


TARGETS = {"texts": Texts, "captures": Captures, "indexes": Indexes}
