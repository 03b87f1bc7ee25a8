"""Who sends the most? NumPy over decoded columns.  python talkers.py FILE|INTERFACE [SECONDS]"""

import sys
from argparse import ArgumentParser
from collections import Counter
from ipaddress import IPv6Address

import numpy as np

import wirecap


def main(source: str, seconds: float | None = None) -> None:
    sent: Counter[tuple[int, int]] = Counter()
    with wirecap.open(source, duration_s=seconds) as capture:
        for chunk in capture:
            fields = chunk.decode()  # the headers of every packet at once, as columns
            there = fields.ip.there | fields.ip6.there
            found, place = np.unique(fields.src[there], axis=0, return_inverse=True)
            sizes = np.bincount(place.ravel(), weights=fields.length[there])
            for (high, low), size in zip(found.tolist(), sizes.tolist(), strict=True):
                sent[high, low] += int(size)
    for (high, low), size in sent.most_common(10):
        address = IPv6Address(high << 64 | low)
        print(f"{address.ipv4_mapped or address!s:<39} {size:>15,} bytes")


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("source", help="a capture file or an interface")
    parser.add_argument("seconds", nargs="?", type=float)
    given = parser.parse_args()
    try:
        main(given.source, given.seconds)
    except wirecap.WirecapError as error:
        sys.exit(str(error))
