"""Who sends the most?  python examples/talkers.py FILE|INTERFACE [SECONDS]"""

import sys
from collections import Counter
from ipaddress import IPv4Address

import numpy as np

import wirecap


def main(source: str, seconds: float | None = None) -> None:
    sent: Counter[int] = Counter()
    with wirecap.open(source, filter="ip", duration_s=seconds) as capture:
        for chunk in capture:
            whole = chunk.lengths >= 34  # an Ethernet and an IPv4 header
            # Four bytes of every packet at once: the source address, 26 bytes into the frame.
            octets = chunk.arena[chunk.offsets[whole][:, None] + np.arange(26, 30)]
            addresses = octets.view(">u4").ravel()
            found, place = np.unique(addresses, return_inverse=True)
            sizes = np.bincount(place, weights=chunk.original_lengths[whole])
            sent.update(dict(zip(found.tolist(), sizes.astype(np.int64).tolist(), strict=True)))
    for address, size in sent.most_common(10):
        print(f"{IPv4Address(address)!s:<15} {size:>15,} bytes")


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else None)
