"""Who sends the most? Compiled.  wirecap capture -i eth1 --handler examples/top_talkers.py:top_talkers"""

import sys
from collections import Counter
from ipaddress import IPv4Address

import numpy as np

import wirecap

PLACES = 1 << 16


def merge(threads):
    """The tables of all threads as one list, the largest first."""
    sent = Counter()
    for state in threads:
        for place in np.flatnonzero(state.octets):
            sent[int(state.address[place])] += int(state.octets[place])
    return {str(IPv4Address(address)): octets for address, octets in sent.most_common(10)}


@wirecap.handler(state={"address": (np.uint32, PLACES), "octets": (np.int64, PLACES), "full": np.int64}, merge=merge)
def top_talkers(packet, state):
    if not packet.ip:
        return
    place = packet.ip.src * 2654435761 % PLACES  # Knuth's multiplicative hash, then the next free place
    for _ in range(64):
        if state.octets[place] == 0 or state.address[place] == packet.ip.src:
            state.address[place] = packet.ip.src
            state.octets[place] += packet.length
            return
        place = (place + 1) % PLACES
    state.full += 1


if __name__ == "__main__":
    for address, octets in wirecap.capture(sys.argv[1], top_talkers).result.items():
        print(f"{address:<15} {octets:>15,} bytes")
