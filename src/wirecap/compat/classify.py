"""pcapy-ng's classes of packets, for ``loop_filtered`` and ``loop_to_buffer``."""

from __future__ import annotations

from collections.abc import Sequence

OTHER, FLOW_HEAD, SET_MATCH = range(3)
DNS, DPI, NOISE, IOC, HANDSHAKE, SYN = range(6)
GENERIC, SECURITY = 0, 1
_KINDS = {GENERIC: 3, SECURITY: 6}
_FIRST_SECURITY = 100
_TCP, _UDP = 6, 17
_MOST_FLOWS = 1 << 20
_TAGS = (b"\x81\x00", b"\x88\xa8")


class Counts:
    """Packets admitted and dropped, and those of each class."""

    def __init__(self, profile: int) -> None:
        self.admitted = self.dropped = 0
        self.of_class = [0] * _KINDS[profile]

    def admit(self, kind: int, mask: int) -> bool:
        self.of_class[kind] += 1
        if mask >> kind & 1:
            self.admitted += 1
            return True
        self.dropped += 1
        return False

    def all(self) -> tuple[int, ...]:
        return self.admitted, self.dropped, *self.of_class


class Classes:
    """Which class a packet is in.  ``base`` is added to what callbacks get."""

    def __init__(
        self, addresses: bytes, flow_cutoff: int, dpi_ports: Sequence[int] | None, tls_ports: Sequence[int] | None,
        dns_port: int, l2_offset: int, profile: int,
    ) -> None:  # fmt: skip
        if not 0 <= l2_offset <= 64:
            raise ValueError("l2_offset out of range [0,64]")
        if profile not in _KINDS:
            raise ValueError("profile must be 0 (generic) or 1 (security)")
        whole = len(addresses) - len(addresses) % 4
        self._set = {bytes(addresses[k : k + 4]) for k in range(0, whole, 4)} - {bytes(4)}
        self._cutoff, self._start, self._dns = max(flow_cutoff, 0), l2_offset, dns_port & 0xFFFF
        self._dpi = _ports((80, 8080, 3128, 8000, 8118, 1080) if dpi_ports is None else dpi_ports)
        self._tls = _ports((443,) if tls_ports is None else tls_ports)
        self._flows: dict[bytes, int] = {}
        self.base = _FIRST_SECURITY if profile == SECURITY else 0
        self.of = self._security if profile == SECURITY else self._generic

    def _generic(self, packet: bytes) -> int:
        ip = self._ip(packet)
        if ip < 0:
            return OTHER
        if self._listed(packet, ip):
            return SET_MATCH
        ports = ip + (packet[ip] & 15) * 4
        if self._cutoff and packet[ip + 9] in (_TCP, _UDP) and ports >= ip + 20 and len(packet) >= ports + 4:
            return FLOW_HEAD if self._begins(packet, ip, ports) else OTHER
        return OTHER

    def _security(self, packet: bytes) -> int:
        ip = self._ip(packet)
        if ip < 0:
            return NOISE
        ports, protocol = ip + (packet[ip] & 15) * 4, packet[ip + 9]
        has_ports = ports >= ip + 20 and protocol in (_TCP, _UDP) and len(packet) >= ports + 4
        pair: set[int] = set()
        if has_ports:
            pair = {packet[ports] << 8 | packet[ports + 1], packet[ports + 2] << 8 | packet[ports + 3]}
        if self._dns in pair:
            return DNS
        if has_ports and protocol == _TCP and len(packet) >= ports + 14:
            if packet[ports + 13] == 2:
                return SYN
            header = (packet[ports + 12] >> 4) * 4
            if 20 <= header < len(packet) - ports and pair & self._dpi:
                return DPI
        if self._listed(packet, ip):
            return IOC
        return HANDSHAKE if self._cutoff and pair & self._tls and self._begins(packet, ip, ports) else NOISE

    def _ip(self, packet: bytes) -> int:
        """Where the IPv4 header begins, behind up to two VLAN tags; -1 if there is none."""
        at = self._start
        for _ in range(3):
            if len(packet) < at + 20:
                return -1
            if packet[at] >> 4 == 4:
                return at
            if at < 2 or packet[at - 2 : at] not in _TAGS:
                return -1
            at += 4
        return -1

    def _listed(self, packet: bytes, ip: int) -> bool:
        return packet[ip + 12 : ip + 16] in self._set or packet[ip + 16 : ip + 20] in self._set

    def _begins(self, packet: bytes, ip: int, ports: int) -> bool:
        """Whether it is one of the first packets of its flow."""
        flow = packet[ip + 12 : ip + 20] + packet[ports : ports + 4] + packet[ip + 9 : ip + 10]
        if len(self._flows) >= _MOST_FLOWS and flow not in self._flows:
            self._flows.clear()
        seen = self._flows[flow] = self._flows.get(flow, 0) + 1
        return seen <= self._cutoff


def _ports(ports: Sequence[int]) -> set[int]:
    return {int(port) & 0xFFFF for port in ports}
