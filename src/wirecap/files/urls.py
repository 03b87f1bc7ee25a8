"""Files behind URLs, through fsspec: ranges of bytes, read as they are needed, and never kept.

Credentials are what the libraries find by themselves (the environment, ~/.aws), and stand in no URL.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from wirecap.errors import UsageError
from wirecap.files.boundary import Bytes

INSTALL = "pip install 'wirecap[remote]'"


def is_url(path: str) -> bool:
    return "://" in path


@lru_cache(maxsize=64)
def _filesystem(scheme: str, host: str) -> Any:
    try:
        import fsspec
    except ImportError:
        raise UsageError(f"{scheme}://{host}: URLs need fsspec, which is not installed", INSTALL) from None
    try:
        return fsspec.filesystem(scheme)
    except ImportError as error:
        raise UsageError(f"{scheme}://{host}: {error}", INSTALL) from None
    except ValueError as error:
        raise UsageError(f"{scheme}://{host}: {error}", "use s3://BUCKET/KEY or https://HOST/FILE") from None


def filesystem(url: str) -> Any:
    """What reads a URL.  Raises UsageError."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise UsageError(f"{url.rpartition('@')[2]}: {error}", "use s3://BUCKET/KEY or https://HOST/FILE") from None
    if "@" in parts.netloc:
        raise UsageError(
            f"{parts.scheme}://{parts.hostname}: a URL with a user or password in it is seen by everybody",
            "leave it out: the environment and ~/.aws or ~/.netrc are for them",
        )
    return _filesystem(parts.scheme, parts.hostname or "")


def asked(url: str, ask: Callable[[], Any]) -> Any:
    """What a server answers.  Raises OSError with a reason in words, whatever the library raised."""
    try:
        return ask()
    except FileNotFoundError as error:
        if why := _other_reason(error.__cause__):
            raise OSError(errno.EIO, why, url) from None
        raise FileNotFoundError(errno.ENOENT, "there is no such file", url) from None
    except PermissionError as error:
        raise PermissionError(errno.EACCES, f"access denied: {error}", url) from None
    except UsageError:
        raise
    except Exception as error:  # each library has its own
        raise OSError(errno.EIO, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}", url) from None


def _other_reason(cause: BaseException | None) -> str:
    """Why fsspec calls a file of a web server missing, where the server did not say so."""
    status = getattr(cause, "status", None)
    if isinstance(status, int):
        return f"its server answers {status} {getattr(cause, 'message', '')}".rstrip() if status != 404 else ""
    return str(cause) if isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError) else ""


def facts_of(url: str) -> tuple[int, str, bytes]:
    """(bytes, what changes with the contents, the first four bytes).  Raises UsageError or OSError."""
    fs = filesystem(url)
    if hasattr(fs, "invalidate_cache"):
        fs.invalidate_cache()
    info = asked(url, lambda: fs.info(url))
    if info.get("size") is None:
        raise UsageError(f"{url}: its server does not say how long it is", "use a server that supports range requests")
    version = next(
        (str(info[name]) for name in ("ETag", "LastModified", "mtime", "Last-Modified") if info.get(name)), ""
    )
    start = asked(url, lambda: fs.cat_file(url, start=0, end=4)) if info["size"] else b""
    if len(start) > 4:
        raise UsageError(f"{url}: its server does not support range requests", "use one that does")
    return int(info["size"]), version, bytes(start)


class RangeSource:
    """The bytes of a URL from ``place`` on, up to ``until``."""

    damage = ""

    def __init__(self, url: str, size: int) -> None:
        self._fs, self._url, self.size = filesystem(url), url, size
        self.place, self.until = 0, size

    def read(self, begin: int, end: int) -> Bytes:
        if begin == end:  # some servers call a range of nothing an error
            return np.empty(0, np.uint8)
        data = asked(self._url, lambda: self._fs.cat_file(self._url, start=begin, end=end))
        if len(data) != end - begin:
            raise OSError(errno.EIO, f"its server gave {len(data)} bytes, and not {end - begin}", self._url)
        return np.frombuffer(data, np.uint8)

    def read_into(self, view: memoryview, timeout_s: float | None) -> int:
        end = min(self.place + len(view), self.until)
        count = max(0, end - self.place)
        if count:
            view[:count] = self.read(self.place, end).data
            self.place = end
        return count

    def close(self) -> None: ...
