"""The numbers of classic BPF.

The instruction set is that of McCanne and Jacobson, "The BSD Packet Filter" (USENIX 1993), as the kernel
document networking/filter.rst and libpcap have it today (``mod`` and ``xor`` came later).
"""

from __future__ import annotations

# Instruction classes: code & 7.
LD, LDX, ST, STX, ALU, JMP, RET, MISC = range(8)

# Size (code & 0x18) and addressing mode (code & 0xe0) of a load.
W, H, B = 0x00, 0x08, 0x10
IMM, ABS, IND, MEM, LEN, MSH = 0x00, 0x20, 0x40, 0x60, 0x80, 0xA0
SIZE_BYTES = {W: 4, H: 2, B: 1}

# Operation (code & 0xf0) of ALU and JMP.
ADD, SUB, MUL, DIV, OR, AND, LSH, RSH, NEG, MOD, XOR = range(0x00, 0xB0, 0x10)
JA, JEQ, JGT, JGE, JSET = range(0x00, 0x50, 0x10)
IN, NEXT = 0xE0, 0xF0
"""Our own: whether A is in the set of number k, alone or behind what was found before (wirecap.filters.sets)."""

# Operand: the constant k or the register X; what RET returns: k or the register A; MISC.
K, X, A = 0x00, 0x08, 0x10
TAX, TXA = 0x00, 0x80

MEMORY_WORDS = 16
EXTENSIONS = 0xFFE00000
"""Absolute loads from here on are Linux's own (SKF_LL_OFF, SKF_NET_OFF and SKF_AD_OFF of linux/filter.h)."""
EXTENSION = 0xFFFFF000
PACKET_TYPE, INTERFACE = EXTENSION + 4, EXTENSION + 8
"""SKF_AD_OFF, and of its fields those that expressions ask for (``inbound``, ``ifindex``)."""

MAX_BACKWARD_JUMPS = 16384
"""More than the extension headers that fit 64 KiB; libpcap loops for ``ip6 protochain`` only."""

_LOADS = {LD | size | mode for size in (W, H, B) for mode in (ABS, IND)}
_LOADS |= {LD | IMM, LD | MEM, LD | W | LEN, LDX | IMM, LDX | MEM, LDX | W | LEN, LDX | B | MSH}
_ALU = {ALU | op | source for op in (ADD, SUB, MUL, DIV, OR, AND, LSH, RSH, MOD, XOR) for source in (K, X)}
_JUMPS = {JMP | op | source for op in (JEQ, JGT, JGE, JSET) for source in (K, X)}
SEARCHES = frozenset((JMP | IN, JMP | NEXT))
_OTHERS = {ALU | NEG, ST, STX, JMP | JA, RET | K, RET | A, MISC | TAX, MISC | TXA}
OPCODES = frozenset(_LOADS | _ALU | _JUMPS | _OTHERS)
"""What programs have that libpcap compiles."""
