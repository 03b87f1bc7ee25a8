"""A NATS broker: its address as it is given on a command line, how to log in, the JetStream stream behind a subject.

Credentials come from the environment, under the names that NATS's own command ``nats`` has for them.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import ssl
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from wirecap.config.endpoint import is_host
from wirecap.errors import UsageError, WirecapError

PORT = 4222
SCHEMES = ("nats", "nats+tls")
VARIABLES = ("NATS_CREDS", "NATS_NKEY", "NATS_USER", "NATS_PASSWORD", "NATS_TOKEN", "NATS_CA", "NATS_CERT", "NATS_KEY")
WAY_OUT = "set NATS_CREDS to a credentials file, or NATS_USER and NATS_PASSWORD, or NATS_TOKEN, in the environment"
CONNECT_S = 3
MAX_AGE_S = 7 * 86_400
"""How long a stream that wirecap makes keeps messages."""
_TOKEN = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Address:
    """``nats://HOST[:PORT]/SUBJECT``."""

    host: str
    port: int
    subject: str
    tls: bool

    @property
    def server(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'tls' if self.tls else 'nats'}://{host}:{self.port}"


def parse(text: str, wildcards: bool) -> Address:
    """Read an address.  wildcards: whether the subject may have ``*`` and ``>``.  Raises UsageError."""
    example = "nats://HOST/flows.>" if wildcards else "nats://HOST/flows.SITE.SENSOR"
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise UsageError(f"{_shown(text)}: this is not the address of a broker", f"write it as {example}") from None
    if parts.username is not None or parts.password is not None or "@" in parts.netloc:
        raise UsageError(f"{_shown(text)}: keep user names and passwords off the command line", WAY_OUT)
    host = parts.hostname or ""
    if parts.scheme not in SCHEMES or not host or not is_host(host) or parts.query or parts.fragment or port == 0:
        raise UsageError(f"{text}: this is not the address of a broker", f"write it as {example}")
    subject = parts.path.removeprefix("/")
    tokens = subject.split(".")
    if not subject or not all(_is_token(token, wildcards, last=n == len(tokens) - 1) for n, token in enumerate(tokens)):
        raise UsageError(
            f"{text}: {subject!r} is not a subject{'' if wildcards else ' to publish on'}",
            f"write it as {example}, in letters, digits, - and _",
        )
    return Address(host, port or PORT, subject, parts.scheme == "nats+tls")


def _is_token(token: str, wildcards: bool, last: bool) -> bool:
    return bool(_TOKEN.fullmatch(token)) or (wildcards and (token == "*" or (token == ">" and last)))


def _shown(text: str) -> str:
    """An address without what may be a password."""
    scheme, _, rest = text.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def library() -> Any:
    """The package nats-py.  Raises UsageError where it is not installed."""
    try:
        import nats
    except ImportError:
        raise UsageError("the nats-py library is not installed", "pip install 'wirecap[fleet]'") from None
    return nats


def login(address: Address, environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """What nats.connect is told of credentials and TLS.  Raises UsageError for files that are not there."""
    given = {name: environment[name] for name in VARIABLES if environment.get(name)}
    for name in ("NATS_CREDS", "NATS_NKEY", "NATS_CA", "NATS_CERT", "NATS_KEY"):
        if name in given and not os.access(given[name], os.R_OK):
            raise UsageError(f"{name}={given[name]}: this file cannot be read", "name one that you may read")
    if ("NATS_CREDS" in given or "NATS_NKEY" in given) and not find_spec("nkeys"):
        raise UsageError("the nkeys library is not installed", "pip install 'wirecap[fleet]'")
    names = {"NATS_CREDS": "user_credentials", "NATS_NKEY": "nkeys_seed", "NATS_USER": "user",
             "NATS_PASSWORD": "password", "NATS_TOKEN": "token"}  # fmt: skip
    found: dict[str, Any] = {names[name]: value for name, value in given.items() if name in names}
    if address.tls or "NATS_CA" in given or "NATS_CERT" in given:
        try:
            context = ssl.create_default_context(cafile=given.get("NATS_CA"))
            if "NATS_CERT" in given:
                context.load_cert_chain(given["NATS_CERT"], given.get("NATS_KEY"))
        except (ssl.SSLError, OSError) as error:
            raise UsageError(
                f"TLS with the files of NATS_CA, NATS_CERT and NATS_KEY: {error}", "name PEM files"
            ) from None
        found["tls"] = context
    return found


class _Encryption:
    """Sees to it that nothing secret is sent without TLS: nats-py leaves it out where a server does not ask for it."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.done = done = threading.Event()

        class Watched(ssl.SSLObject):
            def do_handshake(self) -> None:
                super().do_handshake()
                done.set()

        context.sslobject_class = Watched

    def guarded(self, secret: str) -> Callable[[], str]:
        """What nats-py asks for a secret when it is about to send it."""

        def give() -> str:
            self.check()
            return secret

        return give

    def check(self) -> None:
        if not self.done.is_set():
            raise library().errors.Error("nats: the server does not speak TLS")


async def connect(address: Address, name: str) -> Any:
    """A connection that does not come back by itself.  Raises WirecapError with the reason."""
    nats, options = library(), login(address)
    failed: list[Exception] = []
    hint = "check that the broker is running; " + WAY_OUT
    encryption = None
    if "tls" in options:
        encryption = _Encryption(options["tls"])
        options |= {name: encryption.guarded(options[name]) for name in ("password", "token") if name in options}
        hint = f"NATS_CA names the CA to trust; a broker may ask for NATS_CERT and NATS_KEY; {hint}"

    async def note(error: Exception) -> None:
        failed.append(error)

    client = nats.aio.client.Client()
    try:
        await client.connect(
            address.server, name=name, error_cb=note, allow_reconnect=False, connect_timeout=CONNECT_S,
            max_reconnect_attempts=1, reconnect_time_wait=0, ping_interval=5, max_outstanding_pings=2, **options,
        )  # fmt: skip
        if encryption:
            encryption.check()
        return client
    except (OSError, TimeoutError, nats.errors.Error) as error:
        why = reason(failed[-1] if failed else error)
        with suppress(OSError, TimeoutError, nats.errors.Error):
            await asyncio.wait_for(client.close(), 1)
        raise WirecapError(f"{address.server}: {why}", hint) from None


def reason(error: BaseException) -> str:
    """Why a broker is not there, as the kernel says it: asyncio has addresses and tuples in place of that."""
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError):
        several = re.search(r"\[Errno (\d+)\]", str(error))  # localhost has two addresses
        number = error.errno or (int(several[1]) if several else 0)
        if number in errno.errorcode:
            return os.strerror(number).lower()
    text = getattr(error, "strerror", None) or " ".join(str(error).split()).removeprefix("nats: ").strip("'\"")
    return (text or type(error).__name__).lower()


def stream_name(subject: str) -> str:
    return "wirecap-" + subject.split(".")[0]


async def stream_of(js: Any, subject: str) -> str:
    """The JetStream stream that keeps a subject's messages; one is made where there is none."""
    nats = library()
    kind = subject.split(".")[0]
    try:
        found: str = await js.find_stream_name_by_subject(subject)
        return found
    except nats.js.errors.NotFoundError:
        pass
    subjects = [f"{kind}.>"] if kind not in ("*", ">") else [">"]
    await js.add_stream(name=stream_name(subject), subjects=subjects, max_age=MAX_AGE_S)
    return stream_name(subject)
