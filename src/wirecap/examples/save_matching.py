"""Keep the packets that match a condition.  python save_matching.py FILE|INTERFACE TEXT OUT [SECONDS]

Python looks at every packet here, which is convenient, and good for some hundred thousand packets per second.
"""

import sys
from argparse import ArgumentParser

import wirecap


def main(source: str, text: str, out: str, seconds: float | None = None) -> None:
    wanted = text.encode()
    with wirecap.open(source, duration_s=seconds) as capture, wirecap.write(out) as file:
        for packet in capture.packets():
            if wanted in packet.data:
                file.write(packet)


if __name__ == "__main__":
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("source", help="a capture file or an interface")
    parser.add_argument("text")
    parser.add_argument("out", help="a new capture file")
    parser.add_argument("seconds", nargs="?", type=float)
    given = parser.parse_args()
    try:
        main(given.source, given.text, given.out, given.seconds)
    except wirecap.WirecapError as error:
        sys.exit(str(error))
