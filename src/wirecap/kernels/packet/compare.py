"""Addresses as text in a handler's comparisons: ``packet.ip.src == "192.0.2.1"``, in compiled code and plain Python.

A field is a number (IPv4, MAC) or a pair (IPv6).  By itself Numba compares a number and a text without complaint, and
they are never equal.  So here the text becomes the number when the function is compiled, and what is no address is
refused.
"""

from __future__ import annotations

import operator
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import numpy as np

from wirecap.kernels.base.jit import PURE, extends_numba
from wirecap.kernels.base.later import extending, numba, types

MACS = ("eth.src", "eth.dst", "arp.sender_mac", "arp.target_mac")
IPS = ("ip.src", "ip.dst", "arp.sender_ip", "arp.target_ip")
PAIRS = ("ip6.src", "ip6.dst")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")
_LOW64 = (1 << 64) - 1


class UnlikeError(Exception):
    """A comparison that can never be true.  Arguments: what is wrong, the way out, the text."""


def number_of(text: str) -> int | None:
    """An IPv4 or MAC address as the number that its field is; None if it is neither."""
    if _MAC.fullmatch(text.lower()):
        return int(text.replace(":", ""), 16)
    try:
        return int(IPv4Address(text))
    except ValueError:
        return None


def pair_of(text: str) -> tuple[int, int] | None:
    """An IPv6 address as (high, low); None if it is none."""
    try:
        number = int(IPv6Address(text))
    except ValueError:
        return None
    return number >> 64, number & _LOW64


class Number(int):
    """An IPv4 or MAC address, which equals its text."""

    def __eq__(self, other: object) -> bool:
        return int(self) == (number_of(other) if isinstance(other, str) else other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = int.__hash__


class Pair(tuple[int, int]):
    """An IPv6 address as (high, low), which equals its text."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return tuple(self) == (pair_of(other) if isinstance(other, str) else other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = tuple.__hash__


_MADE: dict[str, Callable[[Any], Any]] = {**dict.fromkeys((*IPS, *MACS), Number), **dict.fromkeys(PAIRS, Pair)}


def comparable(field: str, value: Any) -> Any:
    """The value of a field such as ``ip.src``; an address as what equals its text."""
    made = _MADE.get(field)
    return made(value) if made else value


def check(field: str, text: str) -> None:
    """Raise UnlikeError if a field, such as ``ip.src``, can never equal this text."""
    if field in PAIRS:
        fits, like = pair_of(text) is not None, 'an IPv6 address, as in == "2001:db8::1"'
    elif field in MACS:
        fits, like = _MAC.fullmatch(text.lower()) is not None, 'a MAC address, as in == "02:00:00:00:00:01"'
    elif field in IPS:
        fits, like = ":" not in text and number_of(text) is not None, 'an IPv4 address, as in == "192.0.2.1"'
    else:
        fits, like = False, "a number"
    if not fits:
        raise UnlikeError(
            f"packet.{field} is compared with {text!r}, which it never is", f"compare it with {like}", text
        )


_compiling = threading.local()


@contextmanager
def of_a_handler() -> Iterator[None]:
    """While a handler is compiled; functions of other programs may compare what they like."""
    _compiling.now = True
    try:
        yield
    finally:
        _compiling.now = False


if not PURE:

    def _is_text(kind: Any) -> bool:
        return isinstance(kind, (types.StringLiteral, types.UnicodeType))

    def _is_pair(kind: Any) -> bool:
        return isinstance(kind, types.UniTuple) and len(kind) == 2 and isinstance(kind.dtype, types.Integer)

    def _words(field: Any, text: Any) -> tuple[Any, ...] | None:
        """What a text is for a field of that type; None if these are not a field and a text."""
        if not getattr(_compiling, "now", False) or not _is_text(text):
            return None
        if not (_is_pair(field) or isinstance(field, types.Integer)):
            return None
        if not isinstance(text, types.StringLiteral):
            raise UnlikeError("a field is compared with a text that is not constant", "write the address there", "")
        address = text.literal_value
        pair, number = pair_of(address), number_of(address)
        if _is_pair(field) and pair:
            return np.uint64(pair[0]), np.uint64(pair[1])
        if not _is_pair(field) and number is not None:
            return (np.int64(number),)
        what, like = ("an IPv6 address", "2001:db8::1") if _is_pair(field) else ("a number", "192.0.2.1")
        raise UnlikeError(
            f"{what} is compared with {address!r}, which it never is",
            f'compare numbers with numbers, and addresses with their text, as in == "{like}"', address,
        )  # fmt: skip

    def _equals(words: tuple[Any, ...]) -> Any:
        """The function (field) that says whether it equals these words."""
        if len(words) == 1:
            number = words[0]
            return numba.njit(lambda field: field == number)
        high, low = words
        return numba.njit(lambda field: field[0] == high and field[1] == low)

    def _either(first: Any, second: Any) -> Any:
        return numba.njit(lambda field: first(field) or second(field))

    def _comparison(expected: bool) -> Any:
        """The overload of ``==`` or ``!=``."""

        def choose(a, b):  # type: ignore[no-untyped-def]
            words = _words(a, b)
            if words:
                is_a = _equals(words)
                return lambda a, b: is_a(a) == expected
            words = _words(b, a)
            if words:
                is_b = _equals(words)
                return lambda a, b: is_b(b) == expected
            return None

        return choose

    def _contains(a, b):  # type: ignore[no-untyped-def]
        """The overload of ``b in a``, for a tuple of texts."""
        if not isinstance(a, types.BaseTuple) or not any(map(_is_text, a.types)):
            return None
        found = [words for text in a.types if (words := _words(b, text))]
        if len(found) < len(a):  # not a handler's field, or texts and numbers together
            return None
        is_one = _equals(found[0])
        for words in found[1:]:
            is_one = _either(is_one, _equals(words))
        return lambda a, b: is_one(b)

    @extends_numba
    def _register() -> None:
        for comparison, choose in ((operator.eq, _comparison(True)), (operator.ne, _comparison(False))):
            extending.overload(comparison, target="cpu", prefer_literal=True)(choose)
        extending.overload(operator.contains, target="cpu", prefer_literal=True)(_contains)
