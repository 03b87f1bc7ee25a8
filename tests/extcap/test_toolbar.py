"""Messages to Wireshark's toolbar, over FIFOs that somebody reads, or nobody does."""

from __future__ import annotations

import os

from control_messages import messages

from wirecap.extcap.toolbar import CAPTURED, DROPPED, LOG, Toolbar

SET, ADD, DISABLE = 1, 2, 5


def test_counters_and_log(tmp_path):
    """Counters are sent when they change, drops by name; what Wireshark writes is taken out of its pipe."""
    to, back = tmp_path / "to", tmp_path / "back"
    os.mkfifo(to)
    os.mkfifo(back)
    toolbar = Toolbar(str(to), str(back))
    reader, writer = os.open(to, os.O_RDONLY | os.O_NONBLOCK), os.open(back, os.O_WRONLY | os.O_NONBLOCK)
    os.write(writer, b"T\0\0\2\0\0")
    toolbar.log("capturing on eth1")
    toolbar.show(1234, {"pool_exhausted": 0})
    toolbar.show(1234, {"pool_exhausted": 5, "ring_full": 6})
    assert messages(os.read(reader, 65536)) == [
        (CAPTURED, DISABLE, ""),
        (DROPPED, DISABLE, ""),
        (LOG, ADD, "capturing on eth1\n"),
        (CAPTURED, SET, "1,234"),
        (DROPPED, SET, "0"),
        (DROPPED, SET, "pool exhausted 5, ring full 6"),
    ]
    toolbar.close()
    for fd in (reader, writer):
        os.close(fd)


def test_nobody_reads(tmp_path):
    """A full pipe holds nothing up, and what is in it are whole messages."""
    to = tmp_path / "to"
    os.mkfifo(to)
    toolbar = Toolbar(str(to), None)
    for number in range(3000):
        toolbar.log("x" * 90 + str(number))
    reader = os.open(to, os.O_RDONLY | os.O_NONBLOCK)
    found = messages(os.read(reader, 1 << 20))
    assert 100 < len(found) < 3000
    toolbar.show(7, {})
    assert messages(os.read(reader, 65536)) == [(CAPTURED, SET, "7"), (DROPPED, SET, "0")]
    os.close(reader)
    toolbar.close()


def test_without_pipes():
    """tshark has no toolbar."""
    toolbar = Toolbar(None, None)
    toolbar.show(1, {})
    toolbar.log("nothing")
    toolbar.close()
