"""pcap over IP: what a server offers, and where a client finds one."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from wirecap.config.endpoint import Endpoint
from wirecap.errors import UsageError
from wirecap.units import format_size

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

PORT = 57012
"""What most programs that speak it take for their port."""
SCHEME, TLS_SCHEME = "pcap-over-ip", "pcap-over-ip+tls"
LEAST_BUFFER, MOST_BUFFER = 4 << 20, 1 << 40
MOST_CLIENTS = 1000


def parse_network(text: str) -> Network:
    """``10.0.0.0/8`` or one address.  Raises UsageError."""
    try:
        return ipaddress.ip_network(text.strip(), strict=False)
    except ValueError:
        raise UsageError(f"{text!r} is not a network", "write it as 10.0.0.0/8, 192.0.2.7 or 2001:db8::/32") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """listen: where clients connect.  buffer: bytes that each may be behind; clients: how many there may be at once.

    allow: networks that they may come from; empty: any.  The three files are PEM: the server's certificate and its
    key, and the authorities whose certificates clients must show; without a certificate there is no TLS.
    """

    listen: Endpoint
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_client_ca: str | None = None
    buffer: int = 64 << 20
    clients: int = 32
    allow: tuple[Network, ...] = ()

    def __post_init__(self) -> None:
        if self.tls_cert is None and (self.tls_key or self.tls_client_ca):
            asked = "--tls-key" if self.tls_key else "--tls-client-ca"
            raise UsageError(f"{asked} needs the server's certificate", "add --tls-cert FILE")
        if not LEAST_BUFFER <= self.buffer <= MOST_BUFFER:
            least = format_size(LEAST_BUFFER)
            raise UsageError(
                f"--client-buffer must be {least} to {format_size(MOST_BUFFER)}, not {format_size(self.buffer)}",
                "write it as 64MiB",
            )
        if not 1 <= self.clients <= MOST_CLIENTS:
            raise UsageError(f"--max-clients must be 1 to {MOST_CLIENTS}, not {self.clients}", "the default is 32")


@dataclass(frozen=True, slots=True)
class Remote:
    """A server of pcap over IP, as a source.  ca, cert, key: PEM files; ca None: the system's authorities."""

    server: Endpoint
    tls: bool = False
    ca: str | None = None
    cert: str | None = None
    key: str | None = None

    @classmethod
    def parse(cls, text: str) -> Remote:
        """``pcap-over-ip://HOST[:PORT]`` or ``pcap-over-ip+tls://HOST[:PORT]``.  Raises UsageError."""
        scheme, _, rest = text.partition("://")
        if scheme not in (SCHEME, TLS_SCHEME):
            raise UsageError(
                f"{text!r}: cannot capture from {scheme}://", f"write it as {SCHEME}://HOST:{PORT}, or with +tls"
            )
        rest = rest.removesuffix("/")
        if "@" in rest:
            raise UsageError(
                f"{scheme}: user names and passwords are not supported", "--tls-cert FILE shows who you are"
            )
        has_port = ":" in rest.rpartition("]")[2]
        try:
            if not rest:
                raise UsageError("")
            server = Endpoint.parse(rest if has_port else f"{rest}:{PORT}")
        except UsageError:
            raise UsageError(
                f"{text!r} has no host and port", f"write it as {scheme}://HOST:{PORT} or {scheme}://[::1]:{PORT}"
            ) from None
        return cls(server, scheme == TLS_SCHEME)

    def __str__(self) -> str:
        return f"{TLS_SCHEME if self.tls else SCHEME}://{self.server}"
