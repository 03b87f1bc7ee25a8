"""Where flow records go: ``--to TARGET``.  An output takes batches of records and says how many it has stored.

``Records.to_arrow`` makes an Arrow record batch of a batch.  A new output is a file with ``check`` and a function that
opens it, and a line in SCHEMES.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from importlib import import_module
from typing import Any

from wirecap.config.capture import Spooling, is_spooled
from wirecap.errors import UsageError
from wirecap.flows.records import Records

FORMS = (
    "write it as -, file:flows.jsonl, file:flows/%Y/%m/%d/%H.parquet, ipfix://HOST, ipfix+tcp://HOST or"
    " nats://HOST/flows.SITE.SENSOR"
)
SCHEMES = {
    "file": "wirecap.flows.files:open_output",
    "ipfix": "wirecap.flows.ipfix:open_udp",
    "ipfix+tcp": "wirecap.flows.ipfix:open_tcp",
    "nats": "wirecap.flows.nats:open_output",
    "nats+tls": "wirecap.flows.nats:open_output",
}
"""What opens an output by the word before the colon, as ``package.module:function``."""


class Output(ABC):
    """One target.  ``stored``: records that it has taken care of; ``lost``: others, by the reason."""

    def __init__(self, target: str) -> None:
        self.target, self.stored = target, 0
        self.lost: dict[str, int] = {}
        self.way: dict[str, Any] = {}
        """What the summary says of the way to a broker, once the output is closed."""
        self.messages: deque[str] = deque(maxlen=100)
        """Lines about how it goes that nobody has shown yet."""

    @abstractmethod
    def write(self, records: Records) -> None:
        """Take some records.  Raises WirecapError or OSError if that fails."""

    def tick(self) -> None:
        """Called some times a second, also when there are no records."""
        return

    def missed(self, records: int) -> None:
        """So many more records found no place on their way from the flow tables to the outputs."""
        return

    @abstractmethod
    def close(self) -> None:
        """No more records come."""

    def discard(self) -> None:
        """The capture did not begin: leave nothing behind."""
        self.close()


def check(target: str) -> None:
    """Raise UsageError for a target that is none, as far as that is known without opening it."""
    _opener(target)


def open_output(target: str, spooling: Spooling | None = None) -> Output:
    """Open a target.  Raises UsageError."""
    opener = _opener(target)
    opened: Output = opener(target, spooling or Spooling()) if is_spooled(target) else opener(target)
    return opened


def _opener(target: str) -> Any:
    scheme, colon, rest = target.partition(":")
    if target == "-":
        scheme, rest = "file", "-"
    elif not colon or scheme not in SCHEMES:
        hint = f"did you mean file:{target}?" if not colon and target.endswith((".parquet", ".jsonl")) else FORMS
        raise UsageError(f"--to {target}: there is no such target for flow records", hint)
    module, _, name = SCHEMES[scheme].partition(":")
    found = import_module(module)
    found.check(rest)
    return getattr(found, name)
