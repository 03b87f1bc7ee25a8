"""How do packets begin? Plain Python, with a result.  wirecap capture -i eth1 --handler ./first_bytes.py:begins"""

import sys
from argparse import ArgumentParser
from collections import Counter

import wirecap


@wirecap.packet_handler(state=Counter)
def begins(timestamp_ns, data, state, count=6):
    """The state is whatever a call makes; all threads' as one is the result, which the command prints."""
    state[data[:count].hex(" ")] += 1


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("source", help="a capture file or an interface")
    source = parser.parse_args().source
    try:
        found = wirecap.capture(source, begins).result
    except wirecap.WirecapError as error:
        sys.exit(str(error))
    for first, packets in Counter(found).most_common(10):
        print(f"{first} {packets:>12,} packets")
