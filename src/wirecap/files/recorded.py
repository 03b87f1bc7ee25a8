"""What a pcapng file holds beside packets, on its way into another file.

Sections, interfaces, names, secrets, statistics and blocks of any other type are copied byte for byte where nothing
about them changes, so that numbers of interfaces and units of time mean in the copy what they mean in the original.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from wirecap.files import headers
from wirecap.files.reader import CaptureFile, Description
from wirecap.kernels.file import read as at

NAME_RESOLUTION, DECRYPTION_SECRETS = headers.NAME_RESOLUTION, headers.DECRYPTION_SECRETS
REPEATED = (headers.INTERFACE_DESCRIPTION, NAME_RESOLUTION, DECRYPTION_SECRETS)
"""What each file has at its start that is written from one which has it."""
_NAMES = {
    NAME_RESOLUTION: "name resolution",
    headers.INTERFACE_STATISTICS: "interface statistics",
    DECRYPTION_SECRETS: "decryption secrets",
    9: "systemd journal",
    0xBAD: "custom",
    0x40000BAD: "custom",
}


def name_of(kind: int) -> str:
    """What a type of block is called."""
    return _NAMES.get(kind, "unknown")


class Recorded:
    """The blocks of ``file`` that are no packets, in its order, for the files that are written from it.

    comments: added to each section; filter: replaces that of each interface, if not empty; snaplen: in bytes.
    """

    def __init__(self, file: CaptureFile, comments: Iterable[str], filter: str, snaplen: int) -> None:
        self._file, self._comments, self._filter, self._snaplen = file, tuple(comments), filter, snaplen
        self._section: list[bytes] = []  # what each further file starts with
        self._taken = 0
        self.swapped = False
        self.passed: Counter[str] = Counter()
        """How many blocks of each type were taken, sections and interfaces apart."""
        file.keep_blocks()

    def take(self, up_to: int | None = None) -> list[bytes]:
        """The blocks that come next, as they are to be written: the first ``up_to`` of the file, None for all."""
        blocks = []
        while self._file.descriptions and (up_to is None or self._taken < up_to):
            description = self._file.descriptions.popleft()
            self._taken += 1
            blocks.append(self._as_written(description))
        return blocks

    def take_rest(self) -> list[bytes]:
        """Those behind the last packet; none where reading ended before the file did."""
        return self.take() if self._file.is_over else []

    @property
    def known(self) -> int:
        """How many were taken."""
        return self._taken

    def header(self) -> bytes:
        """What a file starts with whose packets come next: section, interfaces, names and secrets."""
        return b"".join(self._section)

    def left_out(self, unwanted_options: int, lost_options: int, copied: bool) -> str:
        """What is not in the output, "" if nothing.

        unwanted_options: packets with options that the filter did not want; lost_options: packets that were written
        without theirs; copied: the output is pcapng too.
        """
        long = int(self._file.state[at.TOO_LONG])
        parts = [(lost_options, "the options of", "packet", "")]
        if copied:
            parts = [(unwanted_options, "the options of", "packet", "that the filter did not want")]
        else:
            parts += [(count, "", f"{name} block", "") for name, count in sorted(self.passed.items())]
        parts.append((long, "", "block", "longer than the stream's buffer"))
        found = (
            f"{before} {count} {what}{'' if count == 1 else 's'} {after}".strip()
            for count, before, what, after in parts
            if count
        )
        return ", ".join(found)

    def _as_written(self, description: Description) -> bytes:
        kind, block, swapped = description.kind, description.block, description.swapped
        if kind == headers.SECTION_HEADER:
            block = headers.copied_section(block, swapped, self._comments)
            self._section, self.swapped = [block], swapped
        elif kind == headers.INTERFACE_DESCRIPTION:
            block = headers.copied_interface(block, swapped, self._snaplen, self._filter)
        else:
            self.passed[name_of(kind)] += 1
        if kind in REPEATED:
            self._section.append(block)
        return block
