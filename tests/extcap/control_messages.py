"""What Wireshark reads from the control pipe of an extcap (extcap(4))."""

from __future__ import annotations


def messages(data: bytes) -> list[tuple[int, int, str]]:
    """(control, command, text) of each message of extcap(4)'s control protocol; none is cut."""
    found = []
    while data:
        assert data[:1] == b"T"
        end = 4 + int.from_bytes(data[1:4], "big")
        assert len(data) >= end
        found.append((data[4], data[5], data[6:end].decode()))
        data = data[end:]
    return found
