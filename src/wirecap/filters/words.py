"""The words of tcpdump's filter language, as far as long expressions are taken apart here."""

from __future__ import annotations

import re

_WORD = re.compile(r"!=|[()!]|&&|\|\||[^ \t\r\n()!&|]+|[&|]")

AND, OR, NOT = ("and", "&&"), ("or", "||"), ("not", "!")
JOINERS = (*AND, *OR)
WAYS = ("src", "dst")
_KEYWORDS = frozenset(
    "ip ip6 arp rarp tcp udp icmp icmp6 igmp igrp pim vrrp carp sctp ah esp ether wlan link fddi tr host net port"
    " portrange proto protochain src dst and or not less greater len broadcast multicast inbound outbound vlan mpls"
    " pppoed pppoes geneve vxlan atalk aarp decnet iso isis clnp stp ipx netbeui lat moprc mopdl".split()
) | {*JOINERS, *NOT}  # fmt: skip
_NUMBER = re.compile(r"\d[\w./-]*|[0-9A-Fa-f]*:[0-9A-Fa-f:./]*")


def words_of(text: str) -> list[str]:
    """An expression's words; joined by spaces, they mean what it means."""
    return _WORD.findall(text)


def names_nothing(text: str) -> bool:
    """Whether an expression is keywords, numbers and addresses alone: none of it is looked up as somebody's name."""
    return all(word in "()" or word in _KEYWORDS or _NUMBER.fullmatch(word) for word in words_of(text))
