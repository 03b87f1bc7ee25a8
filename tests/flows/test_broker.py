"""The broker's address and what is said about it when it is not there."""

from __future__ import annotations

import errno

import pytest

from wirecap.flows import broker


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed ('127.0.0.1', 1)"),
        OSError("Multiple exceptions: [Errno 111] Connect call failed ('::1', 1, 0, 0), [Errno 111] Connect call"),
    ],
)
def test_reason_in_plain_words(error):
    """What asyncio says with tuples, of one address or several, is the kernel's sentence."""
    assert broker.reason(error) == "connection refused"


def test_reason_of_others():
    """A name that nobody knows, and what the broker says, stay as they are."""
    assert broker.reason(OSError(-2, "Name or service not known")) == "name or service not known"
    assert broker.reason(ValueError("nats: 'Authorization Violation'")) == "authorization violation"
