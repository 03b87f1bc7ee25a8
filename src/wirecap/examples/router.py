"""Change packets on their way.  wirecap forward eth1 eth2 --handler ./router.py:ttl"""

import wirecap


@wirecap.handler
def ttl(packet, state):
    """What a router does: takes off one hop, corrects the checksum (RFC 1624), drops packets that are too old."""
    if packet.ip:
        if packet.ip.ttl <= 1:
            state.too_old += 1
            packet.drop()
        else:
            packet.ip.ttl -= 1
            total = packet.ip.checksum + 0x0100
            packet.ip.checksum = total + (total >= 0xFFFF)
    elif packet.ip6:
        if packet.ip6.hop_limit <= 1:
            state.too_old += 1
            packet.drop()
        else:
            packet.ip6.hop_limit -= 1


@wirecap.handler
def next_hop(packet, state, src=0x02_00_00_00_00_01, dst=0x02_00_00_00_00_02):
    """Sets the MAC addresses for the next link."""
    packet.eth.src = src
    packet.eth.dst = dst


@wirecap.handler
def tag(packet, state, vlan=7):
    packet.push_vlan(vlan)


@wirecap.handler
def untag(packet, state):
    if packet.vlan:
        packet.pop_vlan()
