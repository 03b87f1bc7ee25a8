"""A stream of capture data from another host: connecting, TLS, and what the server says beside packets."""

from __future__ import annotations

import select
import socket
import ssl
from collections import Counter
from contextlib import suppress

from wirecap.config.serve import Remote
from wirecap.errors import UsageError, WirecapError
from wirecap.files.certificates import load_authorities, load_chain
from wirecap.units import whole_number

DROPS = "wirecap drops: "
"""What the comment on interface statistics begins with that names drops: ``wirecap drops: client_behind=5``."""
REFUSED = "wirecap refuses: "
"""What the comment begins with, of the section or of statistics, that says why a stream ends."""
CONNECT_S = 10.0


def line_of(filter: str) -> str:
    """A filter as it is sent."""
    return " ".join(filter.split())


class Stream:
    """Bytes from a connection.  filter: what is asked for, if anything.  Raises WirecapError if there is no server
    within ``patience_s``."""

    damage = ""

    def __init__(self, remote: Remote, filter: str, patience_s: float = CONNECT_S) -> None:
        self.remote, self._begun = remote, False
        self.first = bytearray()
        """What has come and was not yet asked for."""
        try:
            self._channel: socket.socket = socket.create_connection(
                (remote.server.host, remote.server.port), timeout=patience_s
            )
        except OSError as error:
            raise unreachable(remote, error) from None
        try:
            if remote.tls:
                self._channel = _context(remote).wrap_socket(self._channel, server_hostname=remote.server.host)
            if filter:
                self._channel.sendall(line_of(filter).encode() + b"\n")
        except OSError as error:
            self._channel.close()
            raise unreachable(remote, error) from None
        except BaseException:
            self._channel.close()
            raise
        self._channel.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._channel.setblocking(False)
        self._poller = select.poll()
        self._poller.register(self._channel, select.POLLIN)

    def has(self, count: int) -> bool:
        """Whether so many bytes have come; they wait in ``first``.  Raises OSError if they never will."""
        room = bytearray(count)
        while len(self.first) < count:
            found = self._read(memoryview(room)[: count - len(self.first)], 0)
            if found is None:
                return False
            if found == 0:
                raise ConnectionError("the server has ended the stream")
            self.first += room[:found]
        return True

    def read_into(self, view: memoryview, timeout_s: float | None) -> int | None:
        if count := min(len(self.first), len(view)):
            view[:count] = self.first[:count]
            del self.first[:count]
            return count
        return self._read(view, timeout_s)

    def _read(self, view: memoryview, timeout_s: float | None) -> int | None:
        pending = isinstance(self._channel, ssl.SSLSocket) and self._channel.pending()
        while True:
            if not pending and not self._poller.poll(None if timeout_s is None else timeout_s * 1000):
                return None
            try:
                return self._receive(view)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                pending = False
                if timeout_s is not None:
                    return None

    def _receive(self, view: memoryview) -> int:
        """What ``recv_into`` does; ConnectionError, which has no number, says in words what went wrong."""
        try:
            count = self._channel.recv_into(view)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLEOFError:
            raise ConnectionError("the connection was cut off") from None
        except ssl.SSLError as error:
            reason = (error.reason or str(error)).lower().replace("_", " ")
            raise ConnectionError(f"TLS: {reason}") from None
        if count == 0 and not self._begun:
            raise ConnectionError(
                "the server closed the connection at once: does it expect TLS, or refuse this client?"
            )
        self._begun = True
        return count

    def close(self) -> None:
        with suppress(OSError):
            self._channel.close()


def _context(remote: Remote) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if remote.ca:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        load_authorities(context, "--tls-ca", remote.ca)
    if remote.cert:
        load_chain(context, remote.cert, remote.key)
    return context


def unreachable(remote: Remote, error: OSError) -> WirecapError:
    """Why a server does not answer, with what to look at."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return WirecapError(f"{remote}: {error.verify_message}", "name the CA to trust with --tls-ca FILE")
    if isinstance(error, ssl.SSLError):
        return WirecapError(f"{remote}: no TLS: {error.reason or error}", "is the server's port one with TLS?")
    if isinstance(error, TimeoutError):
        return WirecapError(f"{remote}: no answer in time", "check the address, and any firewall in between")
    reason = (error.strerror or str(error)).lower()
    return WirecapError(f"{remote}: {reason}", "is 'wirecap serve' running there?")


class Told:
    """What a server has said in its statistics, as it goes: what was dropped, by name, and why it refuses, if so."""

    def __init__(self) -> None:
        self._drops: dict[int, dict[str, int]] = {}
        self._before: Counter[str] = Counter()
        self.refused = ""

    @property
    def drops(self) -> dict[str, int]:
        """Packets that did not get here, by the server's names."""
        total = self._before.copy()
        for named in self._drops.values():
            total.update(named)
        return dict(total)

    def begin_section(self) -> None:
        """What follows is said of a stream from its beginning: of another connection, perhaps."""
        self._before = Counter(self.drops)
        self._drops = {}

    def take(self, interface: int, comments: list[str]) -> None:
        """The comments of a block about an interface, or of a section."""
        for comment in comments:
            if comment.startswith(REFUSED):
                self.refused = comment.removeprefix(REFUSED)
            elif comment.startswith(DROPS):
                parts = (part.partition("=") for part in comment.removeprefix(DROPS).split())
                self._drops[interface] = {name: whole_number(count) for name, _, count in parts if count.isdecimal()}

    def check(self, remote: Remote) -> None:
        """Raise UsageError if the server refuses."""
        if self.refused:
            raise UsageError(f"{remote} refuses: {self.refused}", "")
