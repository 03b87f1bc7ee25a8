"""Where clients of ``wirecap serve`` come in: the listening socket, TLS, and who is let through."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import time
from contextlib import suppress
from typing import Any

from wirecap.config.serve import ServeConfig
from wirecap.errors import UsageError
from wirecap.files.certificates import load_authorities, load_chain

BACKLOG = 64
PAUSE_S = 0.001
"""How long not to look after a client could neither be let in nor be turned away."""
KEEPALIVE_S, KEEPALIVE_PROBES = 30, 4
"""After this time without a word from a client's host it is asked, so often, whether it is still there."""


class Door:
    """Listens at once.  Raises UsageError for an address that cannot be had, and for files that make no TLS."""

    def __init__(self, config: ServeConfig) -> None:
        self.config = config
        self._context = _context(config) if config.tls_cert else None
        try:
            found = socket.getaddrinfo(
                config.listen.host, config.listen.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            self.listener = socket.socket(found[0], socket.SOCK_STREAM)
        except OSError as error:
            raise UsageError(
                f"--listen {config.listen}: {_reason(error)}", "give an address of this host, such as 127.0.0.1:57012"
            ) from None
        try:
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.listener.bind(found[4])
            self.listener.listen(BACKLOG)
        except OSError as error:
            self.listener.close()
            raise UsageError(
                f"--listen {config.listen}: {_reason(error)}", "choose another address or port with --listen"
            ) from None
        self.listener.setblocking(False)

    @property
    def warning(self) -> str:
        """What the user should know of it, a line or ""."""
        address = ipaddress.ip_address(self.listener.getsockname()[0].partition("%")[0])
        if address.is_loopback or self._context:
            return ""
        who = "the networks of --allow" if self.config.allow else "anybody who reaches this host"
        return f"{self.config.listen} is open to {who}, and packets go there unencrypted (--tls-cert encrypts)"

    def accept(self) -> tuple[socket.socket, str] | None:
        """The next client and its name, if there is one."""
        try:
            channel, address = self.listener.accept()
        except BlockingIOError:
            return None
        except OSError:  # it is gone already, or this process has too many files open
            time.sleep(PAUSE_S)
            return None
        channel.setblocking(False)
        for level, option, value in (
            (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
            (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_S),
            (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_S),
            (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES),
        ):
            with suppress(OSError):  # it is gone already, which shows later
                channel.setsockopt(level, option, value)
        return channel, _name(address)

    def objection(self, channel: socket.socket, clients: int) -> tuple[str, str] | None:
        """(kind, reason) if a client is not let in beside so many others."""
        if clients >= self.config.clients:
            return "too_many", f"there are {clients} clients already, as many as --max-clients lets in"
        try:
            peer = ipaddress.ip_address(channel.getpeername()[0].partition("%")[0])
        except OSError:
            return "gone", "it was gone at once"
        if isinstance(peer, ipaddress.IPv6Address) and peer.ipv4_mapped:
            peer = peer.ipv4_mapped
        if self.config.allow and not any(peer in network for network in self.config.allow):
            return "not_allowed", "--allow does not name its address"
        return None

    def dressed(self, channel: socket.socket) -> socket.socket:
        """The same connection, encrypted if that is asked for; nothing is sent yet."""
        if self._context is None:
            return channel
        return self._context.wrap_socket(channel, server_side=True, do_handshake_on_connect=False)

    def close(self) -> None:
        self.listener.close()


def _name(address: Any) -> str:
    host, port = address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _context(config: ServeConfig) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    load_chain(context, config.tls_cert, config.tls_key)
    if config.tls_client_ca:
        load_authorities(context, "--tls-client-ca", config.tls_client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context
