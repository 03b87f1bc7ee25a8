"""DNS queries and answers. Compiled.  wirecap capture -i eth1 --handler examples/dns.py:dns"""

import sys

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
    print(wirecap.capture(sys.argv[1], dns).result)
