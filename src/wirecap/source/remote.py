"""The source of ``-i pcap-over-ip://HOST``: what a server captures and sends here, filtered there."""

from __future__ import annotations

from typing import Any, ClassVar

from wirecap.config.serve import Remote
from wirecap.errors import UsageError
from wirecap.files import headers
from wirecap.files.headers import Interface
from wirecap.files.lasting import Lasting, Return, head_of
from wirecap.files.reader import CaptureFile, Progress, Streamed
from wirecap.files.remote import Stream, Told, line_of
from wirecap.source.file import FileSource


class RemoteFile(CaptureFile):
    """A capture file that comes from a server, which says in comments what did not get here.

    Statistics are kept for a writer; without one they are only looked at.
    """

    def __init__(self, name: str, feed: Streamed) -> None:
        self.told, self._kept = Told(), False
        super().__init__(name, feed)
        super().keep_blocks()

    def keep_blocks(self) -> None:
        self._kept = True

    def _describe(self, timeout_s: float | None) -> Progress:
        before = len(self.descriptions)
        progress = super()._describe(timeout_s)
        if len(self.descriptions) > before:
            self._look_at_last()
        return progress

    def _look_at_last(self) -> None:
        kind, block, swapped = (last := self.descriptions[-1]).kind, last.block, last.swapped
        if kind == headers.SECTION_HEADER:
            self.told.begin_section()
            self.told.take(0, headers.section_comments(block, swapped))
        elif kind == headers.INTERFACE_STATISTICS:
            self.told.take(*headers.statistics_comments(block, swapped))
        if not self._kept and kind not in (headers.SECTION_HEADER, headers.INTERFACE_DESCRIPTION):
            self.descriptions.pop()


class RemoteSource(FileSource):
    """A live capture elsewhere.  What this host is too slow for is lost at the server, and counted there."""

    name = "pcap-over-ip"
    live = True
    file: RemoteFile

    ENDED: ClassVar[str] = "the server has ended the stream"

    rejoins_at_work = True

    def __init__(self, remote: Remote, filter: str, keep_apart: bool = True, lasts: bool = False) -> None:
        """Connect, ask for ``filter``, and wait for the head of the stream.  lasts: a server that goes away is waited
        for."""
        self.remote = remote
        stream = Stream(remote, filter)
        self._feed = Lasting(stream)
        try:
            file = RemoteFile(str(remote), self._feed)
            file.told.check(remote)
        except UsageError:
            stream.close()
            raise
        self._take(file, str(remote), keep_apart)
        asked = line_of(filter)
        self._asked = asked
        self.filtered = bool(asked) and all(map(self._confirms, file.interfaces))  # else the server takes no filter
        self._looked = len(file.interfaces)
        self._return = Return(remote, filter, head_of(file.arena))
        self._feed.lasts = lasts
        self._joined: Stream | None = None

    def _confirms(self, one: Interface) -> bool:
        """Whether the server has said that it filters what comes from an interface."""
        return one.filter == self._asked or one.filter.endswith(f" and ({self._asked})")

    def _advance(self, timeout_s: float) -> Progress:
        progress = super()._advance(timeout_s)
        self.file.told.check(self.remote)
        for one in self.interfaces[self._looked :]:
            self._looked += 1
            if self.filtered and not self._confirms(one):
                raise UsageError(f"{self.remote} takes no filter any more", "begin a new capture")
        return progress

    def away(self) -> list[str]:
        return [str(self.remote)] if self._feed.away else []

    def returned(self) -> list[str]:
        if self._joined is None:
            self._joined = self._return.look()
        return [str(self.remote)] if self._joined else []

    def rejoin(self, names: list[str]) -> None:
        stream, self._joined = self._joined, None
        if stream:
            self._feed.join(stream)

    def close(self) -> None:
        super().close()
        self._return.close()
        if self._joined:
            self._joined.close()

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"how": "TLS" if self.remote.tls else "TCP"}

    def report(self, summary: dict[str, Any]) -> None:
        summary["server_drops"] = self.file.told.drops
        notes = [f"{self.remote}: {self.ENDED}"] if self.file.is_over else []
        if self._feed.lasts:
            summary["server_gone"] = self._feed.ended
        if times := self._feed.ended:
            notes.append(
                f"{self.remote}: the connection ended {f'{times} times' if times > 1 else 'once'}; what was captured"
                " there until the next one did not get here"
            )
        summary["notes"] = [*summary["notes"], *notes]
