"""``wirecap map`` over URLs: an object store and a web server, both real, started here."""

from __future__ import annotations

import json

import pytest
from map_rig import HANDLERS, frame, pcap

from object_store import environment, object_store, put
from web_server import web_server
from wirecap.cli import main

pytest.importorskip("s3fs")
pytest.importorskip("moto")
SECRET = "not-to-be-seen"


@pytest.fixture(scope="module")
def captures(tmp_path_factory):
    """A folder with a capture of several parts, and a short one that is compressed."""
    folder = tmp_path_factory.mktemp("captures")
    pcap(folder / "a.pcap", [frame(300 + n % 3, n) for n in range(900)])
    pcap(folder / "b.pcap", [frame(200)] * 5)
    assert main.run(["convert", "-q", str(folder / "b.pcap"), "-w", str(folder / "b.pcap.gz")]) == 0
    (folder / "b.pcap").unlink()
    return folder


@pytest.fixture(scope="module")
def store(captures):
    """The endpoint of an S3 server whose bucket ``archive`` has the captures."""
    with object_store() as endpoint:
        put(f"{endpoint}/archive", b"")
        for file in captures.iterdir():
            put(f"{endpoint}/archive/monday/{file.name}", file.read_bytes())
            put(f"{endpoint}/archive/monday/{file.name}.wcidx", b"an index is no capture")
        yield endpoint


@pytest.mark.filterwarnings("ignore")
def test_an_object_store(captures, store, tmp_path, capfd, monkeypatch):
    """A folder of a bucket gives what the local files give, in parts; the credentials are seen nowhere."""
    for name, value in environment(store, SECRET).items():
        monkeypatch.setenv(name, value)
    handler, out = f"{HANDLERS}:lengths", tmp_path / "out.json"
    assert main.run(["map", handler, str(captures), "--part", "64KiB", "-q"]) == 0
    local = capfd.readouterr().out
    assert json.loads(local) == {"lengths": {"300": 300, "301": 300, "302": 300, "200": 5}}
    line = ["map", handler, "s3://archive/monday", "--part", "64KiB", "--workers", "2", "--json", str(out)]
    assert main.run(line) == 0
    shown = capfd.readouterr()
    assert shown.out == local
    summary = json.loads(out.read_text())
    assert summary["run"]["parts"] > 4
    assert [file["path"] for file in summary["files"]] == [f"s3://archive/monday/{n}" for n in ("a.pcap", "b.pcap.gz")]
    assert all(file["version"] for file in summary["files"])
    assert SECRET not in shown.out + shown.err + out.read_text()
    assert main.run(["map", "count", "s3://archive/none.pcap"]) == 2
    shown = capfd.readouterr().err
    assert "s3://archive/none.pcap: there is no such file" in shown
    assert len(shown.splitlines()) == 1


@pytest.mark.filterwarnings("ignore")
def test_a_web_server(captures, capfd):
    """A file behind HTTP is read by ranges, none of which is the whole file."""
    with web_server(captures) as server:
        line = ["map", f"{HANDLERS}:lengths", f"{server.url}/a.pcap", "--part", "64KiB", "--workers", "2", "-q"]
        assert main.run(line) == 0
        assert capfd.readouterr().out == '{"lengths": {"300": 300, "301": 300, "302": 300}}\n'
        assert max(size for _, size in server.given) <= 1 << 18  # what finds a record
        assert main.run(["map", "count", f"{server.url}/none.pcap"]) == 2
        assert "none.pcap: there is no such file" in capfd.readouterr().err
        assert main.run(["map", "count", f"{server.url}/broken.pcap"]) == 2
        assert "broken.pcap: its server answers 503" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("url", "told"),
    [
        (f"s3://user:{SECRET}@bucket/x.pcap", "a URL with a user or password in it"),
        ("nothing://bucket/x.pcap", "Protocol not known: nothing"),
        (f"s3://user:{SECRET}@[bad/x.pcap", "[bad/x.pcap: Invalid IPv6 URL"),
    ],
)
def test_mistakes(capfd, url, told):
    """Each is one line, without the password."""
    assert main.run(["map", "count", url]) == 2
    shown = capfd.readouterr().err
    assert told in shown
    assert SECRET not in shown
    assert len(shown.splitlines()) == 1


@pytest.mark.filterwarnings("ignore")
def test_no_web_server(capfd):
    """Where nobody listens, no file is said to be missing."""
    assert main.run(["map", "count", "http://127.0.0.1:1/x.pcap"]) == 2
    shown = capfd.readouterr().err
    assert "http://127.0.0.1:1/x.pcap: Cannot connect" in shown
    assert "no such file" not in shown
