"""How long are UDP's payloads? A histogram. Compiled.  wirecap capture -i eth1 --handler ./payload_sizes.py:sizes"""

import sys
from argparse import ArgumentParser

import wirecap


@wirecap.handler(state={"udp": wirecap.Histogram(edges=[0, 1, 64, 128, 256, 512, 1024])})
def sizes(packet, state):
    if packet.udp:
        state.udp.add(packet.udp.length - 8)


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("source", help="a capture file or an interface")
    source = parser.parse_args().source
    try:
        found = wirecap.capture(source, sizes).result["udp"]
    except wirecap.WirecapError as error:
        sys.exit(str(error))
    for size, packets in found.items():
        print(f"{size:>12} bytes {packets:>12,} packets")
