"""A line for each packet, plain Python.  wirecap capture -i eth1 --handler examples/print_packets.py:show:octets=8"""

import sys
from datetime import UTC, datetime

import wirecap


@wirecap.packet_handler
def show(timestamp_ns, data, octets=14):
    seconds, nanoseconds = divmod(timestamp_ns, 10**9)
    when = datetime.fromtimestamp(seconds, UTC)
    print(f"{when:%H:%M:%S}.{nanoseconds:09} {len(data):5} bytes  {data[:octets].hex(' ')}")


if __name__ == "__main__":
    wirecap.capture(sys.argv[1], show)
