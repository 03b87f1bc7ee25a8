"""A real S3 server on this machine."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from wirecap.files import urls

_SCRIPT = "from moto.server import main; main(['-H', '127.0.0.1', '-p', '0'])"


@contextmanager
def object_store() -> Iterator[str]:
    """Yields its endpoint."""
    server = subprocess.Popen([sys.executable, "-P", "-c", _SCRIPT], stderr=subprocess.PIPE, text=True)
    drain = None
    try:
        assert server.stderr is not None
        for line in server.stderr:
            if found := re.search(r"Running on (http://\S+)", line):
                break
        else:
            raise AssertionError("the S3 server has ended")
        drain = threading.Thread(target=lambda: list(server.stderr), daemon=True)
        drain.start()
        yield found[1]
    finally:
        import s3fs

        urls._filesystem.cache_clear()  # the next one is elsewhere
        s3fs.S3FileSystem.clear_instance_cache()
        server.kill()
        server.wait()
        if drain:
            drain.join()
        server.stderr.close()


def put(url: str, data: bytes) -> None:
    header = {"Content-Type": "application/octet-stream"}
    urllib.request.urlopen(urllib.request.Request(url, data, header, method="PUT"), timeout=60).close()


def environment(endpoint: str, secret: str) -> dict[str, str]:
    """What tells the libraries of it."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_DEFAULT_REGION": "us-east-1",
    }
