"""``wirecap serve`` and ``capture -i pcap-over-ip://``, as users run them."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rig import Wire, flow_frames, free_port, packets_so_far, read_pcapng, until
from wirecap.cli import main

WIRECAP = [sys.executable, "-P", "-m", "wirecap"]


class Started:
    """A command in the background, and the lines that it says."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen([*WIRECAP, *arguments], stderr=subprocess.PIPE, text=True)
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        with self.process.stderr:
            for line in self.process.stderr:
                self.lines.append(line.rstrip())

    def says(self, text: str) -> None:
        until(lambda: any(text in line for line in self.lines) or self.process.poll() is not None, 100)
        assert any(text in line for line in self.lines), self.lines

    def ended(self) -> list[str]:
        self.process.wait(timeout=60)
        self._reader.join()
        assert self.process.returncode == 0, self.lines
        return self.lines


def begun(*arguments: str) -> Started | None:
    """A server that serves: the kernel takes its time to let go of what a killed one had."""
    server = Started(*arguments)
    until(lambda: any("serving" in line for line in server.lines) or server.process.poll() is not None, 100)
    return server if server.process.poll() is None else None


@pytest.mark.live
def test_both_ends(testbed, tmp_path):
    """A server with a filter of its own, and a capture from it with another, into a file: all accounts agree."""
    bed, port = testbed(queues=2), free_port()
    served, captured, out = tmp_path / "served.json", tmp_path / "captured.json", tmp_path / "out.pcapng"
    server = Started(
        "serve", bed.nics[0].inside, "--netns", bed.name, "--listen", str(port), "--json", str(served), "udp"
    )
    server.says(f"serving {bed.nics[0].inside} on 127.0.0.1:{port}")
    address = f"pcap-over-ip://127.0.0.1:{port}"
    client = Started("capture", "-i", address, "-w", str(out), "--json", str(captured), "src", "port", "1030")
    server.says("wants src port 1030")
    with Wire(bed.nics[0].outside) as wire:
        wire.send(flow_frames(500))
        wire.send(flow_frames(500))
    server.process.send_signal(signal.SIGINT)
    server.ended()
    lines = client.ended()
    assert "2 packets captured" in lines
    assert f"{address}: the server has ended the stream" in lines
    row = json.loads(served.read_text())["serving"]["clients"][0]
    assert (row["filter"], row["offered"], row["sent"], row["filtered_out"]) == ("src port 1030", 1000, 2, 998)
    summary = json.loads(captured.read_text())
    assert (summary["packets"]["written"], summary["server_drops"], summary["engine"]) == (2, {}, "pcap-over-ip")
    assert len(read_pcapng(out)) == 2


@pytest.mark.live
def test_a_server_that_is_killed_and_begun_again(testbed, tmp_path):
    """With --keep-going the other end waits: what each server sent is in one file, and the gap is named."""
    bed, port = testbed(queues=1), free_port()
    out, summary = tmp_path / "out.pcapng", tmp_path / "captured.json"
    line = ("serve", bed.nics[0].inside, "--netns", bed.name, "--listen", str(port))
    address = f"pcap-over-ip://127.0.0.1:{port}"
    first = Started(*line)
    first.says(f"serving {bed.nics[0].inside}")
    client = Started(
        "capture", "-i", address, "-w", str(out), "-U", "--keep-going", "--json", str(summary), "src", "port", "1030"
    )
    first.says("wants src port 1030")
    with Wire(bed.nics[0].outside) as wire:
        wire.send(flow_frames(500))
        until(lambda: packets_so_far(out) == 1, 60)
        first.process.kill()
        client.says(f"{address} is gone: waiting for it to come back")
        client.says("not captured yet")
        first.process.wait()
        second = until(lambda: begun(*line), 60)
        client.says(f"{address} is back: capturing on it again")
        second.says("wants src port 1030")
        wire.send(flow_frames(500))
        until(lambda: packets_so_far(out) == 2, 60)
    client.process.send_signal(signal.SIGINT)
    lines = client.ended()
    second.process.send_signal(signal.SIGINT)
    second.ended()
    assert "2 packets captured" in lines
    assert any(f"{address}: the connection ended once; what was captured there" in text for text in lines)
    found = json.loads(summary.read_text())
    assert (found["packets"]["received"], found["server_gone"], found["server_drops"]) == (2, 1, {})


REFUSED = {
    "serve": "nothing to serve (name an interface: wirecap serve eth1)",
    "serve eth1 --listen nowhere": "--listen: 'nowhere' is not an address and port",
    "serve eth1 --tls-key k": "--tls-key needs the server's certificate (add --tls-cert FILE)",
    "serve lo --tls-cert /nonexistent.pem": "--tls-cert /nonexistent.pem: no such file or directory",
    "serve eth1 --client-buffer 1": "--client-buffer must be 4 MiB to",
    "serve eth1 --max-clients 0": "--max-clients must be 1 to 1000, not 0",
    "serve eth1 --allow 10.0.0.0/99": "--allow: '10.0.0.0/99' is not a network",
    "serve eth1 -f udp tcp": "the filter is given twice",
    "serve pcap-over-ip://x": "'pcap-over-ip://x' is not a valid interface",
    "capture --handler serve -i eth1": "the handler serve needs a place for its clients to connect (use wirecap serve)",
    "capture -i http://x": "-i: 'http://x': cannot capture from http://",
    "capture -i pcap-over-ip://": "has no host and port",
    "capture -i pcap-over-ip://x -i eth1": "cannot capture from pcap-over-ip://x:57012 and from anything else at once",
    "capture -i pcap-over-ip://x -r file": "cannot capture from pcap-over-ip://x:57012 and from anything else at once",
    "capture -i pcap-over-ip://x -i pcap-over-ip://y": "capture reads from only one pcap-over-IP server",
    "capture -i pcap-over-ip://x --engine xdp": "--engine is decided where pcap-over-ip://x:57012 captures",
    "capture -i pcap-over-ip://x --tls-ca ca.pem": "--tls-ca is for a server with TLS",
    "capture -i pcap-over-ip+tls://x --tls-key k": "--tls-key needs its certificate",
    "capture -i eth1 --tls-ca ca.pem": "--tls-ca is for a server with TLS",
    "capture -i pcap-over-ip://x -y EN10MB": "-y is for interfaces",
}


@pytest.mark.parametrize("line", REFUSED)
def test_bad_use_is_one_line(line, capfd, tmp_path, monkeypatch):
    """What cannot be is refused before anything is opened, with status 2."""
    monkeypatch.chdir(tmp_path)
    assert main.run(line.split()) == 2
    said = capfd.readouterr().err
    assert REFUSED[line] in said
    assert said.count("\n") == 1


def test_nobody_there(capfd):
    """No server is a failed run: one line with what to look for."""
    address = f"pcap-over-ip://127.0.0.1:{free_port()}"
    assert main.run(["capture", "-i", address]) == 1
    said = capfd.readouterr().err
    assert said == f"wirecap: {address}: connection refused (is 'wirecap serve' running there?)\n"


def test_a_stream_that_breaks_off(capfd, tmp_path):
    """What came before is written; then the error says where it broke off."""
    from wirecap.files import headers

    port, out = free_port(), tmp_path / "out.pcapng"
    head = headers.section_header("x") + headers.interface_description("x", 100)
    packet = bytes.fromhex("06000000 24000000 00000000 00000000 00000000 04000000 04000000 01020304 24000000")
    with socket.create_server(("127.0.0.1", port)) as listener:

        def serve() -> None:
            with listener.accept()[0] as channel:
                channel.sendall(head + packet + packet[:11])

        thread = threading.Thread(target=serve)
        thread.start()
        assert main.run(["capture", "-i", f"pcap-over-ip://127.0.0.1:{port}", "-w", str(out)]) == 2
        thread.join()
    said = capfd.readouterr().err.splitlines()
    assert "1 packet captured" in said
    assert said[-1].startswith(f"wirecap: pcap-over-ip://127.0.0.1:{port}: truncated dump file")
    assert len(read_pcapng(out)) == 1


def test_a_connection_that_breaks_off_and_comes_again(capfd, tmp_path):
    """With --keep-going what came of a packet is left out, counters of drops go on, and a filter has to be taken."""
    from wirecap.files import headers

    port, out, summary = free_port(), tmp_path / "out.pcapng", tmp_path / "summary.json"
    head = headers.section_header("x") + headers.interface_description("x", 100)
    packet = bytes.fromhex("06000000 24000000 00000000 00000000 00000000 04000000 04000000 01020304 24000000")
    drops = headers.interface_statistics(0, 0, headers.Statistics(), "wirecap drops: client_behind=3")
    streams = [head + packet + drops + packet[:11], b"", head + packet + drops + packet]
    with socket.create_server(("127.0.0.1", port)) as listener:

        def serve() -> None:
            for stream in streams:
                with listener.accept()[0] as channel:
                    channel.sendall(stream)

        thread = threading.Thread(target=serve)
        thread.start()
        line = ["capture", "-i", f"pcap-over-ip://127.0.0.1:{port}", "-w", str(out), "--json", str(summary)]
        assert main.run([*line, "--keep-going", "-c", "3"]) == 0
        thread.join()
    assert "the server closed the connection at once" in capfd.readouterr().err
    assert len(read_pcapng(out)) == 3
    found = json.loads(summary.read_text())
    assert found["server_drops"] == {"client_behind": 6}
    assert found["server_gone"] >= 1


def test_the_file_of_config(capfd, tmp_path):
    """``--config`` takes serve's options, and ``--check-config`` refuses a wrong one."""
    path = Path(tmp_path / "serve.toml")
    path.write_text('listen = "127.0.0.1:57012"\ninterface = ["lo"]\nmax-clients = 3\nallow = ["10.0.0.0/8"]\n')
    assert main.run(["serve", "--config", str(path), "--check-config"]) == 0
    assert capfd.readouterr().out == f"{path}: ok\n"
    path.write_text('max-clients = 0\ninterface = ["lo"]\n')
    assert main.run(["serve", "--config", str(path), "--check-config"]) == 2
