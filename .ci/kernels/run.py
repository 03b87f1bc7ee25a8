"""The live tests on Debian's kernels, in emulated machines, and the table of docs/kernels.md: ``make test-kernels``.

run.py [SERIES...] [--nic NAME]... [--minutes N] [--no-table]: only these kernels or NICs.
Rows of the table are written as soon as a machine has ended, or was stopped after so many minutes; others stay.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from machine import Kernel, Qemu, kernel
from packages import CACHE, UnavailableError

from wirecap.kernels.base import shipped
from wirecap.kernels.base.cache import TEXT
from wirecap.version import __version__

HERE = Path(__file__).resolve().parents[2]
PAGE = HERE / "docs" / "kernels.md"
LEVEL = "x86-64-v3"
"""What the emulated processor can do."""
KERNELS = {
    "6.1": ("bookworm",),
    "6.12": ("bookworm-backports", "bookworm"),
    "6.18": ("trixie-backports",),
    "newest": ("trixie-backports",),
}
NICS = {
    "veth": "",
    "virtio-net": "virtio-net-pci,mq=on,vectors=10,iommu_platform=on,disable-legacy=on",
    "igb": "igb",
    "e1000e": "e1000e",
    "vmxnet3": "vmxnet3",
}
QUEUES = {"virtio-net": 4}
SUITE = (
    "tests/source/test_xdp_live.py tests/source/test_large_live.py tests/source/test_stamps_live.py"
    " tests/source/test_af_packet_live.py tests/linux/test_kernel_filter.py tests/linux/test_lost_samples.py"
    " tests/linux/test_probes.py"
)
"""Live tests of the suite that depend on the kernel, run on veth."""
NOT_HERE = "waiting_costs or at_full_speed"
"""Tests that an emulated machine is too slow for."""
MINUTES = 90
RUNS = 5
"""How often pytest is started in a machine, each time with what has not begun: a test may end Python itself."""
PATIENCE = 3
"""By how much tests wait longer there."""
MODES = ["all", "zero-copy", "native", "generic", "packet", "auto", "the suite's"]


@dataclass
class Row:
    """Tests of one kernel, NIC and mode."""

    passed: int = 0
    skipped: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    failed: list[str] = field(default_factory=list)
    left: int = 0
    """Not run: the machine was stopped before."""

    @property
    def ran(self) -> bool:
        return bool(self.passed or self.skipped or self.failed)

    def __str__(self) -> str:
        parts = [f"**failed: {'; '.join(self.failed)}**"] if self.failed else []
        parts += [f"{self.passed} passed"] if self.passed else []
        parts += [f"{count} skipped: {reason}" for reason, count in self.skipped.items()]
        parts += [f"{self.left} not run: the machine was stopped before"] if self.left else []
        return "; ".join(parts).replace("|", "/")


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("kernels", nargs="*", choices=[*KERNELS, []], metavar="SERIES")
    asked.add_argument("--nic", action="append", choices=NICS, default=[])
    asked.add_argument("--minutes", type=float, default=MINUTES, help="for each machine")
    asked.add_argument("--no-table", action="store_true")
    options = asked.parse_args()
    wanted, nics = options.kernels or list(KERNELS), options.nic or list(NICS)
    failed = False
    versions = [f"WireCAP {__version__}"]
    try:
        if os.geteuid() != 0:
            raise UnavailableError("needs root, for taps and to read all of this machine's files")
        qemu = Qemu()
        versions.append(f"QEMU {qemu.version}")
        code = object_code()
        tree = CACHE / "tree"  # a guest keeps what it has read, so what is edited here meanwhile must not reach it
        shutil.rmtree(tree, ignore_errors=True)
        shutil.copytree(HERE, tree, ignore=shutil.ignore_patterns(".*cache", ".git", ".venv", "build", "dist"))
        prepare(tree)
    except UnavailableError as reason:
        print(f"skipped: {reason}")
        return 0
    for series in wanted:
        try:
            found = kernel(KERNELS[series], "" if series == "newest" else series)
            begun = time.monotonic()
            rows = tests_on(qemu, found, nics, tree, code, options.minutes)
            print(f"{found.version}: {time.monotonic() - begun:.0f} s", flush=True)
            version = found.version
        except UnavailableError as reason:
            rows, version = {(nic, "all"): Row(skipped={str(reason): 1}) for nic in nics}, series
        failed = failed or any(row.failed for row in rows.values())
        lines = row_lines(version, rows)
        print("\n".join(lines), flush=True)
        if not options.no_table:
            write_page(lines, versions)
    return 1 if failed else 0


def object_code() -> Path:
    """The folder with all kernels compiled for the emulated processor, which would take an hour to do so itself."""
    folder = CACHE / "code"
    if not (folder / shipped.digest_of(TEXT) / LEVEL).is_dir():
        print("compiling for the emulated processor", flush=True)
        command = [sys.executable, HERE / ".ci/object_code.py", folder, LEVEL]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=3600)
    return folder


def prepare(tree: Path) -> None:
    """Compile Python's text, with the assertions of the tests as pytest makes them: a guest takes minutes for that."""
    compileall.compile_dir(tree / "src", quiet=1)
    environment = {**os.environ, "PYTHONPATH": f"{tree}/src", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-p", "no:cacheprovider"]
    command += ["tests/nic", *SUITE.split()]
    subprocess.run(command, cwd=tree, env=environment, stdout=subprocess.DEVNULL, timeout=600)


def tests_on(
    qemu: Qemu, kernel: Kernel, nics: list[str], tree: Path, code: Path, minutes: float
) -> dict[tuple[str, str], Row]:
    """Boot a kernel, run the tests for each NIC, and read the results."""
    results = CACHE / "results" / kernel.version
    for old in results.glob("*"):
        old.unlink()
    has = qemu.devices()
    rows: dict[tuple[str, str], Row] = {}
    emulated = [nic for nic in nics if NICS[nic]]
    for nic in list(emulated):
        model = NICS[nic].partition(",")[0]
        if model not in has:
            emulated.remove(nic)
            rows[nic, "all"] = Row(skipped={f"QEMU {qemu.version} has no {model}": 1})
    quiet = "/proc/sys/net/ipv6/conf/default/disable_ipv6"  # of this namespace
    devices, before = [], [f"[ ! -e {quiet} ] || echo 1 >{quiet}"]
    for number, nic in enumerate(emulated):
        more, taps = pair(number, nic)
        devices += more
        before += taps
    here = [nic for nic in nics if nic in emulated or not NICS[nic]]
    told, in_time = qemu.run(kernel, results, guest(here, emulated, tree, code), devices, minutes * 60, before)
    rows |= read(results / "tests", in_time)
    log = results / "log"
    lines = [*told.splitlines(), *(log.read_text(errors="replace").splitlines() if log.exists() else ())]
    for nic in here:
        if not any(known == nic for known, _ in rows):
            rows[nic, "all"] = Row(failed=[f"no test began: {''.join(lines[-1:])[-200:]}"])
    return rows


def address(number: int, end: int) -> str:
    return f"06:00:00:00:{number:02x}:{end:02x}"


def pair(number: int, nic: str) -> tuple[list[str], list[str]]:
    """Arguments of QEMU for a NIC and one that sends to it, and the commands that make the taps between them."""
    queues = QUEUES.get(nic, 1)
    devices, commands = (
        [],
        [f"ip link add bridge{number} type bridge ageing_time 0 mcast_snooping 0", f"ip link set bridge{number} up"],
    )
    for end, model, count in ((1, NICS[nic], queues), (2, "virtio-net-pci", 1)):
        tap = f"tap{number}x{end}"
        several = "multi_queue" if count > 1 else ""
        commands += [
            f"ip tuntap add mode tap {several} name {tap}",
            f"ip link set {tap} mtu 9000 master bridge{number} up",
        ]
        devices += ["-netdev", f"tap,id={tap},ifname={tap},script=no,downscript=no,queues={count}"]
        devices += ["-device", f"{model},netdev={tap},mac={address(number, end)},romfile="]
    return devices, commands


def guest(nics: list[str], emulated: list[str], tree: Path, code: Path) -> str:
    """The script that the machine runs."""
    lines = [
        "exec >/results/log 2>&1; set -x",
        f"cd {tree}",
        "export HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        f"export PYTHONPATH={tree}/src:{tree}/.ci/kernels PYTHONUNBUFFERED=1 PYTEST_DISABLE_PLUGIN_AUTOLOAD=1",
        f"export WIRECAP_CACHE_DIR=/run/wirecap WIRECAP_RESULTS=/results/tests WIRECAP_TEST_PATIENCE={PATIENCE}",
        f"mkdir -p src/wirecap/code && mount --bind {code} src/wirecap/code",
        "of() { basename $(dirname $(grep -l $1 /sys/class/net/*/address)); }",
        "for all in default all; do echo 1 >/proc/sys/net/ipv6/conf/$all/disable_ipv6; done",
        "echo pfifo_fast >/proc/sys/net/core/default_qdisc",  # fq_codel drops where a sender has to wait
        "places=",
    ]
    for nic in nics:
        space = f"nic-{nic}"
        if nic in emulated:
            number = emulated.index(nic)
            lines += [f"inside=$(of {address(number, 1)}) outside=$(of {address(number, 2)})"]
        else:
            lines += [
                "ip link add in0 numrxqueues 2 numtxqueues 2 type veth peer name out0 numrxqueues 2 numtxqueues 2"
            ]
            lines += ["inside=in0 outside=out0"]
        lines += [
            f"ip netns add {space}; ip link set $inside netns {space}",
            *(
                f"ip netns exec {space} sh -c 'echo 1 >/proc/sys/net/ipv6/conf/{which}/disable_ipv6'"
                for which in ("default", "all")
            ),
            f"ip -n {space} link set $inside up promisc on; ip link set $outside up",
            f'places="$places {nic}={space},$inside,$outside"',
        ]
        if QUEUES.get(nic):
            lines.append(f"ip netns exec {space} ethtool -L $inside combined {QUEUES[nic]}")
    lines += [
        'export WIRECAP_TEST_NICS="$places"',
        f"for tests in tests/nic {shlex.quote(SUITE) if 'veth' in nics else ''}; do",
        "rm -f /results/ended",
        f"for run in $(seq {RUNS}); do",
        f"{sys.executable} -m pytest -q -p report -p no:cacheprovider -m live -k 'not ({NOT_HERE})' $tests",
        "[ -e /results/ended ] && break",
        "done",
        "done",
        "find /run/wirecap; dmesg | tail -40",
    ]
    return "\n".join(lines)


def read(file: Path, in_time: bool) -> dict[tuple[str, str], Row]:
    """What the plugin has written, by NIC and mode; in_time: the machine was not stopped, perhaps in a test."""
    lines = file.read_text().splitlines() if file.exists() else []
    tests = {test["id"]: test for test in map(json.loads, lines)}  # the last line of each
    rows: dict[tuple[str, str], Row] = defaultdict(Row)
    for test in tests.values():
        row = rows[test["nic"], test["mode"]]
        if test["outcome"] == "failed":
            row.failed.append(f"{test['test']}: {test['reason'][:200]}")
        elif test["outcome"] == "begun" and in_time:
            row.failed.append(f"{test['test']}: Python, or the machine, ended in it")
        elif test["outcome"] in ("begun", "planned"):
            row.left += 1
        elif test["outcome"] == "skipped":
            row.skipped[test["reason"]] += 1
        else:
            row.passed += 1
    return rows


def row_lines(version: str, rows: dict[tuple[str, str], Row]) -> list[str]:
    """Those of which anything was run."""
    today = datetime.now(UTC).date().isoformat()
    return [f"| {version} | {nic} | {way} | {row} | {today} |" for (nic, way), row in rows.items() if row.ran]


def write_page(lines: list[str], versions: list[str]) -> None:
    """Put rows into the page's table, in place of those of the same kernel series, NIC and mode."""
    head = ["| kernel | NIC | mode | result | run on |", "|---|---|---|---|---|"]

    def key(line: str) -> tuple[list[int], int, int]:
        kernel, nic, mode = line.strip("| ").split(" | ")[:3]
        numbers = [int(number) for number in re.findall(r"\d+", kernel)[:2]]
        return numbers, list(NICS).index(nic), MODES.index(mode)

    def replaces(new: str, old: str) -> bool:
        (*one, mode), (*other, before) = key(new), key(old)
        return one == other and (mode == before or 0 in (mode, before))

    text, marker, made = PAGE.read_text().partition("<!-- below: made by make test-kernels -->\n")
    old = [line for line in made.splitlines() if line.startswith("| ") and line not in head]
    kept = [line for line in old if not any(replaces(new, line) for new in lines)]
    rows = sorted([*kept, *lines], key=key)
    said = f"The last run was made with {', '.join(versions)}."
    PAGE.write_text("\n".join([text.rstrip("\n"), "", marker, said, "", *head, *rows, ""]))


if __name__ == "__main__":
    sys.exit(main())
