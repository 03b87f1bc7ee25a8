"""Who sends the most to whom? Compiled.  wirecap capture -i eth1 --handler ./top_talkers.py:top_talkers"""

import sys
from argparse import ArgumentParser

import wirecap


@wirecap.handler(state={"bytes": wirecap.Top(10, "src", "dst")})
def top_talkers(packet, state):
    state.bytes.add(packet, packet.length)


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("source", help="a capture file or an interface")
    source = parser.parse_args().source
    try:
        found = wirecap.capture(source, top_talkers).result["bytes"]
    except wirecap.WirecapError as error:
        sys.exit(str(error))
    for (src, dst), data in found.items():
        print(f"{src} > {dst} {data:,} bytes")
