"""The packages whose interfaces wirecap.compat has, as far as they are installed, beside our modules.

``facts_of_pcapy`` and ``facts_of_pypcap`` ask a module everything about a file; what they return is compared.
``python compat_peers.py ours|theirs pcapy|pcap INTERFACE`` does the same live: it prints READY and SECOND where it
waits for frames, and then RESULT with what it found.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

FRAMES = 50
NEITHER_LOOKS_AT = "udp dst port 7"


def both(name: str, package: str) -> tuple[Any, Any]:
    """(their module, ours); skips the test where theirs is missing."""
    try:
        return import_module(name), import_module(f"wirecap.compat.{name}")
    except ImportError:
        pytest.skip(f"needs {package}: pip install {package}")


def attempt(call: Callable[..., Any], *arguments: Any) -> Any:
    """What it returns, or what it raises as (kind, text)."""
    try:
        return call(*arguments)
    except Exception as error:
        return type(error).__name__, str(error)


def facts_of_pcapy(pcapy: Any, path: str, dump: Path) -> dict[str, Any]:
    reader = attempt(pcapy.open_offline, path)
    if isinstance(reader, tuple):
        return {"open": reader}
    packets: list[Any] = []
    facts: dict[str, Any] = {"link": reader.datalink(), "net": (reader.getnet(), reader.getmask())}
    keep = lambda h, data: packets.append((h.getts(), h.getcaplen(), h.getlen(), data))  # noqa: E731
    facts["loop"] = attempt(reader.loop, -1, keep), packets
    facts["end"] = attempt(reader.next), attempt(reader.stats), attempt(reader.sendpacket, bytes(60))
    facts["not on files"] = [
        attempt(reader.getnonblock), attempt(reader.setnonblock, 1), attempt(reader.setdirection, 1),
        attempt(reader.set_fanout, 3), attempt(reader.set_snaplen, 5), attempt(reader.activate),
        attempt(reader.set_promisc, 1), attempt(reader.set_timeout, 1), attempt(reader.set_buffer_size, 1),
    ]  # fmt: skip
    reader, dispatched = pcapy.open_offline(path), []
    take = lambda header, data: dispatched.append(data)  # noqa: E731
    facts["dispatch"] = [attempt(reader.dispatch, count, take) for count in (5, -1, -1)], dispatched
    reader = pcapy.open_offline(path)
    facts["bad filter"] = attempt(reader.setfilter, "bogus bogus")
    first = attempt(reader.next)[1]
    facts["filter"] = first, attempt(reader.setfilter, "udp or arp"), attempt(reader.next)[1]
    filtered: list[bytes] = []
    facts["filtered"] = attempt(reader.loop, -1, lambda header, data: filtered.append(data)), filtered
    reader, seen = pcapy.open_offline(path), []

    def fail_at_second(header: Any, data: bytes) -> None:
        seen.append(data)
        if len(seen) == 2:
            raise KeyError(1)

    facts["raised"] = attempt(reader.loop, -1, fail_at_second), attempt(reader.next)[1], seen
    reader = pcapy.open_offline(path)
    dumper = reader.dump_open(str(dump))
    attempt(reader.loop, -1, dumper.dump)
    dumper.close()
    facts["dump"] = dump.read_bytes(), attempt(dumper.dump, None, b"")
    reader, batched = pcapy.open_offline(path), []
    while not isinstance(found := attempt(reader.next_batch, 7)[1], str) and found:
        batched.append(len(found))
    facts["batches"] = batched
    return facts


def facts_of_pypcap(pcap: Any, path: str) -> dict[str, Any]:
    reader = attempt(pcap.pcap, path)
    if isinstance(reader, tuple):
        return {"open": reader[0]}
    facts: dict[str, Any] = {"all": attempt(list, reader)}
    facts["file"] = reader.datalink(), reader.dloff, reader.snaplen, reader.filter, reader.name, reader.precision
    facts["not on files"] = attempt(reader.stats)[0], reader.setdirection(1), reader.getnonblock()
    reader = pcap.pcap(path, timestamp_in_ns=True)
    facts["read"] = attempt(reader.readpkts), attempt(reader.readpkts), reader.timestamp_in_ns
    reader, looped = pcap.pcap(path), []
    facts["loop"] = attempt(reader.loop, 3, lambda *all: looped.append(all), "x", 2), looped
    facts["dispatch"] = attempt(reader.dispatch, 2, lambda *all: looped.append(all))
    facts["filter"] = attempt(reader.setfilter, "bogus bogus")[0], reader.setfilter("tcp or arp"), reader.filter
    facts["filtered"] = attempt(list, reader)
    facts["bpf"] = attempt(pcap.bpf, b"bogus bogus"), [pcap.bpf(one).filter(b"E" * 60) for one in (b"ip", b"ip6")]
    return facts


def tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _live_pcapy(pcapy: Any, device: str) -> dict[str, Any]:
    reader = pcapy.open_live(device, 100, 1, 200)
    facts: dict[str, Any] = {"link": (reader.datalink(), reader.getnet(), reader.getmask(), reader.getnonblock())}
    tell("READY")
    packets: list[Any] = []
    reader.loop(FRAMES, lambda header, data: packets.append((header.getcaplen(), header.getlen(), data.hex())))
    facts["loop"] = packets
    reader.setfilter(NEITHER_LOOKS_AT)
    tell("SECOND")
    filtered: list[str] = []
    returned, until = 0, time.monotonic() + 60
    while len(filtered) < FRAMES // 2 and time.monotonic() < until:
        returned += reader.dispatch(-1, lambda header, data: filtered.append(data.hex()))
    facts["dispatch"] = returned, filtered
    facts["stats"] = reader.stats()
    reader.setnonblock(1)
    facts["at once"] = repr(reader.next()), reader.dispatch(-1, print), reader.getnonblock()
    reader.sendpacket(bytes.fromhex("02" * 12 + "88b5") + bytes(50))
    facts["active"] = reader.set_snaplen(3), reader.activate()
    created = pcapy.create(device)
    facts["created"] = [created.set_snaplen(9), created.set_promisc(1), created.set_timeout(9), created.datalink()]
    facts["created"] += [attempt(created.next), pcapy.create("nosuch0").activate()]
    facts["no device"] = attempt(pcapy.open_live, "nosuch0", 100, 1, 1)[0], device in pcapy.findalldevs()
    reader.close()
    return facts | {"closed": attempt(reader.next)}


def _live_pypcap(pcap: Any, device: str) -> dict[str, Any]:
    reader = pcap.pcap(device, snaplen=100, timeout_ms=100)
    facts: dict[str, Any] = {"link": (reader.datalink(), reader.dloff, reader.snaplen, reader.name, reader.precision)}
    tell("READY")
    packets: list[Any] = []
    reader.loop(FRAMES, lambda when, data, x: packets.append((abs(when - time.time()) < 100, data.hex(), x)), "x")
    facts["loop"] = packets
    reader.setfilter(NEITHER_LOOKS_AT)
    tell("SECOND")
    facts["iterated"] = [data.hex() for _, (_, data) in zip(range(FRAMES // 2), reader, strict=False)]
    reader.setnonblock()
    facts["at once"] = reader.readpkts(), reader.dispatch(-1, print), reader.getnonblock(), reader.stats()
    facts["sent"] = reader.sendpacket(bytes.fromhex("02" * 12 + "88b5") + bytes(50))
    return facts | {"no device": attempt(pcap.pcap, "nosuch0")[0], "found": device in pcap.findalldevs()}


if __name__ == "__main__":
    whose, name, interface = sys.argv[1:4]
    module = import_module(name if whose == "theirs" else f"wirecap.compat.{name}")
    result = {"pcapy": _live_pcapy, "pcap": _live_pypcap}[name](module, interface)
    tell("RESULT " + json.dumps(result, default=repr))
