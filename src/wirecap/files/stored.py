"""A capture file behind a URL, and the index beside it, of which only what is needed is fetched."""

from __future__ import annotations

from dataclasses import dataclass

from wirecap.files.decompression import is_compressed
from wirecap.files.index import CHANGED, Index, StaleError, UnreadableError, ends_of, index_path
from wirecap.files.urls import RangeSource

UNIT_BYTES = 1 << 15
"""Of an index: so much is asked for at once, and kept."""


@dataclass(frozen=True)
class Stored:
    """A capture file behind a URL.  index_bytes: of the index beside it, 0 if there is none."""

    url: str
    size: int
    index_bytes: int

    def index(self) -> Index:
        """Raises FileNotFoundError without one, StaleError for one that is of no use."""
        if not self.index_bytes:
            raise FileNotFoundError(index_path(self.url))
        return Index(self.url, Pages(index_path(self.url), self.index_bytes), self.size)

    def source(self) -> RangeSource:
        return RangeSource(self.url, self.size)

    def is_compressed(self) -> bool:
        """Raises OSError."""
        return is_compressed(self.source().read(0, min(4, self.size)).tobytes())

    def check(self, ends: tuple[str, str]) -> None:
        """Raise StaleError if these, from an index, are not its ends, or OSError."""
        source = self.source()
        if ends_of(lambda begin, end: source.read(begin, end).tobytes(), self.size) != ends:
            raise StaleError(CHANGED)


class Pages:
    """The bytes of an index, of which a few are fetched.  Slices are bytes."""

    def __init__(self, url: str, size: int) -> None:
        self._source, self._size = RangeSource(url, size), size
        self._kept: dict[int, bytes] = {}
        self.fetched = 0
        """Bytes."""

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, wanted: slice) -> bytes:
        begin, end, _ = wanted.indices(self._size)
        first, last = begin // UNIT_BYTES, -(-end // UNIT_BYTES)
        missing = [unit for unit in range(first, last) if unit not in self._kept]
        if missing:
            self._fetch(missing[0], missing[-1] + 1)
        whole = b"".join(self._kept[unit] for unit in range(first, last))
        return whole[begin - first * UNIT_BYTES : end - first * UNIT_BYTES]

    def _fetch(self, first: int, last: int) -> None:
        begin, end = first * UNIT_BYTES, min(self._size, last * UNIT_BYTES)
        try:
            data = self._source.read(begin, end).tobytes()
        except OSError as error:
            raise UnreadableError(f"its index cannot be read: {error.strerror}") from None
        self.fetched += len(data)
        for unit in range(first, last):
            self._kept[unit] = data[(unit - first) * UNIT_BYTES :][:UNIT_BYTES]
