"""DNS queries and answers. Compiled.  wirecap capture -i eth1 --handler ./dns.py:dns"""

import sys
from argparse import ArgumentParser

import wirecap


@wirecap.handler
def dns(packet, state, port=53):
    if packet.src_port != port and packet.dst_port != port:
        return
    state.packets += 1
    if packet.udp:
        answer = packet.u16(packet.udp.payload + 2) >> 15  # RFC 1035, section 4.1.1: the bit QR
        if answer:
            state.answers += 1
            if packet.u16(packet.udp.payload + 2) & 15:
                state.errors += 1
        else:
            state.queries += 1


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("source", help="a capture file or an interface")
    source = parser.parse_args().source
    try:
        print(wirecap.capture(source, dns).result)
    except wirecap.WirecapError as error:
        sys.exit(str(error))
