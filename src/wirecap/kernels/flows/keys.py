"""From a packet to the key of its flow, which is the same in both directions; or why it has none."""

from __future__ import annotations

import numpy as np

from wirecap.kernels.base.jit import PURE, inline, inline_always
from wirecap.kernels.base.views import peek, poke
from wirecap.kernels.flows.layout import FRAGMENT, IS_IP6, MALFORMED, NOT_IP, PORT_A, PROTOCOL, SEED, TRUNCATED, VLAN
from wirecap.kernels.packet import headers as p
from wirecap.kernels.packet.headers import link_layer, load8, load16, load32, load64, signed

_ALL = 0xFFFFFFFFFFFFFFFF
_ODD = 0x1E3779B97F4A7C15  # 2**64 / the golden ratio, as far as 61 bits go, and odd

# words of a key in scratch: first five as in an entry
TAG, ABOUT, BYTES, FOUND = 5, 6, 7, 8
# ABOUT: whether B sent it, TCP flags, type of service, ICMP's type and code
SENT_BY_B, SENT_FLAGS, SENT_TOS, SENT_ICMP, SENT_HAS_ICMP = 0, 8, 24, 32, 48


@inline
def has_ports(number):
    """TCP, UDP, SCTP, DCCP, UDP-Lite."""
    return number == 6 or number == 17 or number == 132 or number == 33 or number == 136


@inline
def _is_extension(number):
    return (
        number == 0 or number == 43 or number == 44 or number == 51 or number == 60 or number == 135 or number == 139
        or number == 140
    )  # fmt: skip


@inline
def _is_later_fragment6(packet, network):
    """Whether an IPv6 packet without a transport header has a fragment header that says why."""
    protocol, offset = load8(packet, network + 6), network + 40
    last = min(packet._captured - 8, offset + p.MOST_EXTENSION_BYTES)
    while offset <= last:
        if protocol == 44:
            if load16(packet, offset + 2) & 0xFFF8:
                return True
            length = 8
        elif protocol == 51:
            length = 4 * (load8(packet, offset + 1) + 2)
        elif _is_extension(protocol):
            length = 8 * (load8(packet, offset + 1) + 1)
        else:
            return False
        protocol, offset = load8(packet, offset), offset + length
    return False


@inline
def _why_no_network(packet, link):
    """Why there is no IP header to be read."""
    _, _, kind, offset = link_layer(packet, link)
    if kind == p.IPV4:
        return TRUNCATED if offset + 20 > packet._captured else MALFORMED
    if kind == p.IPV6:
        return TRUNCATED if offset + 40 > packet._captured else MALFORMED
    return NOT_IP


@inline
def _why_no_transport(packet, family, number, network):
    """Why a packet without a transport header belongs to no flow; 0: its protocol needs none."""
    if family == p.IP:
        if not has_ports(number):
            return 0
        return FRAGMENT if load16(packet, network + 6) & 0x1FFF else TRUNCATED
    later = _is_later_fragment6(packet, network)
    if has_ports(number) or _is_extension(number):
        return FRAGMENT if later else TRUNCATED
    return 0


if PURE:

    def tag_of(words, at, control):
        """31 bits of hash of the five words of a key at words[at:]."""
        mixed = 0
        for j in range(5):
            mixed += (int(words[at + j]) * int(control[SEED + j])) & _ALL
        mixed &= _ALL
        return ((mixed ^ mixed >> 32) * _ODD & _ALL) >> 33

else:

    @inline_always
    def tag_of(words, at, control):
        """31 bits of hash of the five words of a key at words[at:].

        Unsigned, because a product of signed numbers must not overflow: LLVM would take it to be what suits it.
        """
        mixed = np.uint64(0)
        for j in range(5):
            mixed += np.uint64(peek(words, at + j)) * np.uint64(peek(control, SEED + j))
        return np.int64((mixed ^ mixed >> np.uint64(32)) * np.uint64(_ODD) >> np.uint64(33))


@inline_always
def put_key(packet, link, original, keys, at):
    """Write the key, ABOUT and BYTES of a packet to keys[at:]; returns 0, or the kind of a packet without a flow."""
    headers = packet._headers
    family = headers >> p.FAMILY & p.FAMILY_MASK
    if family == p.NO_NETWORK or family == p.ARPS:
        return NOT_IP if family == p.ARPS else _why_no_network(packet, link)
    network = headers >> p.NETWORK & p.NETWORK_MASK
    number = headers >> p.PROTOCOL & p.PROTOCOL_MASK
    transport = headers & p.TRANSPORT_MASK
    if transport == 0:
        why = _why_no_transport(packet, family, number, network)
        if why:
            return why
    source, target, flags, icmp = 0, 0, 0, 0
    if has_ports(number):
        ports = load32(packet, transport)
        source, target = ports >> 16, ports & 0xFFFF
        if number == 6 and packet._captured - transport >= 20:
            flags = load16(packet, transport + 12) & 0xFFF
    elif transport and (number == 1 if family == p.IP else number == 58):
        icmp = load16(packet, transport) | 1 << SENT_HAS_ICMP - SENT_ICMP
    tag = 0
    if headers >> p.TAG_COUNT & p.TAG_MASK:
        tag = load16(packet, headers >> p.TAGGED_AT & p.TAGGED_MASK) & 0xFFF
    common = number << PROTOCOL | tag << VLAN
    if family == p.IP:
        near, far = load32(packet, network + 12), load32(packet, network + 16)
        turned = near << 16 | source > far << 16 | target
        poke(keys, at, 0)
        poke(keys, at + 1, far if turned else near)
        poke(keys, at + 2, 0)
        poke(keys, at + 3, near if turned else far)
        tos = load8(packet, network + 1)
        ip_bytes = load16(packet, network + 2)
    else:
        near, far = signed(load64(packet, network + 8)), signed(load64(packet, network + 24))
        near2, far2 = signed(load64(packet, network + 16)), signed(load64(packet, network + 32))
        turned = near > far or (near == far and (near2 > far2 or (near2 == far2 and source > target)))
        poke(keys, at, far if turned else near)
        poke(keys, at + 1, far2 if turned else near2)
        poke(keys, at + 2, near if turned else far)
        poke(keys, at + 3, near2 if turned else far2)
        tos = load16(packet, network) >> 4 & 0xFF
        ip_bytes = load16(packet, network + 4)
        ip_bytes += 40 if ip_bytes else 0
        common |= 1 << IS_IP6
    poke(keys, at + 4, common | (target << PORT_A | source if turned else source << PORT_A | target))
    poke(keys, at + ABOUT, turned | flags << SENT_FLAGS | tos << SENT_TOS | icmp << SENT_ICMP)
    if ip_bytes == 0:  # segmented later, or a jumbogram
        ip_bytes = max(original, packet._captured) - network
    poke(keys, at + BYTES, ip_bytes)
    return 0
