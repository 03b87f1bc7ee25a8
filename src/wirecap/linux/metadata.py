"""What a NIC knows of a packet beside its bytes, asked by the XDP program: its VLAN tag, its time, its hash.

The driver answers through kfuncs (Documentation/networking/xdp-rx-metadata.rst; Linux 6.3, tags 6.8), which only a
program that is bound to the interface may call, in native mode.  The kernel lets only programs of a licence that is
compatible with the GPL call them: LICENCE.

A tag that the NIC took out is put back into the frame at once, so that nothing behind the program knows of it.  The
NIC's time takes the place of the host's in the ledger.  The hash goes into the eight bytes in front of the frame, where
the kernel copies it along (bpf_xdp_adjust_meta).
"""

from __future__ import annotations

from dataclasses import dataclass

from wirecap.linux import bpf, btf, netdev
from wirecap.linux.asm import Insn

LICENCE = "Dual BSD/GPL"
HASH_BYTES = 8
"""In front of a frame: the NIC's hash, uint32, and its kind, uint32 (XDP_RSS_TYPE_... and HASHED; 0 without a hash)."""
HASHED = -0x80000000
TIME, HASH, TAG = "bpf_xdp_metadata_rx_timestamp", "bpf_xdp_metadata_rx_hash", "bpf_xdp_metadata_rx_vlan_tag"
_FEATURES = {TIME: netdev.TIMESTAMP, HASH: netdev.HASH, TAG: netdev.VLAN_TAG}
_ANSWER, _PUT_BACK, _STAMP = -40, -48, -56  # stack offsets, which a filter in the program leaves alone
_DATA, _DATA_END, _DATA_META = 0, 4, 8  # struct xdp_md, linux/bpf.h
_MACS, _TAG_BYTES = 12, 4


@dataclass(frozen=True)
class Metadata:
    """What a NIC's program asks for; each is a kfunc's number, 0 if it is not asked for."""

    tag: int = 0
    time: int = 0
    hash: int = 0

    def __bool__(self) -> bool:
        return bool(self.tag or self.time or self.hash)


NOTHING = Metadata()


def offered(ifindex: int) -> frozenset[str]:
    """Those of TIME, HASH and TAG that the interface's driver answers."""
    known = netdev.features(ifindex).received
    return frozenset(name for name, flag in _FEATURES.items() if known & flag)


def metadata(tag: bool = False, time: bool = False, hash: bool = False) -> Metadata:
    """What is wanted, as far as the kernel has it."""
    if not (tag or time or hash):
        return NOTHING
    numbers = btf.of_kernel((TIME, HASH, TAG))
    return Metadata(
        numbers.get(TAG, 0) if tag else 0, numbers.get(TIME, 0) if time else 0, numbers.get(HASH, 0) if hash else 0
    )


def put_back(kfunc: int, undone: bool) -> list[Insn]:
    """Put the tag that the NIC took out between the MAC addresses and the EtherType; register 6 is the context.

    undone: ``take_out`` follows.  A frame without four bytes of room in front of it stays as it is.
    """
    return [
        *([("stdw", 10, 0, _PUT_BACK, 0)] if undone else []),
        *_ask(kfunc, _ANSWER, _ANSWER + 4),
        ("jne_imm", 0, 0, "untagged", 0),
        ("mov_reg", 1, 6, 0, 0),
        ("mov_imm", 2, 0, 0, -_TAG_BYTES),
        ("call", 0, 0, 0, bpf.HELPERS["xdp_adjust_head"]),
        ("jne_imm", 0, 0, "untagged", 0),
        *_frame(_MACS + _TAG_BYTES, "untagged"),
        *_move(range(0, _MACS, 4), _TAG_BYTES, 0),
        ("ldxh", 1, 10, _ANSWER, 0),  # in network order
        ("stxh", 2, 1, _MACS, 0),
        ("ldxh", 1, 10, _ANSWER + 4, 0),
        ("be16", 1, 0, 0, 16),
        ("stxh", 2, 1, _MACS + 2, 0),
        *([("stdw", 10, 0, _PUT_BACK, 1)] if undone else []),
        ("label", "untagged"),
    ]


def take_out() -> list[Insn]:
    """Take a tag out again that ``put_back`` put in: the host has it beside the frame."""
    return [
        ("ldxdw", 1, 10, _PUT_BACK, 0),
        ("jeq_imm", 1, 0, "as_it_came", 0),
        *_frame(_MACS + _TAG_BYTES, "as_it_came"),
        *_move(range(_MACS - 4, -4, -4), 0, _TAG_BYTES),
        ("mov_reg", 1, 6, 0, 0),
        ("mov_imm", 2, 0, 0, _TAG_BYTES),
        ("call", 0, 0, 0, bpf.HELPERS["xdp_adjust_head"]),
        ("label", "as_it_came"),
    ]


def put_hash(kfunc: int, failures: int) -> list[Insn]:
    """Put the NIC's hash in front of the frame, or zeros where it has none.

    failures: offset from register 8, a counter of this CPU for frames that have no room for it.
    """
    return [
        *_ask(kfunc, _ANSWER, _ANSWER + 4),
        ("jne_imm", 0, 0, "unhashed", 0),
        ("ldxw", 1, 10, _ANSWER + 4, 0),
        ("or32_imm", 1, 0, 0, HASHED),
        ("stxw", 10, 1, _ANSWER + 4, 0),
        ("ja", 0, 0, "hashed", 0),
        ("label", "unhashed"),
        ("stdw", 10, 0, _ANSWER, 0),
        ("label", "hashed"),
        ("mov_reg", 1, 6, 0, 0),
        ("mov_imm", 2, 0, 0, -HASH_BYTES),
        ("call", 0, 0, 0, bpf.HELPERS["xdp_adjust_meta"]),
        ("jne_imm", 0, 0, "no_room", 0),
        ("ldxw", 2, 6, _DATA, 0),
        ("ldxw", 1, 6, _DATA_META, 0),
        ("mov_reg", 3, 1, 0, 0),
        ("add_imm", 3, 0, 0, HASH_BYTES),
        ("jgt_reg", 3, 2, "no_room", 0),
        ("ldxdw", 2, 10, _ANSWER, 0),
        ("stxdw", 1, 2, 0, 0),
        ("ja", 0, 0, "noted", 0),
        ("label", "no_room"),
        ("ldxdw", 5, 8, failures, 0),
        ("add_imm", 5, 0, 0, 1),
        ("stxdw", 8, 5, failures, 0),
        ("label", "noted"),
    ]


def time(kfunc: int, host: Insn, host_offset: int) -> list[Insn]:
    """The NIC's time in register 0; of a packet for which it has none, the host's in UTC.

    host: the call that reads the host's clock; host_offset: from register 9, what to add to that.
    """
    return [
        *_ask(kfunc, _STAMP),
        ("jne_imm", 0, 0, "by_host", 0),
        ("ldxdw", 0, 10, _STAMP, 0),
        ("jne_imm", 0, 0, "by_nic", 0),
        ("label", "by_host"),
        host,
        ("ldxdw", 1, 9, host_offset, 0),
        ("add_reg", 0, 1, 0, 0),
        ("label", "by_nic"),
    ]


def _ask(kfunc: int, *answers: int) -> list[Insn]:
    """Call a kfunc on the context, in register 6; answers: where on the stack they go, eight bytes that are zeroed."""
    code: list[Insn] = [("stdw", 10, 0, answers[0], 0), ("mov_reg", 1, 6, 0, 0)]
    for register, place in enumerate(answers, 2):
        code += [("mov_reg", register, 10, 0, 0), ("add_imm", register, 0, 0, place)]
    return [*code, ("call_kfunc", 0, 0, 0, kfunc)]


def _frame(size: int, shorter: str) -> list[Insn]:
    """The frame's start in register 2; jumps to ``shorter`` where it has less than ``size`` bytes."""
    return [
        ("ldxw", 3, 6, _DATA_END, 0),
        ("ldxw", 2, 6, _DATA, 0),
        ("mov_reg", 1, 2, 0, 0),
        ("add_imm", 1, 0, 0, size),
        ("jgt_reg", 1, 3, shorter, 0),
    ]


def _move(words: range, source: int, target: int) -> list[Insn]:
    """Move the MAC addresses, in words of four bytes; register 2 is the frame's start."""
    code: list[Insn] = []
    for at in words:
        code += [("ldxw", 1, 2, at + source, 0), ("stxw", 2, 1, at + target, 0)]
    return code
