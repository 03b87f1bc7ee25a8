"""How large are the packets?  python sizes.py FILE|INTERFACE [SECONDS]"""

import sys
from argparse import ArgumentParser

import numpy as np

import wirecap

EDGES = [0, 64, 128, 256, 512, 1024, 1519, 1 << 18]


def main(source: str, seconds: float | None = None) -> None:
    histogram = np.zeros(len(EDGES) - 1, dtype=np.int64)
    with wirecap.open(source, duration_s=seconds) as capture:
        for chunk in capture:  # up to M packets at a time; arrays are views of the pool, not copies
            histogram += np.histogram(chunk.original_lengths, EDGES)[0]
    for low, high, packets in zip(EDGES, EDGES[1:], histogram, strict=False):
        print(f"{low:>6} - {high - 1:<6} bytes {packets:>12,} packets")
    print(capture.summary()["packets"])


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("source", help="a capture file or an interface")
    parser.add_argument("seconds", nargs="?", type=float)
    given = parser.parse_args()
    try:
        main(given.source, given.seconds)
    except wirecap.WirecapError as error:
        sys.exit(str(error))
