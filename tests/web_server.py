"""A real web server on this machine, which gives ranges."""

from __future__ import annotations

import http.server
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class WebServer:
    """given: the name of each file that was asked for, and how many bytes of it were given."""

    url: str
    given: list[tuple[str, int]] = field(default_factory=list)


@contextmanager
def web_server(folder: Path) -> Iterator[WebServer]:
    """Serves a folder's files; one that is called broken.pcap fails."""

    class Ranges(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            file = folder / self.path.strip("/")
            if file.name == "broken.pcap" or not file.is_file():
                self.send_error(503 if file.name == "broken.pcap" else 404)
                return
            data = file.read_bytes()
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            part = data[int(wanted[1]) : int(wanted[2] or len(data)) + 1] if wanted else data
            self.send_response(206 if wanted else 200)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(len(part)))
            if wanted:
                self.send_header("Content-Range", f"bytes {wanted[1]}-{int(wanted[1]) + len(part) - 1}/{len(data)}")
            self.end_headers()
            if body:
                served.given.append((file.name, len(part)))
                self.wfile.write(part)

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Ranges) as server:
        served = WebServer(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield served
        finally:
            server.shutdown()
            thread.join()
