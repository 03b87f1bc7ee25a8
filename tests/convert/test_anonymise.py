"""Anonymised captures: every address that tshark finds is the one that Crypto-PAn makes of it, and checksums hold."""

from __future__ import annotations

import ipaddress
import re
from functools import cache
from pathlib import Path

import capture_bytes as cb
import numpy as np
import pytest
from beside_editcap import ours, peer

from wirecap.kernels.base.jit import PURE

ciphers = pytest.importorskip("cryptography.hazmat.primitives.ciphers", reason="cryptography is not installed")

KEY = bytes(range(32))


@cache
def naive(address: str) -> str:
    """Crypto-PAn as its paper has it, bit by bit."""
    cipher = ciphers.Cipher(ciphers.algorithms.AES(KEY[:16]), ciphers.modes.ECB()).encryptor()
    pad = int.from_bytes(cipher.update(KEY[16:]), "big")
    if address != plain(address):
        whole, width = int(address.replace(":", ""), 16), 48
        if whole in (0, 2**48 - 1):
            return address
    else:
        parsed = ipaddress.ip_address(address)
        whole, width = int(parsed), parsed.max_prefixlen
    found = 0
    for bits in range(width):
        prefix = whole >> (width - bits) << (128 - bits) if bits else 0
        block = prefix | pad & ((1 << (128 - bits)) - 1)
        found = found << 1 | cipher.update(block.to_bytes(16, "big"))[0] >> 7
    found ^= whole
    if width == 48:
        group_and_local = 3 << 40
        return f"{found & ~group_and_local | whole & group_and_local:012x}"
    return str(ipaddress.ip_address(found) if width == 128 else ipaddress.IPv4Address(found))


@pytest.mark.parametrize(
    ("key", "address", "expected"),
    [
        # the sample trace that comes with the authors' program
        ("1522178d33a4cf80130a5b1649907d10d8988f837979652762574c2d2a842202", "128.11.68.132", "135.242.180.132"),
        ("1522178d33a4cf80130a5b1649907d10d8988f837979652762574c2d2a842202", "129.118.74.4", "134.136.186.123"),
        # as the Python package yacryptopan 1.0.3 gives them
        (b"32-char-str-for-AES-key-and-pad.".hex(), "192.0.2.1", "192.0.125.244"),
        (b"32-char-str-for-AES-key-and-pad.".hex(), "2001:db8::1", "27fe:8bc7:fee:1e:1e1f:f0fe:f0e1:83fd"),
    ],
)
def test_the_mapping_is_that_of_others(key: str, address: str, expected: str) -> None:
    """The same key maps an address as other programs map it."""
    from wirecap.convert.anonymise import CryptoPan

    number = ipaddress.ip_address(address)
    padded = np.frombuffer(number.packed.ljust(16, b"\0"), np.uint8).reshape(1, 16)
    found = CryptoPan(bytes.fromhex(key)).replace(padded, number.max_prefixlen)
    assert str(ipaddress.ip_address(found.tobytes()[: len(number.packed)])) == expected


def plain(address: str) -> str:
    """A MAC address without its colons."""
    return address.replace(":", "") if re.fullmatch("(?:[0-9a-f]{2}:){5}[0-9a-f]{2}", address) else address


ADDRESSES = (
    "ip.src ip.dst ipv6.src ipv6.dst arp.src.proto_ipv4 arp.dst.proto_ipv4 icmpv6.nd.ns.target_address"
    " icmpv6.nd.na.target_address eth.src eth.dst arp.src.hw_mac arp.dst.hw_mac icmpv6.opt.src_linkaddr"
).split()
CHECKSUMS = "ip tcp udp icmp icmpv6".split()
NOT_INSIDE = ("capwap", "sflow", "cfp", "teredo")


def seen(path: Path) -> list[list[str]]:
    fields = [*ADDRESSES, *(f"{name}.checksum.status" for name in CHECKSUMS), "frame.protocols"]
    options = [word for name in ("ip", "tcp", "udp") for word in ("-o", f"{name}.check_checksum:TRUE")]
    options += ["-o", "ip.defragment:FALSE", "-o", "ipv6.defragment:FALSE"]
    lines = peer("tshark", "-r", path, *options, "-T", "fields", *(w for f in fields for w in ("-e", f)))
    return [line.split("\t") for line in lines.splitlines()]


def test_what_tshark_finds(trace: Path, tmp_path: Path) -> None:
    """Each address is replaced as the paper says, also in tunnels and in what ICMP quotes; a right checksum is right
    afterwards, and a wrong one is wrong."""
    key = tmp_path / "key"
    key.write_text(KEY.hex())
    key.chmod(0o600)
    ours(trace, "-w", tmp_path / "out.pcap", "--anonymise", key)
    before, after = seen(trace), seen(tmp_path / "out.pcap")
    assert len(before) == len(after) == 6000
    compared = 0
    for was, now in zip(before, after, strict=True):
        if any(name in was[-1].split(":") for name in NOT_INSIDE):
            continue
        for old, new in zip(was[: len(ADDRESSES)], now, strict=False):
            expected = [plain(naive(address)) for address in old.split(",") if address]
            assert [plain(address) for address in new.split(",") if address] == expected, (old, was[-1])
            compared += len(expected)
        assert was[len(ADDRESSES) :][: len(CHECKSUMS)] == now[len(ADDRESSES) :][: len(CHECKSUMS)]
    assert compared > 20_000


@pytest.mark.parametrize("link", [113, 276])
@pytest.mark.parametrize("tags", [1, 6])
def test_tags_behind_cooked_headers(tmp_path: Path, link: int, tags: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Addresses behind any number of VLAN tags in a cooked capture are replaced, of headers that were cut, too."""
    tagged = bytes.fromhex("81000001") * tags + b"\x08\x00"
    addresses = bytes([192, 0, 2, 77, 198, 51, 100, 77])
    whole = b"\x45\0\0\x1c\0\0\0\0\x40\x11\0\0" + addresses + bytes.fromhex("0035003500080000")
    head = bytes(14) + tagged if link == 113 else tagged[:2] + bytes(18) + tagged[2:]
    data = cb.section() + cb.interface(linktype=link)
    data += b"".join(cb.enhanced("<", 0, 1, head + ip, len(head) + 28) for ip in (whole, whole[:16]))
    (tmp_path / "in").write_bytes(data)
    ours(tmp_path / "in", "-w", tmp_path / "out.pcapng", "--anonymise", tmp_path / "key")
    out = (tmp_path / "out.pcapng").read_bytes()
    assert addresses[:4] not in out
    assert addresses[4:] not in out
    assert "no IP or ARP header" not in capsys.readouterr().err


def test_names_and_interface_addresses_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A pcapng file's other places for addresses do not give them away; comments stay, for the user to look after."""
    secret, note = bytes([192, 0, 2, 77]), cb.option("<", 1, b"a note")
    options = note + cb.option("<", 4, secret + b"\xff\xff\xff\0") + cb.option("<", 6, b"\2" + secret + b"\1")
    names = cb.block("<", 4, cb.option("<", 1, secret + b"host\0") + bytes(4))
    data = cb.section() + cb.interface(options=options + bytes(4)) + names
    (tmp_path / "in").write_bytes(data + cb.enhanced("<", 0, 1, bytes(12) + b"\x08\0" + bytes(20), 34))
    ours(tmp_path / "in", "-w", tmp_path / "out.pcapng", "--anonymise", tmp_path / "key")
    out = (tmp_path / "out.pcapng").read_bytes()
    assert secret not in out
    assert b"a note" in out
    assert "left out: 1 block of names, which hold addresses" in capsys.readouterr().err


@pytest.mark.kernel
def test_keys(trace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A key is made where there is none, for its owner alone, and used again; a readable or damaged one is refused."""
    key, first, second = (tmp_path / name for name in ("key", "a.pcap", "b.pcap"))
    part = ("--packets", "1-50") if PURE else ()
    ours(trace, "-w", first, "--anonymise", key, *part)
    assert key.stat().st_mode & 0o777 == 0o600
    ours(trace, "-w", second, "--anonymise", key, *part)
    assert first.read_bytes() == second.read_bytes()
    key.chmod(0o640)
    ours(trace, "-w", second, "--anonymise", key, status=2)
    assert "others can read this key (mode 0640)" in capsys.readouterr().err
    key.write_text("abc")
    key.chmod(0o600)
    ours(trace, "-w", second, "--anonymise", key, status=2)
    assert "not a key" in capsys.readouterr().err
