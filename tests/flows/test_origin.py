"""The interface and the direction of flows: of a live capture, of a file that tells them, on their way to others."""

from __future__ import annotations

import json
import socket
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from rig import Wire, captured, until
from wirecap.cli import main
from wirecap.flows import ipfix
from wirecap.flows.collecting import _decode
from wirecap.flows.interfaces import Interface
from wirecap.flows.records import Records
from wirecap.flows.spool import Spool
from wirecap.kernels.flows import layout as f
from wirecap.lab.process import Child
from wirecap.linux import netns

WIRECAP = [sys.executable, "-P", "-m", "wirecap"]
IN, OUT = 1, 2


def datagram(source: int, target: int, ports: tuple[int, int]) -> bytes:
    addresses = struct.pack("!II", 0x0A000000 + source, 0x0A000000 + target)
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 28, 0, 0, 64, 17, 0) + addresses
    return bytes(12) + b"\x08\x00" + ip + struct.pack("!HHHH", *ports, 8, 0) + bytes(18)


def block(order: str, kind: int, body: bytes) -> bytes:
    size = struct.pack(order + "I", len(body) + 12)
    return struct.pack(order + "I", kind) + size + body + size


def packet(order: str, interface: int, ticks: int, data: bytes, direction: int) -> bytes:
    head = struct.pack(order + "IIIII", interface, 0, ticks, len(data), len(data))
    flags = struct.pack(order + "HHIHH", 2, 4, direction, 0, 0) if direction else b""
    return block(order, 6, head + data + bytes(-len(data) % 4) + flags)


def described(order: str, name: str) -> bytes:
    option = struct.pack(order + "HH", 2, len(name)) + name.encode() + bytes(-len(name) % 4)
    return block(order, 1, struct.pack(order + "HHI", 1, 0, 0) + option + bytes(4))


@pytest.fixture(params=["<", ">"], ids=["little", "big"])
def recorded(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Two interfaces whose packets alternate: a question in at one, its answer out there; one way at the other."""
    order, ask, answer = request.param, datagram(1, 2, (5000, 53)), datagram(2, 1, (53, 5000))
    other = datagram(3, 4, (6000, 99))
    path = tmp_path / "recorded.pcapng"
    head = block(order, 0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))
    body = b"".join(
        packet(order, 0, 4 * n, ask, IN) + packet(order, 1, 4 * n + 1, other, OUT)
        + packet(order, 0, 4 * n + 2, answer, OUT) + packet(order, 1, 4 * n + 3, datagram(5, 6, (1, 2)), 0)
        for n in range(10)
    )  # fmt: skip
    path.write_bytes(head + described(order, "eth1") + described(order, "uplink") + body)
    return path


def lines(capsys: pytest.CaptureFixture[str]) -> dict[int, dict[str, Any]]:
    """Records by the source's port."""
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return {record["sourceTransportPort"]: record for record in found}


WHERE = ("ingressInterface", "egressInterface", "interfaceName", "flowDirection")
BOTH = WHERE + tuple(f"reverse{name[0].upper()}{name[1:]}" for name in WHERE)


def where(record: dict[str, Any]) -> dict[str, Any]:
    return {name: record[name] for name in BOTH if name in record}


@pytest.mark.kernel
def test_a_file_that_tells_directions(recorded, capsys):
    """Each way has its interface's name and its direction there; another host's interfaces have no numbers here."""
    assert main.run(["capture", "-r", str(recorded), "--handler", "flows"]) == 0
    found = lines(capsys)
    assert where(found[5000]) == {
        "interfaceName": "eth1", "flowDirection": 0, "reverseInterfaceName": "eth1", "reverseFlowDirection": 1,
    }  # fmt: skip
    assert where(found[6000]) == {"interfaceName": "uplink", "flowDirection": 1}
    assert where(found[1]) == {"interfaceName": "uplink"}
    assert {record["packetDeltaCount"] for record in found.values()} == {10}


def test_map_says_the_same(recorded, capsys, tmp_path):
    """The workers of ``map`` send the names along."""
    out = tmp_path / "mapped.jsonl"
    assert main.run(["map", "flows", "--to", f"file:{out}", "--workers", "1", str(recorded)]) == 0
    capsys.readouterr()
    assert main.run(["capture", "-r", str(recorded), "--handler", "flows"]) == 0
    assert sorted(out.read_text().splitlines()) == sorted(capsys.readouterr().out.splitlines())


def of(*origins: tuple[int, int, int, int]) -> Records:
    """UDP records: place and direction of either way."""
    words = udp_words(len(origins))
    for row, (near, way, far, back) in zip(words, origins, strict=True):
        forward, reverse = near | way << f.DIRECTION, far | back << f.DIRECTION
        row[f.MORE] = forward << f.ORIGIN | reverse << f.ORIGIN + f.ORIGIN_BITS
    return Records(words, (Interface(7, "eth1"), Interface(0, ""), Interface(9, "eth2")))


def udp_words(count: int) -> Any:
    words = np.zeros((count, f.ENTRY_WORDS), np.int64)
    words[:, f.KEY] = 17 << f.PROTOCOL
    words[:, f.FIRST] = words[:, f.LAST] = 1_700_000_000 * 10**9
    return words


def test_columns_of_arrow():
    """As Parquet has them: a number where the kernel gave one, a name where there is one."""
    table = of((1, IN, 1, OUT), (2, IN, 0, 0), (4, 0, 3, IN), (0, 0, 0, 0)).to_arrow()
    found = {name: table.column(name).to_pylist() for name in BOTH}
    assert found["ingressInterface"] == [7, None, None, None]
    assert found["reverseEgressInterface"] == [7, None, None, None]
    assert found["reverseIngressInterface"] == [None, None, 9, None]
    assert found["interfaceName"] == ["eth1", None, None, None]
    assert found["reverseInterfaceName"] == ["eth1", None, "eth2", None]
    assert found["flowDirection"] == [0, 0, None, None]
    assert found["reverseFlowDirection"] == [1, None, 0, None]


def test_templates_of_ipfix():
    """Flows whose direction is known have templates with the elements 10, 14 and 61; the others claim nothing."""
    rows = dict(ipfix.data_records(of((1, IN, 1, OUT), (0, 0, 0, 0), (3, OUT, 0, 0))))
    assert {number: len(some) for number, some in rows.items()} == {256: 1, 258: 2}
    tail = [row.tobytes()[-18:] for row in rows[258]]
    assert [struct.unpack("!IIIIBB", each) for each in tail] == [(0, 7, 7, 0, 1, 0), (0, 0, 0, 9, 0, 1)]
    assert [(e.number, e.enterprise) for e in ipfix.TEMPLATES[259][-6:]] == [
        (10, ipfix.REVERSE), (10, 0), (14, ipfix.REVERSE), (14, 0), (61, ipfix.REVERSE), (61, 0),
    ]  # fmt: skip


def test_a_spool_keeps_names(tmp_path):
    """Segments name their own interfaces: those of a capture that is over, and of the next one with others."""
    one = Spool(tmp_path)
    first, then = (Interface(7, "eth1"), Interface(8, "größer")), (Interface(7, "other"),)
    one.put(udp_words(3), first)
    one.put(udp_words(2), first)
    one.put(udp_words(4), then)
    one.close()
    two = Spool(tmp_path)
    assert (two.put_records, two.spooled(), two.sealed(9)) == (9, 9, [1, 2])
    found = [two.read(number) for number in (1, 2)]
    assert [(each.before, len(each.words), each.interfaces) for each in found] == [(0, 5, first), (5, 4, then)]
    two.close()


def test_a_spool_without_names(tmp_path):
    """Segments of the version before have records only."""
    words = np.zeros((3, f.ENTRY_WORDS), np.int64)
    words[0, :2] = 0x57435350_00000001, 1
    (tmp_path / f"{1:012}.flows").write_bytes(words.tobytes())
    spool = Spool(tmp_path)
    assert (spool.put_records, len(spool.read(1).words), spool.read(1).interfaces) == (2, 2, ())
    spool.close()


@pytest.mark.live
@pytest.mark.parametrize("engine", ["packet", "xdp"])
def test_a_live_interface(engine, testbed, tmp_path):
    """The packet engine knows both directions, from the kernel; at AF_XDP everything comes in."""
    bed, out = testbed(queues=1), tmp_path / "f.jsonl"
    near = bed.nics[0].inside
    child = Child(
        [*WIRECAP, "capture", "--netns", bed.name, "-i", near, "--engine", engine, "--handler", "flows", "--to",
         f"file:{out}", "-c", "6" if engine == "packet" else "3", "udp and port 53"]
    )  # fmt: skip
    child.wait_for("^wirecap: capturing on", 100)
    with Wire(bed.nics[0].outside) as wire:
        wire.send([datagram(1, 2, (5000, 53))] * 3)
    if engine == "packet":
        until(lambda: captured(child) == 3)  # those come in before others go out
    netns.call(bed.name, send, near, [datagram(2, 1, (53, 5000))] * 3)
    assert child.end(None, 60).status == 0
    (record,) = [json.loads(line) for line in out.read_text().splitlines()]
    index = netns.call(bed.name, socket.if_nametoindex, near)
    assert where(record) == {"ingressInterface": index, "interfaceName": near, "flowDirection": 0} | (
        {"reverseEgressInterface": index, "reverseInterfaceName": near, "reverseFlowDirection": 1}
        if engine == "packet"
        else {}
    )


def send(interface: str, frames: list[bytes]) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
        out.bind((interface, 0))
        for frame in frames:
            with suppress(OSError):  # the other end may have no room for it: the capture is in front of that
                out.send(frame)


def test_messages_of_another_release():
    """Columns are found by name: absent ones are null, unknown ones left out; a wrong type is refused."""
    batch = of((1, IN, 1, OUT)).to_arrow()
    sink = pa.BufferOutputStream()
    older = batch.select(batch.schema.names[:-8]).append_column("another", pa.array([5]))
    with pa.ipc.new_stream(sink, older.schema) as writer:
        writer.write_batch(older)
    (found,) = _decode(sink.getvalue().to_pybytes())
    assert found.schema.equals(batch.schema)
    assert found.column("interfaceName").to_pylist() == [None]
    assert found.column("packetDeltaCount").equals(batch.column("packetDeltaCount"))
    sink = pa.BufferOutputStream()
    wrong = batch.set_column(2, "flowEndReason", pa.array(["idle"]))
    with pa.ipc.new_stream(sink, wrong.schema) as writer:
        writer.write_batch(wrong)
    with pytest.raises(ValueError, match="no column flowEndReason as it should be"):
        _decode(sink.getvalue().to_pybytes())
