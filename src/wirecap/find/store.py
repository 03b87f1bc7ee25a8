"""Archives, those behind URLs too: the captures below one, the indexes beside them and the tables of blocks."""

from __future__ import annotations

from collections.abc import Sequence

from wirecap.errors import UsageError
from wirecap.files.index import index_path
from wirecap.files.rotation import INDEX_SUFFIX, TABLE_SUFFIX
from wirecap.files.stored import Stored
from wirecap.files.urls import asked, facts_of, filesystem, is_url
from wirecap.find.archive import CAPTURE_SUFFIXES, Archive, files_of


def archive_of(paths: Sequence[str], output: str, hint: str) -> Archive:
    """The files among the paths and URLs, in folders and below prefixes, in their order (as ``files_of``)."""
    archive = files_of([path for path in paths if not is_url(path)], output, hint)
    for url in paths:
        if is_url(url):
            add(archive, url, hint)
    return archive


def is_folder(url: str) -> bool:
    """Raises UsageError or OSError."""
    if url.partition("://")[0] in ("http", "https") or _is_named_so(url) or url.endswith(TABLE_SUFFIX):
        return False
    fs = filesystem(url)
    return bool(asked(url, lambda: fs.isdir(url)))


def _is_named_so(name: str) -> bool:
    return any(suffix in name.lower() for suffix in CAPTURE_SUFFIXES) and not name.endswith(
        (INDEX_SUFFIX, TABLE_SUFFIX)
    )


def below(url: str) -> dict[str, int]:
    """The bytes of each file below a folder, by URL and in order.  Raises UsageError or OSError."""
    fs = filesystem(url)
    found = asked(url, lambda: fs.find(url, detail=True))
    return {fs.unstrip_protocol(name): int(found[name].get("size") or 0) for name in sorted(found)}


def names_of(url: str) -> list[str]:
    """The URL itself, or the captures below it where it is a folder.  Raises UsageError or OSError."""
    return [name for name in below(url) if _is_named_so(name)] if is_folder(url) else [url]


def add(archive: Archive, url: str, hint: str) -> None:
    """Have what is behind a URL searched: a capture, a table, or what is below a folder.  Raises UsageError."""
    try:
        if is_folder(url):
            files = below(url)
            for name in files:
                if _is_named_so(name):
                    index = files.get(index_path(name), 0)
                    _take(archive, Stored(name, files[name], index))
                elif name.endswith(TABLE_SUFFIX):
                    archive.tables[name] = files[name]
        elif url.endswith(TABLE_SUFFIX):
            archive.tables[url] = facts_of(url)[0]
        else:
            _take(archive, Stored(url, facts_of(url)[0], _size_of(index_path(url))))
    except OSError as error:
        raise UsageError(f"{url}: {error.strerror}", hint) from None


def _take(archive: Archive, one: Stored) -> None:
    if one.url not in archive.stored:
        archive.stored[one.url] = one
        archive.files.append(one.url)


def _size_of(url: str) -> int:
    """0 for what is not there, or not for us."""
    fs = filesystem(url)
    try:
        return int(asked(url, lambda: fs.info(url)).get("size") or 0)
    except OSError:
        return 0
