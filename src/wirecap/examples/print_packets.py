"""A line per packet, in plain Python.  wirecap capture -i eth1 --handler ./print_packets.py:show:first=8"""

import sys
from argparse import ArgumentParser
from datetime import UTC, datetime

import wirecap


@wirecap.packet_handler
def show(timestamp_ns, data, first=14):
    seconds, nanoseconds = divmod(timestamp_ns, 10**9)
    when = datetime.fromtimestamp(seconds, UTC)
    print(f"{when:%H:%M:%S}.{nanoseconds:09} {len(data):5} bytes  {data[:first].hex(' ')}")


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("source", help="a capture file or an interface")
    source = parser.parse_args().source
    try:
        wirecap.capture(source, show)
    except wirecap.WirecapError as error:
        sys.exit(str(error))
