"""What the filter tests share: 500 expressions, libpcap's own interpreter, and packets of the real trace."""

from __future__ import annotations

import ctypes
import functools
import random
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from wirecap.errors import SystemCallError, UsageError
from wirecap.filters import libpcap
from wirecap.filters import opcodes as op
from wirecap.filters.ebpf import standalone
from wirecap.filters.expression import compile_filter
from wirecap.filters.program import Program
from wirecap.linux import bpf
from wirecap.linux.asm import assemble

EVERYDAY = (
    "", "ip", "ip6", "arp", "tcp", "udp", "icmp", "icmp6", "vlan", "tcp port 443", "udp port 53", "port 80",
    "not port 22",
    "host 192.168.1.1", "src host 10.0.0.1", "dst host 10.0.0.1 or src host 10.0.0.2", "net 192.168.0.0/16",
    "dst net 10.0.0.0/8 and tcp", "tcp[tcpflags] & (tcp-syn|tcp-fin) != 0", "tcp[tcpflags] == tcp-syn",
    "tcp portrange 8000-9000", "ip proto 50 or udp port 4500", "greater 1000", "less 100", "len > 128",
    "tcp port 80 and (((ip[2:2] - ((ip[0]&0xf)<<2)) - ((tcp[12]&0xf0)>>2)) != 0)",
    "host 192.168.1.1 and tcp port 80 and not host 10.1.2.3", "ether host 00:11:22:33:44:55", "broadcast", "multicast",
    "ip multicast", "ether[0] & 1 = 0 and ip[16] >= 224", "vlan and tcp port 80", "vlan 100 and ip", "pppoes and ip",
    "mpls and ip", "ip[6:2] & 0x1fff != 0", "ip[8] < 5", "icmp[icmptype] = icmp-echo", "ip6 host 2001:db8::1",
    "ip6 net fe80::/10", "ip6 proto 6", "ip6[6] = 58 and ip6[40] = 135", "sctp", "igmp", "stp", "llc",
    "ether proto 0x88cc",
    "ip6 protochain 6", "ip protochain 17", "ip[ip[0] & 0xf] / ip[8] > 3", "ether[70000] = 1 or arp", "tcp[1000:4] > 7",
    "portrange 1-1023 and not (port 53 or port 80)", "udp[8:4] = 0x01020304", "ip and not (tcp or udp or icmp)",
    "ether src 00:0c:29:00:00:00", "rarp or atalk or aarp", "ip[2:2] % 7 = 3", "ether[ip[9]:2] = 0x0800", "geneve",
)  # fmt: skip


Trace = tuple[np.ndarray, list[np.ndarray]]
"""The bytes of a capture file, and the rows address, captured, original and timestamp (the packet's number)."""


def _divide(operation: int) -> Program:
    """Accepts where byte 0 divided by byte 1 is not 0; byte 1 may be 0."""
    rows = [(op.LD | op.B | op.ABS, 0, 0, 1), (op.MISC | op.TAX, 0, 0, 0), (op.LD | op.B | op.ABS, 0, 0, 0)]
    return Program.of([*rows, (op.ALU | operation | op.X, 0, 0, 0), (op.RET | op.A, 0, 0, 0)])


DIVIDE, REMAINDER = _divide(op.DIV), _divide(op.MOD)
LATE = Program.of([
    (op.LD | op.B | op.ABS, 0, 0, 0), (op.JMP | op.JEQ, 0, 1, 1), (op.RET, 0, 0, 1), (op.JMP | op.JEQ, 0, 2, 2),
    (op.LD | op.B | op.ABS, 0, 0, 40), (op.RET | op.A, 0, 0, 0), (op.RET, 0, 0, 0),
])  # fmt: skip
"""Accepts where byte 0 is 1; where it is 2, byte 40 decides."""
SHIFT = Program.of([(op.LD | op.IMM, 0, 0, 0x80000001), (op.LDX | op.LEN, 0, 0, 0), (op.ALU | op.RSH | op.X, 0, 0, 0),
                    (op.RET | op.A, 0, 0, 0)])  # fmt: skip
"""Shifts by the packet's length."""


class _Grammar:
    """Random expressions of the language of pcap-filter(7) for Ethernet, with values that real traffic has."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def expression(self, depth: int) -> str:
        if depth == 0 or self.random.random() < 0.25:
            return self.primitive()
        left, right = self.expression(depth - 1), self.expression(depth - 1)
        form = self.random.choice(
            ("{} and {}", "{} or {}", "{} && not {}", "({}) || ({})", "not ({}) and ({})", "({} or {})")
        )
        return form.format(left, right)

    def primitive(self) -> str:
        choose = self.random.choice
        way = choose(("", "src ", "dst ", "src or dst "))
        kinds = (
            lambda: choose(("ip", "ip6", "arp", "tcp", "udp", "icmp", "icmp6", "igmp", "vlan", "sctp", "pppoes")),
            lambda: f"{way}host {self.address()}",
            lambda: f"{way}net {choose(('10', '192.168', '172.16', '192.168.1'))}",
            lambda: f"{way}net 192.168.0.0/{self.random.randint(8, 30)}",
            lambda: f"ip6 and {way}net {choose(('fe80::/10', 'ff02::/16', '2001::/16'))}",
            lambda: f"{choose(('', 'tcp ', 'udp '))}{way}port {choose((53, 80, 443, 22, 137, 1900, 5353, 8080))}",
            lambda: (
                f"{choose(('', 'tcp ', 'udp '))}{way}portrange {self.random.randint(1, 500)}-{choose((1023, 65535))}"
            ),
            lambda: f"{choose(('ip', 'ip6'))} proto {choose((1, 2, 6, 17, 41, 47, 50, 58, 132))}",
            lambda: f"ether proto {choose((0x800, 0x806, 0x86DD, 0x8100, 0x88A8, 0x8863, 0x42))}",
            lambda: f"ether {choose(('src', 'dst', 'host'))} {choose(('ff:ff:ff:ff:ff:ff', '01:00:5e:00:00:fb'))}",
            lambda: choose(("broadcast", "multicast", "ip broadcast", "ip multicast", "ip6 multicast")),
            lambda: f"{choose(('greater', 'less'))} {choose((60, 64, 100, 128, 500, 1000, 1500))}",
            lambda: f"{self.number(2)} {choose(('=', '!=', '<', '>', '<=', '>='))} {self.number(1)}",
        )
        return choose(kinds)()

    def address(self) -> str:
        byte = self.random.randint
        return self.random.choice(
            (f"192.168.{byte(0, 3)}.{byte(1, 254)}", f"10.{byte(0, 3)}.0.{byte(1, 20)}", "8.8.8.8")
        )

    def number(self, depth: int) -> str:
        choose = self.random.choice
        if depth and self.random.random() < 0.5:
            operation = choose(("+", "-", "*", "/", "%", "&", "|", "^", "<<", ">>"))
            right = str(self.random.randint(1, 31)) if operation in "/%<<>>" else self.number(depth - 1)
            if self.random.random() < 0.15:
                right = self.number(0)
            return f"({self.number(depth - 1)} {operation} {right})"
        if self.random.random() < 0.3:
            return choose(("len", str(self.random.randint(0, 2000)), hex(self.random.randint(0, 0xFFFFFFFF))))
        protocol = choose(("ether", "ip", "ip6", "tcp", "udp", "icmp"))
        place = self.number(depth - 1) if depth and self.random.random() < 0.2 else str(self.random.randint(0, 70))
        return f"{protocol}[{place}{choose(('', ':1', ':2', ':4'))}]"


@functools.cache
def expressions(count: int = 500) -> tuple[str, ...]:
    """The everyday expressions and random ones, as many as ``count`` in all, each of which libpcap compiles."""
    grammar, found = _Grammar(20141105), dict.fromkeys(EVERYDAY)
    while len(found) < count:
        text = grammar.expression(depth=1 + len(found) % 3)
        try:
            compile_filter(text)
        except UsageError:
            continue  # no packet can match, or a protocol that has no such bytes
        found[text] = None
    return tuple(found)[:count]


def interpreter() -> ctypes._CFuncPtr:
    """libpcap's bpf_filter(program, packet, original, captured); the program has an instruction at least."""
    function: ctypes._CFuncPtr = libpcap.library().bpf_filter
    return function


@functools.lru_cache(8)
def c_program(program: Program) -> np.ndarray:
    """The program as an array of libpcap's struct bpf_insn."""
    return np.array(program.rows, np.dtype([("code", "u2"), ("jt", "u1"), ("jf", "u1"), ("k", "u4")]))


def libpcap_says(program: Program, packet: bytes, original: int | None = None) -> bool:
    """Whether libpcap's interpreter accepts the captured bytes of a packet."""
    code = c_program(program)
    return interpreter()(code.ctypes.data, packet, len(packet) if original is None else original, len(packet)) != 0


@functools.cache
def why_not() -> str:
    """Why no XDP program can be loaded, or ""."""
    try:
        bpf.Program(assemble(standalone(compile_filter("")))).run(bytes(64))
    except SystemCallError as error:
        return str(error)
    return ""


def kernel_says(loaded: bpf.Program, packet: bytes) -> bool:
    """Whether the kernel, which runs the program, accepts a packet."""
    code, _ = loaded.run(packet)
    assert code in (bpf.XDP_PASS, bpf.XDP_DROP)
    return code == bpf.XDP_PASS


def read_trace(path: Path) -> Trace:
    """The packets of a little-endian pcap file."""
    data = np.fromfile(path, np.uint8)
    rows, at = [], 24
    while at + 16 <= len(data):
        captured, original = data[at + 8 : at + 16].view("<u4").tolist()
        rows.append((at + 16, captured, original))
        at += 16 + captured
    address, captured, original = (np.array(column) for column in zip(*rows, strict=True))
    return data, [
        address.astype(np.int64),
        captured.astype(np.uint32),
        original.astype(np.uint32),
        np.arange(len(rows)),
    ]


def snapped(rows: list[np.ndarray], seed: int) -> list[np.ndarray]:
    """The same packets, each cut at a random length, many of them within their headers; some lose the original too."""
    address, captured, original, timestamp = rows
    generator = np.random.default_rng(seed)
    limit = generator.choice([14, 20, 34, 38, 54, 58, 66, 80, 96, 128], len(address)) + generator.integers(
        -4, 5, len(address)
    )
    captured = np.minimum(captured, limit).astype(np.uint32)
    original = np.where(generator.random(len(address)) < 0.3, captured, original).astype(np.uint32)
    return [address, captured, original, timestamp]


@st.composite
def programs(draw: st.DrawFn, longest: int = 40) -> Program:
    """Valid classic BPF programs of every instruction, with jumps forward; loads mostly near a packet's start.

    Memory words are written before anything else: libpcap before 1.11 starts with what is on its stack.
    """
    size = draw(st.integers(1, longest))
    number = st.one_of(
        st.integers(0, 70), st.sampled_from([0, 1, 31, 32, 0x800, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
    )
    number = st.one_of(number, st.integers(0, 0xFFFFFFFF))
    words = st.integers(0, 3)
    rows = [(op.ST, 0, 0, word) for word in range(4)]
    for at in range(size):
        left = size - at  # instructions ahead, the last one a return
        step = st.integers(0, min(left - 1, 255))
        kind = draw(st.integers(0, 9))
        near = draw(st.one_of(st.integers(0, 60), number).filter(lambda k: k < op.EXTENSIONS))
        width = draw(st.sampled_from([op.W, op.H, op.B]))
        if kind <= 2:
            mode = draw(st.sampled_from([op.ABS, op.ABS, op.IND]))
            rows.append((op.LD | width | mode, 0, 0, near))
        elif kind == 3:
            choice = [(op.LD | op.IMM, near), (op.LDX | op.IMM, near), (op.LD | op.LEN, 0), (op.LDX | op.LEN, 0)]
            choice += [(op.LDX | op.B | op.MSH, near), (op.LD | op.MEM, draw(words)), (op.LDX | op.MEM, draw(words))]
            code, k = draw(st.sampled_from(choice))
            rows.append((code, 0, 0, k))
        elif kind == 4:
            rows.append((draw(st.sampled_from([op.ST, op.STX])), 0, 0, draw(words)))
        elif kind == 5:
            rows.append((draw(st.sampled_from([op.MISC | op.TAX, op.MISC | op.TXA])), 0, 0, 0))
        elif kind <= 7:
            operation = draw(st.sampled_from([*range(0, 0x80, 0x10), op.MOD, op.XOR]))
            source = draw(st.sampled_from([op.K, op.X]))
            k = draw(number)
            if operation in (op.LSH, op.RSH):
                k %= 32
            rows.append((op.ALU | operation | source, 0, 0, k or int(operation in (op.DIV, op.MOD))))
            if draw(st.integers(0, 8)) == 0:
                rows[-1] = (op.ALU | op.NEG, 0, 0, 0)
        elif kind == 8:
            operation = draw(st.sampled_from([op.JEQ, op.JGT, op.JGE, op.JSET]))
            source = draw(st.sampled_from([op.K, op.X]))
            rows.append((op.JMP | operation | source, draw(step), draw(step), draw(number)))
        else:
            jump = (op.JMP | op.JA, 0, 0, draw(step))
            rows.append(draw(st.sampled_from([jump, (op.RET | op.A, 0, 0, 0), (op.RET | op.K, 0, 0, 1)])))
    rows.append(draw(st.sampled_from([(op.RET | op.A, 0, 0, 0), (op.RET | op.K, 0, 0, 1), (op.RET | op.K, 0, 0, 0)])))
    return Program.of(rows)
