"""Coverage-guided fuzzing, with atheris (libFuzzer), of what Python reads: texts, TOML, files, indexes, counters.

    pip install atheris
    python bench/coverage_fuzz.py captures -max_total_time=60

What follows the target's name goes to libFuzzer, which prints its coverage and leaves a case that fails in a file.
Compiled kernels are opaque to it: bench/fuzz.py is for those.  Any error but a WirecapError is a failure.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
with atheris.instrument_imports(include=["wirecap"]):
    import hostile_python
    from wirecap.cli import config_file
    from wirecap.errors import WirecapError
    from wirecap.extcap import arguments as extcap
    from wirecap.files.reader import open_capture
    from wirecap.filters.expression import compile_filter
    from wirecap.observe.counters import Counters

FOLDER = Path(tempfile.mkdtemp(prefix="wirecap-fuzz-"))


def text_of(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def options(data: bytes) -> None:
    if data:
        hostile_python.PARSERS[data[0] % len(hostile_python.PARSERS)](text_of(data[1:]))


def filters(data: bytes) -> None:
    compile_filter(text_of(data))


def toml(data: bytes) -> None:
    path = FOLDER / "a.toml"
    path.write_bytes(data)
    config_file.read(str(path))


def captures(data: bytes) -> None:
    path = FOLDER / "a.pcap"
    path.write_bytes(data)
    with open_capture(str(path)) as file:
        hostile_python.read_whole(file)


def counters(data: bytes) -> None:
    try:
        Counters.from_json(data)
    except ValueError:  # what it says that it raises
        pass


def wireshark(data: bytes) -> None:
    extcap.parse(text_of(data).split("\n"))


TARGETS: dict[str, Callable[[bytes], Any]] = {
    one.__name__: one for one in (options, filters, toml, captures, counters, wireshark)
}


def seeds_for(name: str) -> str:
    """A folder of cases to begin with, made by these scripts."""
    folder = FOLDER / "seeds"
    folder.mkdir()
    given = {
        "captures": hostile_python.whole_files(),
        "filters": [b"tcp port 80 and not host 10.0.0.1", b"ip[0] & 0xf != 5", b"vlan 5 and udp"],
        "toml": [b'interface = ["eth1", "eth2"]\nfilter = "tcp"\ncount = 5\n'],
        "wireshark": [b"--capture\n--extcap-interface\nwirecap-eth1\n--fifo\n/tmp/x"],
    }.get(name, [])
    for number, data in enumerate(given):
        (folder / str(number)).write_bytes(data)
    return str(folder)


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"{__doc__}\ntargets: {', '.join(TARGETS)}")
    target = TARGETS[sys.argv[1]]

    def attempt(data: bytes) -> None:
        try:
            target(data)
        except WirecapError:
            pass

    atheris.Setup([sys.argv[0], *sys.argv[2:], seeds_for(sys.argv[1])], attempt)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
