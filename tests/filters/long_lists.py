"""Expressions with long lists, and packets that they hit and miss."""

from __future__ import annotations

import ipaddress
import random
import struct

V4 = [ipaddress.IPv4Address(0x0A000000 + (a << 16) + b) for a in range(3) for b in range(40)]
V6 = [ipaddress.IPv6Address((0x20010DB8 << 96) + (a << 64) + (b << 32) + c)
      for a in range(2) for b in (0, 1 << 20) for c in range(20)]  # fmt: skip
PORTS = [22, 53, 80, 443, *range(8000, 8100)]
MACS = [bytes([2, 0, 0, 0, a, b]) for a in range(3) for b in range(20)]
SPELLINGS = {"or": ("or", "or", "||"), "and": ("and", "and", "&&"), "not": ("not", "!")}


class Lists:
    """Random expressions around random lists, and random packets, from a seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def member(self) -> tuple[str, str]:
        """The words before a value, and the value."""
        choose, way = self.random.choice, self.random.choice(("", "", "src ", "dst ", "src or dst ", "dst or src "))
        return choose((
            lambda: (f"{choose(('', '', 'ip ', 'arp '))}{way}host", str(choose(V4))),
            lambda: (f"{way}host", str(choose(V6))),
            lambda: (f"ip6 {way}host", str(choose(V6))),
            lambda: (f"{way}net", self.net(choose(V4), self.random.randint(6, 32))),
            lambda: (f"{way}net", self.net(choose(V6), self.random.choice((16, 33, 48, 64, 65, 97, 127, 128)))),
            lambda: (f"{way}net", f"10.{self.random.randrange(4)}"),
            lambda: (f"{way}net", f"10.{self.random.randrange(4)}.0.0 mask 255.255.0.0"),
            lambda: (f"{choose(('', 'tcp ', 'udp ', 'sctp '))}{way}port", str(choose(PORTS))),
            lambda: (f"ether {choose(('src', 'dst', 'host'))}", choose(MACS).hex(":")),
        ))()  # fmt: skip

    def net(self, address: ipaddress.IPv4Address | ipaddress.IPv6Address, prefix: int) -> str:
        return str(ipaddress.ip_network((address, prefix), strict=False))

    def members(self, count: int, kinds: int) -> list[tuple[str, str]]:
        """Members of a few kinds, in any order."""
        heads = {self.member()[0] for _ in range(kinds)}
        found: list[tuple[str, str]] = []
        while len(found) < count:
            one = self.member()
            if one[0] in heads:
                found.append(one)
        return found

    def both_ends(self, negated: str, joiner: str) -> str:
        """Values behind ``src and dst``, which each of them takes over; wherever they stand, no set can tell them."""
        choose = self.random.choice
        way = choose(("src {} dst", "dst {} src")).format(self.spelt("and"))
        head, values = choose((
            (f"{way} host", [str(choose(V4)) for _ in range(4)]),
            (f"{choose(('', 'ip '))}{way} net", [self.net(choose(V4), self.random.randint(8, 24)) for _ in range(4)]),
            (f"{way} net", [self.net(choose(V6), 64), self.net(choose(V6), 33)]),
            (f"{choose(('', 'tcp '))}{way} port", [str(choose(PORTS)) for _ in range(4)]),
        ))  # fmt: skip
        return f"{negated}{head} " + "".join(f"{value} {self.spelt(joiner)} {negated}" for value in values)

    def spelt(self, word: str) -> str:
        return self.random.choice(SPELLINGS[word])

    def list(self, count: int) -> str:
        members = self.members(count, self.random.choice((1, 1, 2, 4)))
        form = self.random.randrange(3)
        if form == 0 and len({head for head, _ in members}) == 1:
            return f"{members[0][0]} ({' or '.join(value for _, value in members)})"
        negated, joiner = ("", "or") if form < 2 else (self.spelt("not") + " ", "and")
        text = self.both_ends(negated, joiner) if self.random.random() < 0.4 else negated
        for at, (head, value) in enumerate(members):
            shown = head + " " if not at or head != members[at - 1][0] or self.random.random() < 0.5 else ""
            text += (f" {self.spelt(joiner)} {negated}" if at else "") + shown + value
        return text

    def expression(self, count: int = 60) -> str:
        choose, one = self.random.choice, self.list(count)
        head, value = self.member()
        return choose((
            lambda: one,
            lambda: f"tcp and not ({one})",
            lambda: f"{one} and udp",
            lambda: f"udp or {one}",
            lambda: f"not ({one}) and len > 50",
            lambda: f"vlan and ({one})",
            lambda: f"({one}) or (vlan and ({self.list(count)}))",
            lambda: f"({one}) and not ({self.list(count)})",
            lambda: f"{head} {value} and {one}",
            lambda: f"{one} and {self.spelt('not')} {head} {value} and ip[8] != 64",
            lambda: f"(tcp[13]&7 != 0 or ({one})) and ether[0]&1 = 0",
        ))()  # fmt: skip

    def uncut(self, count: int) -> list[bytes]:
        """Packets that end behind all that a list looks at."""
        return [self.packet().ljust(90, b"\0") for _ in range(count)]

    def packet(self) -> bytes:
        """Ethernet, mostly whole, with addresses and ports that the lists may have."""
        choose, chance = self.random.choice, self.random.random
        ends = choose(MACS) + choose(MACS) if chance() < 0.7 else self.random.randbytes(12)
        tag = b"\x81\x00\x00\x05" if chance() < 0.25 else b""
        kind = choose((0x800, 0x800, 0x86DD, 0x86DD, 0x806, 0x8035, 0x88CC))
        ports = (
            struct.pack("!HH", choose([*PORTS, 9]), choose([*PORTS, 9])) + bytes(8) + bytes([0x50, choose((2, 16)), 1])
        )
        protocol = choose((6, 17, 132, 1))
        if kind == 0x800:
            fragment = choose((0, 0, 0, 0x2000, 100))
            size = choose((5, 5, 6))
            body = struct.pack("!BBHHHBBH", 0x40 | size, 0, 60, 1, fragment, choose((64, 9)), protocol, 0)
            body += self.address(V4) + self.address(V4) + bytes(4 * (size - 5)) + ports
        elif kind == 0x86DD:
            body = struct.pack("!IHBB", 6 << 28, 30, choose((protocol, protocol, 44)), 9)
            body += self.address(V6) + self.address(V6) + ports
        elif kind in (0x806, 0x8035):
            body = bytes([0, 1, 8, 0, 6, 4, 0, 1]) + choose(MACS) + self.address(V4) + choose(MACS) + self.address(V4)
        else:
            body = self.random.randbytes(40)
        packet = ends + tag + kind.to_bytes(2, "big") + body + bytes(choose((0, 30)))
        return packet[: self.random.randint(1, len(packet))] if chance() < 0.2 else packet

    def address(self, known: list[ipaddress.IPv4Address] | list[ipaddress.IPv6Address]) -> bytes:
        address = self.random.choice(known).packed
        if self.random.random() < 0.5:  # one that differs in one place
            place = self.random.randrange(len(address))
            address = address[:place] + self.random.randbytes(1) + address[place + 1 :]
        return address
