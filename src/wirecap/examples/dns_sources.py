"""Who asks how often? DNS queries by source. Compiled.  wirecap capture -i eth1 --handler ./dns_sources.py:queries"""

import sys
from argparse import ArgumentParser

import wirecap


@wirecap.handler(state={"sources": wirecap.Counter("src")})
def queries(packet, state, port=53):
    if packet.udp and packet.dst_port == port:
        state.sources.add(packet)


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("source", help="a capture file or an interface")
    source = parser.parse_args().source
    try:
        found = wirecap.capture(source, queries).result["sources"]
    except wirecap.WirecapError as error:
        sys.exit(str(error))
    for asking, count in found.items():
        print(f"{asking} {count}")
