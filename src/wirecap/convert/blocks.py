"""What stands in an output file beside the packets: its header, interfaces, and the other blocks of pcapng inputs.

A single pcapng file that becomes pcapng is copied block for block (files/recorded.py).  Several inputs share one
section: their interfaces are renumbered, and what is big-endian is written little-endian.  pcap has only a header.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from wirecap.config.convert import ConvertConfig
from wirecap.convert.inputs import WHOLE, Input
from wirecap.errors import UsageError
from wirecap.files import headers
from wirecap.files.headers import Interface
from wirecap.files.reader import Description
from wirecap.files.recorded import REPEATED, Recorded, name_of
from wirecap.kernels.convert import records as r
from wirecap.kernels.file import read as at
from wirecap.kernels.file.write import PCAP_NS, PCAP_OVERHEAD, PCAP_US, PCAPNG_COPY, PCAPNG_NS
from wirecap.version import __version__


class Blocks(Protocol):
    layout: int
    """kernels/file/write.py's, for cutting a file back to whole records."""

    start: list[bytes]
    """Of several inputs' shared section: the blocks that every file has, in their order."""

    @property
    def swapped(self) -> bool:
        """Whether the packets of the row stand in a big-endian section of the output."""

    def take(self, source: Input) -> bytes:
        """What is to be written now: what stands before the input's row, or behind its last packet.

        Nothing before the first ``header``, which has it all.
        """

    def header(self) -> bytes:
        """What a file starts with now."""

    def header_for(self, source: Input, number: int) -> bytes:
        """The same, where a file holds packets of one interface only; number: that of the input's interface."""
        return self.header()

    def notes(self) -> list[str]:
        """What the output does not hold, a line for each."""


def blocks_for(config: ConvertConfig, inputs: Sequence[Input]) -> Blocks:
    if config.format == "pcapng":
        keyed = config.split is not None and config.split.keyed
        if len(inputs) == 1 and inputs[0].blocks and not keyed and config.key_file is None:
            return Copied(config, inputs[0])
        return Joined(config, inputs)
    return HeaderOnly(config, inputs)


def snaplen_of(config: ConvertConfig, interface: Interface) -> int:
    return min(config.snaplen or WHOLE, interface.snaplen or interface.largest)


class Copied(Blocks):
    """A pcapng file as it is."""

    layout = PCAPNG_COPY

    def __init__(self, config: ConvertConfig, source: Input) -> None:
        self.start: list[bytes] = []
        self._recorded = Recorded(source.file, config.comments, config.filter, config.snaplen or WHOLE)
        self._begun, self._before = False, b""
        source.settings[r.LAYOUT] = PCAPNG_COPY

    @property
    def swapped(self) -> bool:
        return self._recorded.swapped

    def take(self, source: Input) -> bytes:
        found = b"".join(self._recorded.take())
        if not self._begun:
            self._before += found
            return b""
        return found

    def header(self) -> bytes:
        if not self._begun:
            self._begun = True
            return self._before
        return self._recorded.header()

    def notes(self) -> list[str]:
        found = self._recorded.left_out(0, 0, copied=True)
        return [f"left out: {found}"] if found else []


class HeaderOnly(Blocks):
    """pcap, and Parquet, which has not even that."""

    swapped = False

    def __init__(self, config: ConvertConfig, inputs: Sequence[Input]) -> None:
        self._config, self._inputs = config, inputs
        self.start: list[bytes] = []
        self.layout = PCAP_NS if config.format == "nsecpcap" else PCAP_US
        self._recorded = {id(one): Recorded(one.file, (), "", WHOLE) for one in inputs if one.blocks}
        for one in inputs:
            one.settings[r.LAYOUT] = self.layout
            one.settings[r.VERBATIM] = PCAP_OVERHEAD if self._same_records(one) else 0
        self._check()

    def _same_records(self, one: Input) -> bool:
        """Whether the input's records are, byte for byte, those of the output."""
        if one.blocks or self._config.shift_ns or one.file.state[at.SWAPPED] or one.file.state[at.LENGTHS]:
            return False
        resolution = 9 if self.layout == PCAP_NS else 6
        return one.file.interfaces[0].resolution == resolution and one.file.state[at.HEADER] == PCAP_OVERHEAD

    def _interfaces(self) -> list[Interface]:
        return [interface for one in self._inputs for interface in one.file.interfaces]

    def _check(self) -> None:
        several = len({interface.linktype for interface in self._interfaces()}) > 1
        apart = self._config.split is not None and self._config.split.by == "interface"
        if several and not apart and self._config.format != "parquet":
            raise UsageError(
                f"{self._config.output}: a pcap file has only one link type, but these packets have several",
                "write pcapng",
            )

    def take(self, source: Input) -> bytes:
        if recorded := self._recorded.get(id(source)):
            recorded.take()
            self._check()
        return b""

    def header(self) -> bytes:
        interfaces = self._interfaces() or [Interface()]
        snaplen = max(snaplen_of(self._config, interface) for interface in interfaces)
        return headers.pcap_header(snaplen, interfaces[0].linktype, self.layout == PCAP_NS)

    def header_for(self, source: Input, number: int) -> bytes:
        if self._config.split is None or self._config.split.by != "interface":
            return self.header()
        interface = source.file.interfaces[number]
        return headers.pcap_header(snaplen_of(self._config, interface), interface.linktype, self.layout == PCAP_NS)

    def notes(self) -> list[str]:
        if self._config.format == "parquet":
            return []
        notes = []
        for one in self._inputs:
            if recorded := self._recorded.get(id(one)):
                lost = recorded.left_out(0, one.count(r.OPTIONS_LOST), copied=False)
                notes += [f"{one.path}: pcap cannot hold what pcapng does; left out: {lost}"] if lost else []
        return notes


class Joined(Blocks):
    """The one little-endian section of several inputs."""

    layout = PCAPNG_NS
    swapped = False

    def __init__(self, config: ConvertConfig, inputs: Sequence[Input]) -> None:
        self._config, self._interfaces = config, 0
        self._left_out: Counter[str] = Counter()
        self._named = 0
        self.start: list[bytes] = []  # the section, interfaces, names and secrets
        self._first_of_section = dict.fromkeys(map(id, inputs), 0)
        self._met = dict.fromkeys(map(id, inputs), 0)
        """Of each input: the first interface of its section, and how many interfaces were met."""
        self._begun, self._once = False, b""
        """Whether a file was begun; blocks that stand before the first packet, but in the first file only."""
        comments = list(config.comments)
        for one in inputs:
            one.settings[r.LAYOUT] = r.JOINED if one.blocks else PCAPNG_NS
            for description in one.file.descriptions:
                if description.kind == headers.SECTION_HEADER:
                    comments += headers.section_comments(description.block, description.swapped)
        self.start.append(headers.section_header(f"wirecap {__version__}", comments))
        for one in inputs:
            if one.blocks:
                one.file.keep_blocks()
                self.take(one)
            else:
                self._add_pcap(one)

    def take(self, source: Input) -> bytes:
        found = b""
        while source.file.descriptions:
            found += self._told(*self._joined(source, source.file.descriptions.popleft()))
        if not self._begun:
            self._once += found
            return b""
        return found

    def _told(self, block: bytes, repeated: bool) -> bytes:
        """The block, unless the first header has it anyway."""
        return b"" if repeated and not self._begun else block

    def header(self) -> bytes:
        once, self._once, self._begun = self._once, b"", True
        return b"".join(self.start) + once

    def notes(self) -> list[str]:
        parts = [f"{n} {name} block{'' if n == 1 else 's'}" for name, n in sorted(self._left_out.items())]
        notes = [f"left out, as only big-endian files can hold them: {', '.join(parts)}"] if parts else []
        if self._named:
            blocks = "1 block" if self._named == 1 else f"{self._named} blocks"
            notes.append(f"left out: {blocks} of names, which hold addresses")
        return notes

    def _add_pcap(self, source: Input) -> None:
        (interface,) = source.file.interfaces
        source.numbers[0] = self._interfaces
        self._interfaces += 1
        snaplen = snaplen_of(self._config, interface)
        self.start.append(headers.interface_description("", snaplen, interface.linktype, self._config.filter))

    def _joined(self, source: Input, description: Description) -> tuple[bytes, bool]:
        """The block as it stands in the shared section, b"" if it does not, and whether it is in ``start`` now."""
        kind, swapped, block = description.kind, description.swapped, description.block
        if kind == headers.SECTION_HEADER:
            self._first_of_section[id(source)] = self._met[id(source)]
            return b"", False
        if kind == headers.INTERFACE_DESCRIPTION:
            source.numbers[self._met[id(source)]] = self._interfaces
            self._met[id(source)] += 1
            self._interfaces += 1
            block = headers.copied_interface(block, swapped, self._config.snaplen or WHOLE, self._config.filter)
            if self._config.key_file is not None:
                block = headers.without_addresses(block, swapped)
        if kind == headers.NAME_RESOLUTION and self._config.key_file is not None:
            self._named += 1
            return b"", False
        found = headers.little_endian(kind, block) if swapped else block
        if found is None:
            self._left_out[name_of(kind)] += 1
            return b"", False
        if kind == headers.INTERFACE_STATISTICS:
            return self._renumbered(source, found), False
        repeated = kind in REPEATED
        if repeated:
            self.start.append(found)
        return found, repeated

    def _renumbered(self, source: Input, statistics: bytes) -> bytes:
        """Interface statistics under the interface's number in the output."""
        number = struct.unpack_from("<I", statistics, 8)[0] + self._first_of_section[id(source)]
        if number >= self._met[id(source)]:
            return b""
        return statistics[:8] + struct.pack("<I", source.numbers[number]) + statistics[12:]
