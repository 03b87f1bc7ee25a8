"""Beside tcpreplay: the same packets with --unique-ip, and every option of its in the documents."""

from __future__ import annotations

import re
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from replay_rig import Receiver, write_pcap
from rig import time_limit
from wirecap.cli import main, replay
from wirecap.lab.testbed import Testbed
from wirecap.traffic import synthetic

__all__ = ["time_limit"]
Make = Callable[..., Testbed]
PAGE = Path(__file__).parents[2] / "docs/from-tcpreplay.md"


def packets() -> list[bytes]:
    """IPv4 and IPv6, both ways, with VLAN tags, next to the ends of the address space."""
    pairs = [
        ("10.0.0.5", "10.0.0.200"), ("10.0.0.200", "10.0.0.5"), ("10.0.0.5", "10.0.0.5"), ("0.0.0.1", "10.0.0.5"),
        ("10.0.0.5", "255.255.255.254"), ("0.0.0.1", "255.255.255.255"), ("255.255.255.255", "0.0.0.2"),
    ]  # fmt: skip
    found = [synthetic.udp(80, source=source, destination=destination) for source, destination in pairs]
    found.append(found[0][:12] + b"\x81\0\0\7" + found[0][12:])
    prefix = b"\xfd" + bytes(11)
    for one, other in ((5, 0xF0), (0xF0, 5), (1, 0xFFFFFFFF)):
        ends = prefix + struct.pack("!I", one) + prefix + struct.pack("!I", other)
        found.append(bytes(12) + b"\x86\xdd" + struct.pack("!IHBB", 6 << 28, 8, 17, 64) + ends + bytes(8))
    return found


@pytest.mark.live("tcpreplay")
def test_unique_addresses_are_those_of_tcpreplay(testbed: Make, tmp_path: Path) -> None:
    """Six loops with --unique-ip: byte for byte what tcpreplay sends, checksums included, whether the file is read
    again or kept."""
    bed = testbed(queues=1)
    outside, file = bed.nics[0].outside, write_pcap(tmp_path / "a.pcap", packets())
    count, arguments = 6 * len(packets()), ["--unique-ip", "--loop=6", f"--intf1={outside}"]
    with Receiver(bed, count) as theirs:
        subprocess.run(["tcpreplay", "-q", "--pps=2000", *arguments, str(file)], check=True, capture_output=True)
    assert len(set(theirs.packets[0])) == count
    with Receiver(bed, count) as ours:
        assert main.run(["replay", "--pps=2000", *arguments, str(file)]) == 0
    assert ours.packets[0] == theirs.packets[0]
    zipped = tmp_path / "a.pcap.gz"
    zipped.write_bytes(subprocess.run(["gzip", "-c", str(file)], check=True, capture_output=True).stdout)
    with Receiver(bed, count) as streamed:
        assert main.run(["replay", "-t", *arguments, str(zipped)]) == 0
    assert streamed.packets[0] == theirs.packets[0]


@pytest.mark.parametrize("program", ["tcpreplay", "tcpreplay-edit", "tcpprep"])
def test_every_option_is_in_the_documents(program: str) -> None:
    """Each long option that the installed program prints stands in docs/from-tcpreplay.md, and ``replay`` takes
    tcpreplay's or refuses them with a reason."""
    try:
        text = subprocess.run([program, "--help"], capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        pytest.skip(f"needs {program}")
    options = set(re.findall(r"^ +(?:-., )?(--[a-z][a-z0-9-]+)", text, re.MULTILINE)) | {"--no-load-opts"}
    assert len(options) > 20
    page = set(re.findall(r"--[a-z][a-z0-9-]+", PAGE.read_text()))
    assert options <= page
    if program != "tcpprep":
        assert options <= {name for parameter in replay.command.params for name in parameter.opts} | {"--help"}
