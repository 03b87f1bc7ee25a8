"""``wirecap serve`` on the in-process NIC: each client gets what its filter wants, and pays for its slowness alone."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import ssl
import struct
import threading
from contextlib import contextmanager, suppress
from dataclasses import replace

import numpy as np
import pytest

import wirecap
from rig import Rig, check_identity, until
from rig import flow_frames as udp
from wirecap.config.endpoint import Endpoint
from wirecap.config.serve import LEAST_BUFFER, Remote, ServeConfig
from wirecap.errors import UsageError, WirecapError
from wirecap.files import headers
from wirecap.files.reader import open_capture
from wirecap.handlers import distribution
from wirecap.handlers.clients import LONGEST_LINE, Phase, wanted
from wirecap.handlers.distribution import Bell, Distribution
from wirecap.handlers.door import Door
from wirecap.handlers.pipeline import Pipeline
from wirecap.handlers.serve import Server
from wirecap.observe.counters import Counters
from wirecap.observe.metrics import Collector
from wirecap.observe.rates import between
from wirecap.observe.screen import capture
from wirecap.run.counting import Counting
from wirecap.source.remote import RemoteSource

PATIENCE_S = 30


def listening(host, filter="", snaplen=262144, **options):
    """A server that listens: on another port, if somebody else was given this one meanwhile."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        server = Server(ServeConfig(listen=Endpoint(host, port), **options), filter, snaplen)
        try:
            server.check(Rig(Pipeline([], None)).source)
        except UsageError as error:
            if "in use" not in error.message:
                raise
        else:
            return server


class Serving:
    """A server on a memory NIC."""

    def __init__(self, filter="", queues=1, snaplen=262144, **options):
        self.server = listening("127.0.0.1", filter, snaplen, **options)
        self.port = self.server.config.listen.port
        self.rig = Rig(Pipeline([], self.server), queues, M=64, R=64)

    def inject(self, packets, queue=0):
        """In portions that the pool has room for."""
        ended = self.rig.ended()
        for first in range(0, len(packets), 1000):
            portion = packets[first : first + 1000]
            until(lambda: self.rig.room(queue) >= len(portion))  # noqa: B023
            self.rig.inject(queue, portion)
            ended += len(portion)
            self.rig.done(ended)

    def fill(self, filter, bystander=None):
        """Packets until a client that reads nothing is behind; returns how many.  Each portion is with all clients, and
        a bystander has been sent its part, before the next one comes: no other buffer gets full."""
        packets, sent = [packet.ljust(1500, b"\0") for packet in udp(1000)], 0
        while not self.row(filter)["drops"]:
            self.inject(packets)
            sent += 1000
            until(lambda: all(row["offered"] == sent for row in self.rows()["clients"]))  # noqa: B023
            if bystander:
                until(lambda: self.row(bystander)["sent"] == sent)  # noqa: B023
        return sent

    def rows(self):
        summary = {}
        self.server.report(summary)
        return summary["serving"]

    def row(self, filter=""):
        return next(row for row in self.rows()["clients"] if row["filter"] == filter)

    def has(self, clients):
        """Wait until so many clients get packets."""
        until(lambda: len(self.rows()["clients"]) == clients)


@contextmanager
def serving(**options):
    one = Serving(**options)
    try:
        with one.rig:
            yield one
    finally:
        one.server.discard()


@pytest.fixture(autouse=True)
def hang_up(monkeypatch):
    """Close what clients left open; wait for none to close, but for any to send its filter and to take its packets."""
    monkeypatch.setattr(distribution, "LINGER_S", 0.05)
    monkeypatch.setattr(distribution, "CLOSING_S", PATIENCE_S)
    monkeypatch.setattr(distribution, "ASKED_S", PATIENCE_S)
    yield
    while opened:
        opened.pop().channel.close()


@pytest.fixture
def silent(monkeypatch):
    """Clients that send no line get everything soon."""
    monkeypatch.setattr(distribution, "ASKED_S", 0.25)


opened: list[Reader] = []


class Reader:
    """A plain client: it may send a line, and has everything that it gets until the end."""

    def __init__(self, serving, line=None, buffer=None, context=None, source="127.0.0.1"):
        self.channel = socket.socket()
        opened.append(self)
        if buffer:
            self.channel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.channel.settimeout(PATIENCE_S)
        self.channel.bind((source, 0))
        self.channel.connect(("127.0.0.1", serving.port))
        if context:
            self.channel = context.wrap_socket(self.channel, server_hostname="localhost")
        if line is not None:
            self.channel.sendall(line)

    def all(self, path):
        """Everything that comes until the end, as a file."""
        with path.open("wb") as file:
            while found := self.channel.recv(1 << 20):
                file.write(found)
        self.channel.close()
        return path


def packets_of(path):
    """How many packets a whole file holds, by its interface statistics' comments, and the section's."""
    comments, count = [], 0
    with open_capture(str(path)) as file:
        file.keep_blocks()
        rows = np.zeros(1000, np.int64), np.zeros(1000, np.uint32), np.zeros(1000, np.uint32), np.zeros(1000, np.int64)
        while n := file.fill(*rows, 1000)[0]:
            count += n
        for one in file.descriptions:
            if one.kind == headers.SECTION_HEADER:
                comments += headers.section_comments(one.block, one.swapped)
            elif one.kind == headers.INTERFACE_STATISTICS:
                comments += headers.statistics_comments(one.block, one.swapped)[1]
    return count, comments


def check_row(row):
    assert row["offered"] == row["filtered_out"] + row["sent"] + row["waiting"] + row["dropped"], row
    assert row["dropped"] == sum(row["drops"].values())


@pytest.mark.kernel
def test_each_client_gets_what_its_filter_wants(tmp_path, silent, monkeypatch):
    """One filter twice, one of its own, and none: each file is whole and has its packets."""
    with serving(queues=2) as one:
        everything = Reader(one)
        one.has(1)
        monkeypatch.setattr(distribution, "ASKED_S", PATIENCE_S)
        lines = [b"udp src port 1025\n", b"udp src port 1025\n", b"udp src port 1026 or udp src port 1027\r\n"]
        readers = [*(Reader(one, line) for line in lines), everything]
        one.has(4)
        packets = udp(3000)
        one.inject(packets, 0)
        one.inject(packets, 1)
        one.rig.stop()
        ports = [int.from_bytes(packet[34:36], "big") for packet in packets]
        found = [packets_of(reader.all(tmp_path / f"{number}.pcapng")) for number, reader in enumerate(readers)]
        wanted = [2 * ports.count(1025)] * 2 + [2 * (ports.count(1026) + ports.count(1027)), 6000]
        assert [count for count, _ in found] == wanted
        assert all(wanted)
        for row in one.rows()["clients"]:
            check_row(row)
            assert (row["offered"], row["drops"], row["waiting"]) == (6000, {}, 0)
        check_identity(one.rig.engine, 6000)


def test_a_slow_client_loses_packets_of_its_own(tmp_path):
    """One that reads nothing: what it gets in the end is whole, and says by name how much it is short of."""
    with serving(buffer=LEAST_BUFFER) as one:
        slow, fast = Reader(one, b"ip\n", buffer=4096), Reader(one, b"udp\n")
        one.has(2)
        reading = threading.Thread(target=fast.all, args=(tmp_path / "fast.pcapng",))
        reading.start()
        sent = one.fill("ip", bystander="udp")
        assert not one.row("udp")["drops"]
        row = one.row("ip")
        assert row["waiting"] > 0
        assert row["drops"]["client_behind"] == row["dropped"]
        check_row(row)
        ended = threading.Thread(target=one.rig.stop)
        ended.start()
        count, comments = packets_of(slow.all(tmp_path / "slow.pcapng"))
        reading.join()
        ended.join()
        assert packets_of(tmp_path / "fast.pcapng")[0] == sent
        assert count == one.row("ip")["sent"] == sent - one.row("ip")["dropped"]
        assert f"wirecap drops: client_behind={one.row('ip')['dropped']}" in comments
        assert one.row("udp")["sent"] == sent
        check_identity(one.rig.engine, sent)


def test_what_others_see(tmp_path):
    """``wirecap top`` and ``--metrics`` have each client with its named drops, and sums with those that are gone."""
    with serving(buffer=LEAST_BUFFER) as one:
        slow = Reader(one, b"ip\n", buffer=4096)
        gone = Reader(one, b"src port 1030\n")
        one.has(2)
        sent = one.fill("ip")
        until(lambda: one.row("src port 1030")["waiting"] == 0)
        few = one.row("src port 1030")["sent"]
        gone.channel.close()
        until(lambda: len(one.server._distribution.clients) == 1)
        counters = Counting(one.rig.engine, None, one.server)()
        assert Counters.from_json(counters.to_json()) == counters
        seen = counters.serving
        (client,) = seen.clients
        lost = client.drops["client_behind"]
        assert (client.filter, client.offered) == ("ip", sent)
        assert client.offered == client.sent + client.waiting + lost
        assert (seen.served, seen.sent, seen.drops) == (2, client.sent + few, {"client_behind": lost})
        samples = {
            (sample.name, *sample.labels.values()): sample.value
            for family in Collector(lambda: counters).collect()
            for sample in family.samples
        }
        assert samples["wirecap_clients",] == 1
        assert samples["wirecap_served_packets_total",] == seen.sent
        assert samples["wirecap_client_dropped_packets_total", client.address, "client_behind"] == lost
        assert samples["wirecap_client_waiting_packets", client.address] == client.waiting
        shown = [str(line) for line in capture(between(counters, counters), "queue", 120)]
        assert f"serving on 127.0.0.1:{one.port}: 1 client, 2 so far; " in "\n".join(shown)
        assert any(f"{client.address} (ip)" in line and f"{lost:,} client behind" in line for line in shown)
        slow.channel.close()


def test_who_stops_reading_does_not_hold_up_the_end(monkeypatch):
    """At the end a client has a while to take the rest; what it leaves is counted."""
    monkeypatch.setattr(distribution, "CLOSING_S", 0.2)
    with serving(buffer=LEAST_BUFFER) as one:
        stuck = Reader(one, b"ip\n", buffer=4096)
        one.has(1)
        one.fill("ip")
        one.rig.stop()
        row = one.row("ip")
        check_row(row)
        assert row["waiting"] == 0
        assert row["drops"]["not_sent"] > 0
        stuck.channel.close()


def test_a_client_that_vanishes_is_forgotten():
    """Its connection is noticed to be gone although no packet comes."""
    with serving() as one:
        gone = Reader(one, b"ip\n")
        one.has(1)
        gone.channel.close()
        until(lambda: not one.server._distribution.clients)
        other = Reader(one, b"udp\n")
        one.has(2)
        one.inject(udp(10))
        until(lambda: one.row("udp")["sent"] == 10)
        other.channel.close()


def test_a_client_may_change_its_filter(tmp_path):
    """From then on the new one counts; one that is wrong ends the stream with the reason."""
    with serving() as one:
        reader = Reader(one, b"udp\n")
        one.has(1)
        one.inject(udp(100))
        until(lambda: one.row("udp")["sent"] == 100)
        reader.channel.sendall(b"tcp\n")
        until(lambda: one.rows()["clients"][0]["filter"] == "tcp")
        one.inject(udp(100))
        until(lambda: one.row("tcp")["filtered_out"] == 100)
        reader.channel.sendall(b"udp porn 53\n")
        count, comments = packets_of(reader.all(tmp_path / "changed.pcapng"))
        assert count == 100
        assert any(comment.startswith("wirecap refuses: ") and "porn" in comment for comment in comments)


def test_an_empty_line_takes_no_filter_back(tmp_path):
    """Of lines that come together the last that says something counts: HTTP's requests end with an empty one."""
    with serving() as one:
        reader = Reader(one, b"tcp\nudp\r\n\r\n")
        one.has(1)
        one.inject(udp(10))
        until(lambda: one.row("udp")["sent"] == 10)
        other = Reader(one, b"GET / HTTP/1.0\r\n\r\n")
        count, comments = packets_of(other.all(tmp_path / "refused.pcapng"))
        assert count == 0
        assert any("GET" in comment for comment in comments)
    reader.channel.close()


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"udp porn 53\n", "syntax error near 'porn'"),
        (b"\xff\xfe\n", "not UTF-8"),
        (b"GET / HTTP/1.1\r\n", "syntax error"),
        (b"x" * (LONGEST_LINE + 1), f"more than {LONGEST_LINE} bytes"),
    ],
    ids=["wrong", "bytes", "http", "endless"],
)
def test_a_bad_filter_is_refused_in_the_stream(tmp_path, line, why):
    """The client gets a whole file without packets, whose comment is the reason; the log has it too."""
    with serving() as one:
        count, comments = packets_of(Reader(one, line).all(tmp_path / "refused.pcapng"))
        assert count == 0
        assert any(comment.startswith("wirecap refuses: ") and why in comment for comment in comments), comments
        assert any(why in message for message in one.server.messages)
        assert one.rows()["refused"] == {"filter": 1}


def test_there_is_room_for_so_many(silent):
    """One client more than there may be is turned away at once, and the log says why."""
    with serving(clients=1) as one:
        first = Reader(one)
        one.has(1)
        assert Reader(one).channel.recv(100) == b""
        assert "--max-clients" in until(lambda: [text for text in one.server.messages if "refused" in text])[0]
        first.channel.close()


def test_only_the_networks_that_are_allowed(silent):
    """``--allow`` goes by the client's address."""
    with serving(allow=(ipaddress.ip_network("127.0.0.2/32"),)) as one:
        assert Reader(one).channel.recv(100) == b""
        assert one.rows()["refused"] == {"not_allowed": 1}
        allowed = Reader(one, source="127.0.0.2")
        assert allowed.channel.recv(4) == b"\n\r\r\n"
        allowed.channel.close()


@pytest.mark.kernel
def test_snap_length(tmp_path, silent):
    """Clients get so much of each packet."""
    with serving(snaplen=42) as one:
        reader = Reader(one)
        one.has(1)
        one.inject(udp(50))
        one.rig.stop()
        path = reader.all(tmp_path / "cut.pcapng")
        assert packets_of(path)[0] == 50
        assert path.stat().st_size < 50 * (32 + 44) + 1000


def test_a_port_in_use_is_one_line():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = Server(ServeConfig(listen=Endpoint("127.0.0.1", port)), "", 100)
        with pytest.raises(UsageError, match=rf"--listen 127\.0\.0\.1:{port}: address already in use"):
            server.check(Rig(Pipeline([], None)).source)


def test_an_open_door_is_warned_about():
    """All hosts, and no TLS: one line."""
    server = listening("0.0.0.0")
    try:
        assert len(server.warnings()) == 1
        assert "unencrypted" in server.warnings()[0]
    finally:
        server.close()


def test_tls(tmp_path, certificates):
    """Only who shows a certificate of the authority gets packets; who never begins the handshake holds nobody up."""
    options = {"tls_cert": certificates["server.pem"], "tls_key": certificates["server.key"]}
    with serving(tls_client_ca=certificates["ca.pem"], **options) as one:
        silent, plain = Reader(one), Reader(one, b"udp port 53\n")
        context = ssl.create_default_context(cafile=certificates["ca.pem"])
        with pytest.raises(OSError, match=r"(?i)certificate required|reset|eof"):
            Reader(one, context=context).channel.recv(100)
        with suppress(ConnectionResetError):
            assert plain.channel.recv(100)[:1] in (b"\x15", b"")  # an alert
        context.load_cert_chain(certificates["client.pem"], certificates["client.key"])
        reader = Reader(one, b"udp\n", context=context)
        one.has(1)
        reading = threading.Thread(target=reader.all, args=(tmp_path / "tls.pcapng",))
        reading.start()
        one.inject(udp(5000))
        until(lambda: one.row("udp")["sent"] == 5000)
        silent.channel.close()
        one.rig.stop()
        reading.join()
        assert packets_of(tmp_path / "tls.pcapng")[0] == 5000
        assert one.rows()["refused"]["tls"] >= 2


def test_the_other_end(certificates, monkeypatch):
    """Our own client: what it asks for, what it learns of drops, and what it says where it is refused."""
    with serving() as one:
        remote = Remote.parse(f"pcap-over-ip://127.0.0.1:{one.port}")
        with pytest.raises(UsageError, match=r"refuses: .*porn"):
            RemoteSource(remote, "udp porn 53")
        source = RemoteSource(remote, "udp  and\n ip")
        assert source.filtered
        assert one.row("udp and ip")["offered"] == 0
        assert source.interfaces[0].name == "memory0"
        source.close()
        monkeypatch.setattr(distribution, "ASKED_S", 0.25)  # from here on no client sends a filter that is waited for
        with pytest.raises(WirecapError, match="no TLS"):
            RemoteSource(Remote.parse(f"pcap-over-ip+tls://127.0.0.1:{one.port}"), "")
    with pytest.raises(WirecapError, match=r"connection refused.*is 'wirecap serve' running there"):
        RemoteSource(remote, "")
    options = {"tls_cert": certificates["server.pem"], "tls_key": certificates["server.key"]}
    with serving(**options) as one:
        text = f"pcap-over-ip+tls://127.0.0.1:{one.port}"
        with pytest.raises(WirecapError, match=r"name the CA to trust with --tls-ca FILE"):
            RemoteSource(Remote.parse(text), "")
        trusting = Remote(Endpoint("127.0.0.1", one.port), True, certificates["ca.pem"])
        source = RemoteSource(trusting, "")
        assert source.describe()["how"] == "TLS"
        source.close()
        with pytest.raises(UsageError, match=r"(?i)closed the connection at once: does it expect TLS|connection reset"):
            RemoteSource(Remote(trusting.server), "udp port 53")
    with (
        serving(tls_client_ca=certificates["ca.pem"], **options) as one,
        pytest.raises(UsageError, match=r"TLS: .*certificate required"),
    ):
        RemoteSource(replace(trusting, server=Endpoint("127.0.0.1", one.port)), "")


def test_from_python():
    """``wirecap.open`` takes the address in place of an interface."""
    with serving() as one, wirecap.open(f"pcap-over-ip://127.0.0.1:{one.port}", filter="src port 1030") as capture:
        one.has(1)
        one.inject(udp(1000))
        chunk = next(iter(capture))
        assert (len(chunk), chunk.interface) == (1, f"pcap-over-ip://127.0.0.1:{one.port}")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("http://host:1", "cannot capture from http://"),
        ("pcap-over-ip://", "has no host and port"),
        ("pcap-over-ip://host:0", "has no host and port"),
        ("pcap-over-ip://me:secret@host:1", "user names and passwords are not supported"),
        ("pcap-over-ip://host/path", "has no host and port"),
    ],
)
def test_bad_addresses(text, why):
    with pytest.raises(UsageError, match=re.escape(why)) as caught:
        Remote.parse(text)
    assert "secret" not in str(caught.value)


def test_addresses():
    assert str(Remote.parse("pcap-over-ip://sensor")) == "pcap-over-ip://sensor:57012"
    assert str(Remote.parse("pcap-over-ip+tls://[::1]:99/")) == "pcap-over-ip+tls://[::1]:99"
    assert Remote.parse("pcap-over-ip://[::1]").server == Endpoint("::1", 57012)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"tls_key": "k"}, "--tls-key needs the server's certificate"),
        ({"tls_client_ca": "k"}, "--tls-client-ca needs the server's certificate"),
        ({"buffer": 1}, "--client-buffer must be"),
        ({"clients": 0}, "--max-clients must be"),
    ],
)
def test_bad_options(options, why):
    with pytest.raises(UsageError, match=why):
        ServeConfig(listen=Endpoint("127.0.0.1", 1), **options)


def test_files_that_make_no_tls(tmp_path, certificates):
    """Each has its line, and no traceback."""
    junk = tmp_path / "junk.pem"
    junk.write_text("nothing")
    server, key, other = (certificates[name] for name in ("server.pem", "server.key", "client.key"))
    for options, why in [
        ({"tls_cert": "/nowhere.pem"}, "--tls-cert /nowhere.pem: no such file or directory"),
        ({"tls_cert": str(junk)}, "no certificate with its key"),
        ({"tls_cert": server, "tls_key": other}, "the key does not belong to the certificate"),
        ({"tls_cert": server, "tls_key": key, "tls_client_ca": str(junk)}, "no certificate in it"),
    ]:
        config = ServeConfig(listen=Endpoint("127.0.0.1", 1), **options)
        with pytest.raises(UsageError, match=re.escape(why)):
            Server(config, "", 100).check(Rig(Pipeline([], None)).source)


def test_a_client_that_is_gone_before_tls_begins(monkeypatch, silent):
    """It is turned away, and the next one is served."""
    real, asked = Door.dressed, []

    def dressed(door, channel):
        asked.append(channel)
        if len(asked) == 1:
            raise ssl.SSLError("Closed before TLS handshake with data in recv buffer.")
        return real(door, channel)

    monkeypatch.setattr(Door, "dressed", dressed)
    with serving() as one:
        assert Reader(one).channel.recv(100) == b""
        assert Reader(one).channel.recv(4) == b"\n\r\r\n"
        assert one.rows()["refused"] == {"gone": 1}


def test_why_the_thread_of_the_clients_failed(monkeypatch):
    """Its own error is what remains, not that it cannot be woken any more."""

    def fail(_):
        raise RuntimeError("no more")

    monkeypatch.setattr(Distribution, "_look_after", fail)
    with suppress(RuntimeError), serving() as one:
        shared = until(lambda: one.server._distribution)
        until(lambda: shared.failure)
        shared.end()
    assert str(shared.failure) == "no more"


def test_a_bell_that_is_closed():
    """Whoever has its number now gets nothing of it."""
    bell = Bell()
    bell.ring()
    number = bell.fd
    bell.close()
    reading, writing = os.pipe2(os.O_NONBLOCK)
    if number not in (reading, writing):
        os.dup2(writing, number)
    bell.ring()
    with pytest.raises(BlockingIOError):
        os.read(reading, 100)
    for each in {reading, writing, number}:
        os.close(each)


def test_a_client_that_sends_without_end():
    """Once it gets no more, what it sends is read in portions: others have their turn."""

    class Endless:
        phase, half_closed, shut, reads = Phase.CLOSING, False, True, 0

        def read(self):
            self.reads += 1
            assert self.reads < 1000
            return b"x" * 1000

    with serving() as one:
        client = Endless()
        one.server._distribution._listen(client)
        assert client.reads > 1


def test_filters_of_clients_that_come_and_go(tmp_path, monkeypatch):
    """Who hangs up while its filter is compiled, and comes again: no more are compiled at once than may come."""
    going_on, begun = threading.Event(), []

    def compiled(text, links):
        begun.append(text)
        going_on.wait(PATIENCE_S)
        return wanted(text, links)

    monkeypatch.setattr(distribution, "wanted", compiled)
    with serving(clients=2) as one:
        for number in (1, 2):
            gone = Reader(one, b"udp\n")
            until(lambda: len(begun) == number)  # noqa: B023
            gone.channel.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            gone.channel.close()  # a reset
            until(lambda: not one.server._distribution.clients)
        comments = packets_of(Reader(one, b"udp\n").all(tmp_path / "refused.pcapng"))[1]
        assert comments == ["wirecap refuses: 2 filters are being compiled already: ask again later"]
        assert len(begun) == 2
        going_on.set()
        until(lambda: one.server._distribution._compiling == 0)
        Reader(one, b"udp\n")
        one.has(1)
        one.rig.stop()
