"""An address to listen on."""

from __future__ import annotations

from dataclasses import dataclass

from wirecap.errors import UsageError
from wirecap.units import whole_number

LOOPBACK = "127.0.0.1"
_FORMS = "write it as 9464, 127.0.0.1:9464 or [::1]:9464; 0.0.0.0:9464 is for all interfaces"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """host: an IP address or a name.  port: 1 to 65535."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """``9464`` (on the loopback interface), ``127.0.0.1:9464`` or ``[::1]:9464``; raises UsageError."""
        host, colon, port = text.strip().rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise UsageError(f"{text!r} is not an address and port", "put an IPv6 address in brackets: [::1]:9464")
        if not port.isdecimal() or not port.isascii() or (colon and not host) or set(host) & set("/[] "):
            raise UsageError(f"{text!r} is not an address and port", _FORMS)
        if not is_host(host):
            raise UsageError(f"{text!r}: {host!r} is not a host", _FORMS)
        number = whole_number(port)
        if not 1 <= number <= 65535:
            raise UsageError(f"{text!r}: the port must be 1 to 65535, not {port}", _FORMS)
        return cls(host or LOOPBACK, number)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def is_host(text: str) -> bool:
    """Whether a name can be looked up at all: each of its parts has 1 to 63 bytes."""
    try:
        text.encode("idna")  # as the socket module does, which raises no OSError for others
    except UnicodeError:
        return False
    return True


def endpoint_of(given: object) -> Endpoint | None:
    """What a Python program gave: an endpoint, its text, or None.  Raises UsageError."""
    if given is None or isinstance(given, Endpoint):
        return given
    if not isinstance(given, str):
        raise UsageError(f"metrics must be an address and port, not {given!r}", 'write metrics="127.0.0.1:9464"')
    return Endpoint.parse(given)
