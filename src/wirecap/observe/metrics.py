"""A running capture's counters for Prometheus: an HTTP server beside it (docs/watching.md).

What is served are the counters that were last taken; a scrape asks nothing of the capture.
"""

from __future__ import annotations

import platform
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric

from wirecap.config.endpoint import Endpoint
from wirecap.observe.counters import Counters


class Collector:
    """What prometheus_client asks at each scrape."""

    def __init__(self, latest: Callable[[], Counters]) -> None:
        self._latest = latest

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        counters = self._latest()
        yield InfoMetricFamily(
            "wirecap_build", "The release that captures.",
            {"version": counters.release, "python": platform.python_version(), "engine": counters.engine,
             "mode": counters.mode, "command": counters.command},
        )  # fmt: skip
        yield from _queues(counters)
        yield from _threads(counters)
        yield from _settings(counters)
        yield from _disk(counters)
        yield from _outputs(counters)
        yield from _serving(counters)


def _queues(counters: Counters) -> Iterator[Metric]:
    place = ["interface", "queue"]
    rows = [([each.interface, str(each.queue)], each) for each in counters.queues]
    for name, what, help in (
        ("received_packets", "received", "Packets at the hook, before any can be lost."),
        ("received_bytes", "received_bytes", "Bytes of these."),
        ("delivered_packets", "delivered", "Packets that handlers and writers got, or that were forwarded."),
        ("filtered_packets", "filtered_out", "Packets that the filter rejected."),
        ("offloaded_packets", "offloaded", "Packets of this queue that other queues' threads took."),
        ("forwarded_packets", "forwarded", "Packets sent on."),
    ):
        yield _family(CounterMetricFamily, name, help, place, ((labels, getattr(row, what)) for labels, row in rows))
    dropped = (([*labels, reason], number) for labels, row in rows for reason, number in row.drops.items())
    yield _family(CounterMetricFamily, "dropped_packets", "Packets lost, by name.", [*place, "reason"], dropped)
    pending = ((labels, row.pending) for labels, row in rows)
    yield _family(GaugeMetricFamily, "pending_packets", "Packets on their way through.", place, pending)
    free = ((labels, row.free_chunks) for labels, row in rows)
    yield _family(GaugeMetricFamily, "free_chunks", "Chunks that the queue's pool can still take, of R.", place, free)
    slots = (([*labels, state], number) for labels, row in rows for state, number in row.slots.items())
    yield _family(GaugeMetricFamily, "slots", "Slots of the pool, by state.", [*place, "state"], slots)


def _threads(counters: Counters) -> Iterator[Metric]:
    homes = [[each for each in counters.queues if each.consumer == number] for number in range(len(counters.consumers))]
    depths = (
        ([home[0].interface, str(home[0].queue), each.name] if len(home) == 1 else ["", "", each.name], each.depth)
        for each, home in zip(counters.consumers, homes, strict=True)
    )
    place = ["interface", "queue", "thread"]
    help = "Chunks that wait for a thread, which takes those of this queue or, without one, of several."
    yield _family(GaugeMetricFamily, "queue_depth_chunks", help, place, depths)
    seconds = (([each.name], each.seconds) for each in counters.consumers)
    yield _family(
        CounterMetricFamily, "handler_seconds", "Processor time of handlers and writers.", ["thread"], seconds
    )
    capture = (([name], number) for name, number in counters.capture_seconds.items())
    yield _family(CounterMetricFamily, "capture_seconds", "Processor time of capture threads.", ["thread"], capture)


def _settings(counters: Counters) -> Iterator[Metric]:
    yield GaugeMetricFamily("wirecap_pool_chunks", "R: chunks of each queue's pool.", counters.R)
    yield GaugeMetricFamily("wirecap_chunk_packets", "M: packets of a chunk.", counters.M)
    yield GaugeMetricFamily("wirecap_threshold_ratio", "T: the share of R that calls for a buddy.", counters.T / 100)
    yield GaugeMetricFamily("wirecap_start_time_seconds", "When the capture began.", counters.started_ns * 1e-9)
    yield GaugeMetricFamily("wirecap_ending", "1 while a capture ends.", int(counters.ending))


def _disk(counters: Counters) -> Iterator[Metric]:
    if (disk := counters.disk) is None:
        return
    yield CounterMetricFamily("wirecap_written_packets", "Packets in files.", value=disk.packets)
    yield CounterMetricFamily("wirecap_written_bytes", "Bytes of these packets.", value=disk.bytes)
    yield CounterMetricFamily("wirecap_written_files", "Files begun.", value=disk.files)
    yield CounterMetricFamily("wirecap_removed_files", "Files removed to stay within bounds.", value=disk.removed_files)
    for name, value, help in (
        ("disk_free_bytes", disk.free, "What the disk of the files has free."),
        ("disk_size_bytes", disk.size, "Its size."),
        ("files_limit_bytes", disk.limit, "What the files may take (--limit)."),
        ("files_held_bytes", disk.held, "What they take."),
    ):
        if value >= 0:
            yield GaugeMetricFamily(f"wirecap_{name}", help, value)


def _outputs(counters: Counters) -> Iterator[Metric]:
    if not counters.outputs:
        return
    sent = (([each.interface, str(each.queue)], each.forwarded) for each in counters.outputs)
    yield _family(CounterMetricFamily, "sent_packets", "Packets sent, by transmit queue.", ["interface", "queue"], sent)


def _serving(counters: Counters) -> Iterator[Metric]:
    if (serving := counters.serving) is None:
        return
    yield GaugeMetricFamily("wirecap_clients", "Clients that are served.", len(serving.clients))
    yield CounterMetricFamily("wirecap_served_clients", "Clients that were ever served.", value=serving.served)
    refused = (([reason], number) for reason, number in serving.refused.items())
    yield _family(CounterMetricFamily, "refused_clients", "Clients that were turned away.", ["reason"], refused)
    yield CounterMetricFamily("wirecap_served_packets", "Packets sent, to all clients so far.", value=serving.sent)
    yield CounterMetricFamily("wirecap_served_bytes", "Bytes sent, to all clients so far.", value=serving.bytes)
    lost = (([reason], number) for reason, number in serving.drops.items())
    help = "Packets that clients should have got and did not, of all so far."
    yield _family(CounterMetricFamily, "unserved_packets", help, ["reason"], lost)
    place, rows = ["client"], [([each.address], each) for each in serving.clients]
    for name, what, help in (
        ("client_offered_packets", "offered", "Packets captured while a client was there."),
        ("client_filtered_packets", "filtered_out", "Those that its filter rejected."),
        ("client_sent_packets", "sent", "Those that it was sent."),
        ("client_sent_bytes", "bytes", "Bytes that it was sent."),
    ):
        yield _family(CounterMetricFamily, name, help, place, ((labels, getattr(row, what)) for labels, row in rows))
    dropped = (([*labels, reason], number) for labels, row in rows for reason, number in row.drops.items())
    yield _family(CounterMetricFamily, "client_dropped_packets", "Those it lost, by name.", [*place, "reason"], dropped)
    waiting = ((labels, row.waiting) for labels, row in rows)
    yield _family(GaugeMetricFamily, "client_waiting_packets", "Those that wait for it.", place, waiting)


def _family(
    kind: Callable[..., Any], name: str, help: str, labels: list[str], rows: Iterable[tuple[list[str], float]]
) -> Metric:  # fmt: skip
    family = kind(f"wirecap_{name}", help, labels=labels)
    for values, number in rows:
        family.add_metric(values, number)
    found: Metric = family
    return found


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    block_on_close = False

    def server_bind(self) -> None:
        # Not WSGIServer's: it looks the host's name up, for which a name server may take seconds.
        socket.socket.bind(self.socket, self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news."""


class _Quiet(WSGIRequestHandler):
    timeout = 10  # seconds that a client may take

    def log_message(self, format: str, *args: Any) -> None: ...


class MetricsServer:
    """Serves ``latest`` at an endpoint, in threads of its own, until it is closed.  Raises OSError."""

    def __init__(self, endpoint: Endpoint, latest: Callable[[], Counters]) -> None:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(Collector(latest))
        family, _, _, _, address = socket.getaddrinfo(
            endpoint.host, endpoint.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]  # fmt: skip
        server = type("_Server", (_Server,), {"address_family": family})
        self._server = server(address[:2], _Quiet, bind_and_activate=False)
        try:
            self._server.allow_reuse_address = True
            self._server.server_bind()
            self._server.server_activate()
        except BaseException:
            self._server.server_close()
            raise
        self._server.set_app(make_wsgi_app(registry))
        self._thread = threading.Thread(target=self._server.serve_forever, name="wirecap metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Answers that are under way are given, or broken off at the end of the process."""
        self._server.socket.shutdown(socket.SHUT_RDWR)  # wakes the thread, which looks only now and then otherwise
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
