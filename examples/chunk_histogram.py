"""How large are the packets? NumPy.  wirecap capture -i eth1 --handler examples/chunk_histogram.py:sizes"""

import sys

import numpy as np

import wirecap

EDGES = [0, 64, 128, 256, 512, 1024, 1519, 1 << 18]


def by_size(threads):
    packets = sum(state.packets for state in threads)
    return {f"{low}-{high - 1}": int(count) for low, high, count in zip(EDGES, EDGES[1:], packets, strict=False)}


@wirecap.chunk_handler(state={"packets": (np.int64, len(EDGES) - 1)}, merge=by_size)
def sizes(chunk, state):
    """Called with up to M packets at a time; chunk's arrays are views of the pool, nothing is copied."""
    state.packets += np.histogram(chunk.original_lengths, EDGES)[0]


if __name__ == "__main__":
    for size, packets in wirecap.capture(sys.argv[1], sizes).result.items():
        print(f"{size:>12} bytes {packets:>12,} packets")
