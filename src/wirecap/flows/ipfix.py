"""Flow records as IPFIX messages (RFC 7011) over UDP or TCP, with both directions in a record (RFC 5103)."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from wirecap.config.endpoint import is_host
from wirecap.errors import UsageError, WirecapError
from wirecap.flows.records import NAMES, Records
from wirecap.flows.targets import Output

PORT, VERSION = 4739, 10
REVERSE = 29305
"""The enterprise number under which RFC 5103 has the other direction's elements."""
DOMAIN = 1
TEMPLATE_SET, MESSAGE_HEADER, SET_HEADER = 2, 16, 4
RESEND_S = 30.0
"""How often templates are sent again over UDP, where one may get lost and collectors forget them."""
LONGEST_S = 5.0
"""How long a TCP collector may take no bytes before the connection counts as lost."""
RETRY_S = 1.0
_IP_MTU, _IPV6_MTU = 14, 24  # linux/in.h, linux/in6.h
_ETHERNET, _HEADERS, _LEAST, _MOST = 1500, 48, 512, 65_535
_NTP = 2_208_988_800
"""Seconds from 1900 to 1970."""


class Element(NamedTuple):
    """An information element as the templates have it.  kind: how its column becomes bytes."""

    name: str
    number: int
    size: int
    kind: str = "number"
    enterprise: int = 0


_COMMON = (
    Element("flowStartNanoseconds", 152, 8, "milliseconds"), Element("flowEndNanoseconds", 153, 8, "milliseconds"),
    Element("flowStartNanoseconds", 156, 8, "ntp"), Element("flowEndNanoseconds", 157, 8, "ntp"),
    Element("packetDeltaCount", 2, 8), Element("octetDeltaCount", 1, 8), Element("layer2OctetDeltaCount", 352, 8),
    Element("reversePacketDeltaCount", 2, 8, enterprise=REVERSE),
    Element("reverseOctetDeltaCount", 1, 8, enterprise=REVERSE),
    Element("reverseLayer2OctetDeltaCount", 352, 8, enterprise=REVERSE),
    Element("sourceTransportPort", 7, 2), Element("destinationTransportPort", 11, 2),
    Element("reverseTcpControlBits", 6, 2, enterprise=REVERSE), Element("tcpControlBits", 6, 2),  # nfcapd: the last
    Element("vlanId", 58, 2), Element("protocolIdentifier", 4, 1), Element("ipVersion", 60, 1),
    Element("reverseIpClassOfService", 5, 1, enterprise=REVERSE), Element("ipClassOfService", 5, 1),
    Element("flowEndReason", 136, 1), Element("biflowDirection", 239, 1),
)  # fmt: skip
_WHERE = (
    Element("reverseIngressInterface", 10, 4, enterprise=REVERSE), Element("ingressInterface", 10, 4),
    Element("reverseEgressInterface", 14, 4, enterprise=REVERSE), Element("egressInterface", 14, 4),
    Element("reverseFlowDirection", 61, 1, enterprise=REVERSE), Element("flowDirection", 61, 1),
)  # fmt: skip
TEMPLATES: dict[int, tuple[Element, ...]] = {
    256: (
        Element("sourceIPv4Address", 8, 4, "address"), Element("destinationIPv4Address", 12, 4, "address"),
        Element("icmpTypeCodeIPv4", 32, 2), *_COMMON,
    ),
    257: (
        Element("sourceIPv6Address", 27, 16, "address"), Element("destinationIPv6Address", 28, 16, "address"),
        Element("icmpTypeCodeIPv6", 139, 2), *_COMMON,
    ),
}  # fmt: skip
TEMPLATES |= {258: (*TEMPLATES[256], *_WHERE), 259: (*TEMPLATES[257], *_WHERE)}
"""Of IPv4 and of IPv6; the last two for flows whose direction at an interface is known.

What a flow does not have is 0.
"""
_NOT_SENT = {"capturedOctets", "interfaceName", "reverseInterfaceName"}
assert {element.name for elements in TEMPLATES.values() for element in elements} == set(NAMES) - _NOT_SENT


def check(rest: str) -> None:
    """Raise UsageError for what is no ``//HOST[:PORT]``."""
    _place(f"ipfix:{rest}")


def open_udp(target: str) -> Output:
    """The output for ``ipfix://HOST[:PORT]``."""
    return Datagrams(target)


def open_tcp(target: str) -> Output:
    """The output for ``ipfix+tcp://HOST[:PORT]``."""
    return Stream(target)


def _place(target: str) -> tuple[str, int]:
    hint = "write it as ipfix://HOST or ipfix://HOST:4739"
    try:
        parts = urlsplit(target)
        port = PORT if parts.port is None else parts.port
    except ValueError:
        raise UsageError(f"--to {target}: the port is not a number up to 65535", hint) from None
    host = parts.hostname or ""
    if not host or not is_host(host) or parts.path.strip("/") or parts.query or parts.username or not port:
        raise UsageError(f"--to {target} names no collector", hint)
    return host, port


def template_set() -> bytes:
    """The set of all templates (RFC 7011, section 3.4.1)."""
    body = b""
    for number, elements in TEMPLATES.items():
        body += struct.pack("!HH", number, len(elements))
        for element in elements:
            own = struct.pack("!I", element.enterprise) if element.enterprise else b""
            body += struct.pack("!HH", element.number | (0x8000 if own else 0), element.size) + own
    return struct.pack("!HH", TEMPLATE_SET, SET_HEADER + len(body)) + body


def _bytes_of(records: Records, element: Element) -> NDArray[np.uint8]:
    """A column as it goes over the wire, uint8 (n, size)."""
    values = records.values(element.name)
    if element.kind == "address":
        halves = np.ascontiguousarray(values).astype(">i8").view(np.uint8).reshape(-1, 16)
        return halves[:, 16 - element.size :]
    missing = records.missing(element.name)
    values = values if missing is None else np.where(missing, 0, values)
    if element.kind == "milliseconds":
        values = values // 1_000_000
    elif element.kind == "ntp":
        seconds, rest = values // 1_000_000_000 + _NTP, values % 1_000_000_000
        values = seconds.astype(np.uint64) << np.uint64(32) | ((rest << 32) // 1_000_000_000).astype(np.uint64)
    return np.ascontiguousarray(values).astype(f">u{element.size}").view(np.uint8).reshape(-1, element.size)


def data_records(records: Records) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """(template, its records as bytes, uint8 (n, size)) for each template that there are records of."""
    numbers = 256 + records.is_ip6 + 2 * (records.direction(False) != 0)
    for number in TEMPLATES:
        some = records.chosen(numbers == number)
        if len(some):
            yield number, np.concatenate([_bytes_of(some, element) for element in TEMPLATES[number]], axis=1)


class _Exporter(Output):
    """What both transports share: messages, and the sequence number of data records."""

    largest = _MOST

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self._host, self._port = _place(target)
        self.sequence = 0
        """Data records that were sent (RFC 7011, section 3.1), modulo 2**32."""

    def _find(self, kind: int) -> list[Any]:
        try:
            return socket.getaddrinfo(self._host, self._port, type=kind)
        except OSError as error:
            reason = error.strerror or str(error)
            raise UsageError(f"--to {self.target}: {reason}", "name a host that can be found") from None

    def _message(self, sets: bytes) -> bytes:
        size = MESSAGE_HEADER + len(sets)
        return struct.pack("!HHIII", VERSION, size, int(time.time()), self.sequence & 0xFFFFFFFF, DOMAIN) + sets

    def write(self, records: Records) -> None:
        for template, rows in data_records(records):
            most = max(1, (self.largest - MESSAGE_HEADER - SET_HEADER) // rows.shape[1])
            for first in range(0, len(rows), most):
                some = rows[first : first + most]
                head = struct.pack("!HH", template, SET_HEADER + some.size)
                if self._send(head + some.tobytes(), len(some)):
                    self.sequence += len(some)
                    self.stored += len(some)
                else:
                    self._lose("not_sent", len(some))

    def _lose(self, why: str, count: int) -> None:
        self.lost[why] = self.lost.get(why, 0) + count

    def _send(self, sets: bytes, count: int) -> bool:
        """Send a message with so many data records; False if it could not be sent."""
        raise NotImplementedError


class Datagrams(_Exporter):
    """Messages that fit into a packet of the way's MTU; templates first, and again every RESEND_S seconds."""

    def __init__(self, target: str) -> None:
        super().__init__(target)
        family, kind, protocol, _, address = self._find(socket.SOCK_DGRAM)[0]
        self._socket = socket.socket(family, kind, protocol)
        try:
            self._socket.connect(address)
        except OSError as error:
            self._socket.close()
            raise UsageError(f"--to {target}: {error.strerror}", "name a host that can be reached") from None
        self.largest = self._fitting(family)
        self._resent = float("-inf")
        self._last = 0
        """Data records of the last message, of which its receiver's host may yet say that nobody takes it."""

    def _fitting(self, family: int) -> int:
        """Bytes of a message that go in one packet."""
        level, option = (socket.IPPROTO_IPV6, _IPV6_MTU) if family == socket.AF_INET6 else (socket.IPPROTO_IP, _IP_MTU)
        mtu = _ETHERNET
        with suppress(OSError):
            mtu = min(mtu, self._socket.getsockopt(level, option))
        return max(mtu - _HEADERS, _LEAST)

    def tick(self) -> None:
        if time.monotonic() - self._resent >= RESEND_S:
            self._resent = time.monotonic()
            self._send(template_set(), 0)

    def write(self, records: Records) -> None:
        self.tick()
        super().write(records)

    def _send(self, sets: bytes, count: int) -> bool:
        self._hear()
        try:
            self._socket.send(self._message(sets))
        except ConnectionRefusedError:  # it came meanwhile
            self._refused()
            return False
        except OSError:
            return False
        self._last = count
        return True

    def _hear(self) -> None:
        """Take what the other host said about the last message."""
        if self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._refused()

    def _refused(self) -> None:
        self.stored -= self._last
        self._lose("refused", self._last)
        self._last = 0

    def close(self) -> None:
        self._hear()
        self._socket.close()


class Stream(_Exporter):
    """Messages over a TCP connection, which is made again where it is lost; templates first."""

    def __init__(self, target: str) -> None:
        super().__init__(target)
        self._socket: socket.socket | None = None
        self._retry = 0.0
        self._find(socket.SOCK_STREAM)
        try:
            self._connect()
        except OSError as error:
            reason = error.strerror or "no answer"
            raise WirecapError(f"--to {target}: {reason}", "start the collector first") from None

    def _connect(self) -> None:
        self._socket = socket.create_connection((self._host, self._port), LONGEST_S)
        self._socket.sendall(self._message(template_set()))

    def _send(self, sets: bytes, count: int) -> bool:
        if self._socket is None and time.monotonic() < self._retry:
            return False
        try:
            if self._socket is None:
                self._connect()
            assert self._socket
            self._socket.sendall(self._message(sets))
            return True
        except OSError:
            self.close()
            self._retry = time.monotonic() + RETRY_S
            return False

    def close(self) -> None:
        if self._socket is not None:
            with suppress(OSError):
                self._socket.close()
            self._socket = None
