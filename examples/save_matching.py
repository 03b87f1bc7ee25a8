"""Keep the packets that a Python condition likes.  python examples/save_matching.py FILE|INTERFACE TEXT OUT [SECONDS]

Python looks at every packet here: convenient, and good for some hundred thousand packets a second.
"""

import struct
import sys
from pathlib import Path

import wirecap

HEADER = struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262144, 1)  # pcap with nanoseconds, Ethernet


def main(source: str, text: str, out: str, seconds: float | None = None) -> None:
    wanted = text.encode()
    with wirecap.open(source, duration_s=seconds) as capture, Path(out).open("wb") as file:
        file.write(HEADER)
        for chunk in capture:
            for packet, stamp, original in zip(chunk, chunk.timestamps.tolist(), chunk.original_lengths, strict=True):
                data = bytes(packet)
                if wanted in data:
                    file.write(struct.pack("<IIII", *divmod(stamp, 10**9), len(data), original) + data)


if __name__ == "__main__":
    main(*sys.argv[1:4], float(sys.argv[4]) if len(sys.argv) > 4 else None)
