"""A virtual machine with a kernel of choice and this machine's root, boots in seconds and runs one command.

QEMU emulates it, so it needs no virtualisation.  The root is read over 9p, and changes stay in the guest's memory.
"""

from __future__ import annotations

import lzma
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from packages import CACHE, Debian, UnavailableError, release

BOOT = "virtio_pci 9pnet_virtio 9p overlay"
DEVICES = "veth tun bridge vxlan virtio_net igb e1000e vmxnet3 af_packet_diag xsk_diag sch_netem sch_ingress".split()
MEMORY_MIB, CPUS = 3072, 2
PROCESSOR = "max,la57=off"
"""All that QEMU emulates, but no fifth level of page tables, which it would walk in software."""
SPARING = "mitigations=off nokaslr audit=0 apparmor=0 init_on_alloc=0"
"""What an emulated kernel need not spend its time on."""

INIT = """#!/bin/busybox sh
busybox mount -t proc proc /proc
busybox mount -t sysfs sysfs /sys
for module in $(busybox cat /modules/order); do busybox insmod /modules/$module; done
mount9p() { busybox mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,$3 $1 $2; }
mount9p root /below ro,cache=loose
busybox mount -t tmpfs -o size=50% tmpfs /above
busybox mkdir /above/files /above/work
busybox mount -t overlay -o lowerdir=/below,upperdir=/above/files,workdir=/above/work overlay /root
busybox mkdir -p /root/results
mount9p results /root/results rw,cache=none
busybox mount -t devtmpfs dev /root/dev
busybox mkdir -p /root/dev/pts /root/dev/shm
busybox mount -t devpts devpts /root/dev/pts
for place in dev/shm tmp run; do [ $place = tmp ] || busybox mount -t tmpfs tmpfs /root/$place; done
busybox mount --move /proc /root/proc
busybox mount --move /sys /root/sys
busybox mount -t bpf bpf /root/sys/fs/bpf
busybox mount -t tracefs tracefs /root/sys/kernel/tracing
busybox mount -t cgroup2 cgroup2 /root/sys/fs/cgroup
busybox ip link set lo up 2>/dev/null
exec busybox switch_root /root /bin/sh /results/init
"""


@dataclass(frozen=True)
class Kernel:
    """A kernel of Debian, unpacked."""

    version: str
    image: Path
    modules: Path

    @property
    def series(self) -> str:
        """'6.12'"""
        return re.match(r"\d+\.\d+", self.version)[0]


def kernel(suites: tuple[str, ...], series: str) -> Kernel:
    """The newest kernel of a series ('6.12', or '' for any) that the suites have, for amd64."""
    debian = Debian(*suites)
    wanted = re.escape(series) if series else r"\d+\.\d+"
    found = debian.newest(rf"linux-image-({wanted}\.[\w.+-]*?\d(?:\+deb\d+)?)-amd64")
    if not found:
        raise UnavailableError(f"{' and '.join(suites)} have no kernel {series}".rstrip())
    name = f"{found[1]}-amd64"
    # From 6.19 on linux-image is nearly empty.
    parts = [f"linux-{part}-{name}" for part in ("binary", "modules")]
    apart = all(debian.newest(re.escape(part)) for part in parts)
    folder = debian.unpack(*(parts if apart else [found[0]]))
    modules = next(folder.glob("**/lib/modules/*/kernel"))
    image = next(iter([*folder.glob("boot/vmlinuz-*"), *modules.parent.glob("vmlinuz")]))
    return Kernel(modules.parent.name.removesuffix("-amd64"), image, modules)


def _modules(kernel: Kernel, wanted: list[str]) -> Iterator[tuple[str, bytes]]:
    """(file name, content) of modules and those that they need, in the order of loading; built-in ones are none."""
    files = {path.name.split(".")[0].replace("-", "_"): path for path in kernel.modules.rglob("*.ko*")}
    done: set[str] = set()

    def load(name: str) -> Iterator[tuple[str, bytes]]:
        if name in done or name not in files:
            return
        done.add(name)
        path = files[name]
        content = lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()
        needs = re.search(rb"\0depends=([^\0]*)\0", content)
        for needed in filter(None, needs[1].decode().split(",")) if needs else ():
            yield from load(needed.replace("-", "_"))
        yield f"{name}.ko", content

    for name in wanted:
        yield from load(name)


def initramfs(kernel: Kernel) -> Path:
    """An archive with busybox, the modules and INIT."""
    archive = CACHE / f"{kernel.version}.cpio"
    folder = CACHE / f"{kernel.version}.initramfs"
    busybox = Debian(release()).unpack("busybox-static") / "bin" / "busybox"
    for place in ("bin", "proc", "sys", "below", "above", "root", "modules"):
        (folder / place).mkdir(parents=True, exist_ok=True)
    (folder / "bin/busybox").write_bytes(busybox.read_bytes())
    (folder / "bin/busybox").chmod(0o755)
    (folder / "init").write_text(INIT)
    (folder / "init").chmod(0o755)
    order = []
    for name, content in _modules(kernel, [*BOOT.split(), *DEVICES]):
        (folder / "modules" / name).write_bytes(content)
        order.append(name)
    (folder / "modules/order").write_text("\n".join(order) + "\n")
    names = "\n".join(str(path.relative_to(folder)) for path in sorted(folder.rglob("*")))
    with archive.open("wb") as out:
        command = [busybox, "cpio", "-o", "-H", "newc", "-R", "0:0"]
        subprocess.run(command, input=names.encode(), stdout=out, cwd=folder, check=True, stderr=subprocess.DEVNULL)
    return archive


class Qemu:
    """The newest QEMU that this Debian and its backports have, unpacked."""

    def __init__(self) -> None:
        here = release()
        debian = Debian(here, f"{here}-backports", installed=True)
        names = ("qemu-system-x86", "qemu-system-data", "qemu-system-common", "seabios")
        self._folder = debian.unpack(*debian.with_dependencies(*(f"{name}/{here}-backports" for name in names)))
        libraries = [self._folder / place / "x86_64-linux-gnu" for place in ("usr/lib", "lib")]
        self._environment = {
            **os.environ,
            "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
            "QEMU_MODULE_DIR": str(libraries[0] / "qemu"),
        }
        version = self._run(["--version"], 60).stdout.decode()
        self.version = re.search(r"version (\S+)", version)[1]

    def _run(
        self, arguments: list[str], timeout_s: float, before: Sequence[str] = ()
    ) -> subprocess.CompletedProcess[bytes]:
        program = ["nice", "-n", "5", str(self._folder / "usr/bin/qemu-system-x86_64"), *arguments]
        command = program
        if before:
            command = ["unshare", "--net", "sh", "-ec", "\n".join([*before, 'exec "$@"']), "sh", *program]
        return subprocess.run(command, env=self._environment, capture_output=True, timeout=timeout_s)

    def devices(self) -> set[str]:
        """Names of the devices that it can emulate."""
        text = self._run(["-device", "help"], 60).stdout.decode()
        return set(re.findall(r'^name "([^"]+)"', text, re.MULTILINE))

    def run(self, kernel: Kernel, results: Path, script: str, devices: list[str], timeout_s: float,
            before: Sequence[str] = ()) -> tuple[str, bool]:  # fmt: skip
        """Boot, run a script of /bin/sh as root with the folder ``results`` at /results, end.

        Returns the console's text, and whether the machine ended by itself, in time.

        devices: further arguments of QEMU; before: commands that make taps for them, in a network namespace that is
        gone with the machine.
        """
        results.mkdir(parents=True, exist_ok=True)
        (results / "init").write_text(f"{script}\nsync\necho o >/proc/sysrq-trigger\nwhile :; do sleep 1; done\n")
        share = self._folder / "usr/share"
        arguments = [
            "-L", share / "qemu", "-L", share / "seabios", "-nodefaults", "-no-user-config", "-no-reboot",
            "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", PROCESSOR, "-smp", CPUS, "-m", MEMORY_MIB,
            "-display", "none", "-serial", f"file:{results / 'console'}",
            "-kernel", kernel.image, "-initrd", initramfs(kernel),
            "-append", f"console=ttyS0 quiet panic=-1 net.ifnames=0 {SPARING}",
            "-virtfs", "local,path=/,mount_tag=root,security_model=none,readonly=on,multidevs=remap",
            "-virtfs", f"local,path={results},mount_tag=results,security_model=none,multidevs=remap",
            *devices,
        ]  # fmt: skip
        try:
            ran = self._run([str(one) for one in arguments], timeout_s, before)
            told, ended = ran.stderr.decode(errors="replace"), True
        except subprocess.TimeoutExpired:
            told, ended = f"not done after {timeout_s:g} s", False
        console = results / "console"
        return (console.read_text(errors="replace") if console.exists() else "") + told, ended
