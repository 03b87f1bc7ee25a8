"""How large are the packets? NumPy.  wirecap capture -i eth1 --handler ./chunk_histogram.py:sizes"""

import sys
from argparse import ArgumentParser

import numpy as np

import wirecap

EDGES = [0, 64, 128, 256, 512, 1024, 1519, 1 << 18]


def by_size(threads):
    packets = sum(state.packets for state in threads)
    return {f"{low}-{high - 1}": int(count) for low, high, count in zip(EDGES, EDGES[1:], packets, strict=False)}


@wirecap.chunk_handler(state={"packets": (np.int64, len(EDGES) - 1)}, merge=by_size)
def sizes(chunk, state):
    """Called with up to M packets at a time; the chunk's arrays are views of the pool, so nothing is copied."""
    state.packets += np.histogram(chunk.original_lengths, EDGES)[0]


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("source", help="a capture file or an interface")
    source = parser.parse_args().source
    try:
        found = wirecap.capture(source, sizes).result
    except wirecap.WirecapError as error:
        sys.exit(str(error))
    for size, packets in found.items():
        print(f"{size:>12} bytes {packets:>12,} packets")
