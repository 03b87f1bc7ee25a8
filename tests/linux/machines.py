"""Trees of sysfs and procfs files, as machines have them that are not here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

BUS = "0000:81:00.0"


def tree(
    root: Path, interrupts: Mapping[str, str], node: int = 1, nodes: int = 2, cpus: int = 8, hidden: bool = False
) -> Path:
    """A machine of so many NUMA nodes with ``cpus`` CPUs each and a NIC on one of them.

    interrupts: the names of the NIC's interrupts and the CPUs that may get them.  hidden: the kernel does not say
    which CPU gets one.
    """
    for number in range(nodes):
        folder = root / f"sys/devices/system/node/node{number}"
        folder.mkdir(parents=True)
        (folder / "cpulist").write_text(f"{number * cpus}-{(number + 1) * cpus - 1}\n")
    device = root / "sys/bus/pci/devices" / BUS
    (device / "msi_irqs").mkdir(parents=True)
    (device / "numa_node").write_text(f"{node}\n")
    (root / "proc").mkdir(exist_ok=True)
    lines = ["           CPU0       CPU1", "  4:         12          0  IR-IO-APIC    4-edge      ttyS0-0"]
    for number, (name, where) in enumerate(interrupts.items(), 120):
        (device / "msi_irqs" / str(number)).write_text("msix\n")
        folder = root / f"proc/irq/{number}"
        folder.mkdir(parents=True)
        (folder / "smp_affinity_list").write_text(f"{where}\n")
        if not hidden:
            (folder / "effective_affinity_list").write_text(f"{where.partition('-')[0]}\n")
        lines.append(f"{number}:  1  0  IR-PCI-MSIX-{BUS}  {number - 120}-edge      {name}")
    (root / "proc/interrupts").write_text("\n".join([*lines, "NMI:  0  0  Non-maskable interrupts"]) + "\n")
    return root


def huge_pages(root: Path, modes: str, reserved: int) -> Path:
    for path, text in {
        "sys/kernel/mm/transparent_hugepage/enabled": modes,
        "proc/sys/vm/nr_hugepages": str(reserved),
    }.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text + "\n")
    return root
