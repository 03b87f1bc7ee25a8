"""The code for arm64 has the acquire, release and barrier instructions that the kernels' shared words need.

LLVM makes it here, whatever this machine is.  Each access in a kernel's source must be in the code as its instruction:
those of the functions that it calls, too, which are all inlined.
"""

from __future__ import annotations

import ast
import re
import struct
import subprocess
import sys
import types
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from interleaving.plain import source_of
from wirecap.kernels.base import image
from wirecap.kernels.base.jit import PURE, compiler
from wirecap.kernels.base.kinds import boolean, i64, none, words
from wirecap.kernels.base.later import llvm
from wirecap.kernels.file import merge
from wirecap.kernels.forward import wires
from wirecap.kernels.pool import handler_loop, pool, work_queues
from wirecap.kernels.pool.pool import POOL, RINGS
from wirecap.kernels.xdp import rings

pytestmark = pytest.mark.skipif(PURE, reason="nothing is compiled in plain Python")

ROOT = Path(__file__).parents[2]
KERNELS = [
    (work_queues.push, none(words, i64, i64, i64)),
    (work_queues.pop, i64(words, i64, i64)),
    (work_queues.depth, i64(words, i64)),
    (work_queues.wait, none(words, i64, i64, i64, words)),
    (work_queues.wake, none(words, i64)),
    (pool.open_slot, i64(POOL, i64)),
    (pool.recycle, boolean(POOL, i64, i64)),
    (pool.give_cells, none(POOL, i64, words, i64, i64, i64)),
    (pool.take_cells, i64(POOL, i64)),
    (handler_loop.next_slot, i64(POOL, i64, i64, words)),
    (wires.acquire, none(wires.WIRES, i64, words)),
    (wires.give_up, none(wires.WIRES, i64)),
    (merge.is_idle, boolean(POOL, RINGS, merge.MERGE, i64)),
    (rings.release, none(POOL, RINGS, i64)),
    (rings.freshen, i64(POOL, RINGS, i64, i64)),
]
# with exclusive loads and stores as any arm64 has them, and with the single instructions of 8.1 and later
PROCESSORS = {
    "cortex-a72": {"load": r"ldap?r", "store": r"stlr", "fence": r"dmb\s+ish$", "read-modify-write": r"stlxr"},
    "neoverse-n1": {
        "load": r"ldap?r", "store": r"stlr", "fence": r"dmb\s+ish$", "read-modify-write": r"(?:ldaddal|casal)",
    },
}  # fmt: skip
LLVM = {
    "load": r"load atomic .* acquire", "store": r"store atomic .* release", "fence": r"fence seq_cst",
    "read-modify-write": r"(?:atomicrmw|cmpxchg) .* seq_cst",
}  # fmt: skip
OURS = re.compile(r"wirecap\.kernels\.(?!base\b)")
KINDS = {"fetch_add": "read-modify-write", "compare_swap": "read-modify-write"}


def accesses(function: Any) -> Counter[str]:
    """How many places in a kernel's source, and in what it calls, access shared words in each way."""
    found = Counter[str]()
    for node in ast.walk(source_of(function)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
            continue
        called = function.__globals__.get(node.func.id)
        called = getattr(called, "py_func", called)
        if node.func.id in ("load", "store", "fence", *KINDS):
            found[KINDS.get(node.func.id, node.func.id)] += 1
        elif isinstance(called, types.FunctionType) and OURS.match(called.__module__):
            found += accesses(called)
    return found


@cache
def code_of(number: int) -> tuple[str, str]:
    return compiler().llvm_code(*KERNELS[number])


def instructions(code: str, name: str, processor: str, effort: int) -> tuple[Counter[str], Counter[str]]:
    """How many instructions of each kind the code has for a processor, and how many accesses in LLVM's terms.

    effort: of the optimiser, 0 to 3.
    """
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    module = llvm.parse_assembly(code)
    module.triple = "aarch64-unknown-linux-gnu"
    machine = llvm.Target.from_triple(module.triple).create_target_machine(cpu=processor, opt=effort, reloc="pic")
    module.data_layout = str(machine.target_data)
    for function in module.functions:
        if not function.is_declaration and function.name != name:
            function.linkage = "internal"
            function.add_function_attribute("alwaysinline")
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(effort))
    builder.getModulePassManager().run(module, builder)
    text = machine.emit_assembly(module)
    found = {
        kind: len(re.findall(rf"^\s+{pattern}", text, re.MULTILINE))
        for kind, pattern in ((kind, p if p.endswith("$") else p + r"\s") for kind, p in PROCESSORS[processor].items())
    }
    meant = {kind: len(re.findall(pattern, str(module), re.MULTILINE)) for kind, pattern in LLVM.items()}
    return _counted(found), _counted(meant)


def _counted(found: dict[str, int]) -> Counter[str]:
    return Counter({kind: count for kind, count in found.items() if count})


@pytest.mark.parametrize("number", range(len(KERNELS)), ids=[kernel.__name__ for kernel, _ in KERNELS])
def test_each_access_has_its_instruction(number):
    """An acquire load is an ldar, a release store an stlr, a fence a dmb, the others acquire and release."""
    expected = accesses(KERNELS[number][0].py_func)
    assert expected
    for processor in PROCESSORS:
        found, meant = instructions(*code_of(number), processor, 0)
        assert found == meant, processor
        assert all(meant[kind] >= count for kind, count in expected.items()), (meant, expected)  # unrolled loops
        # optimised, as it runs: equal ends of branches are merged, but no kind goes away
        found, _ = instructions(*code_of(number), processor, 3)
        assert found.keys() == expected.keys(), processor


@pytest.mark.parametrize(
    ("weaker", "kind"),
    [
        ((r"(store atomic .*) release", r"\1 monotonic"), "store"),
        ((r"(load atomic .*) acquire", r"\1 monotonic"), "load"),
        ((r"fence seq_cst", "fence acquire"), "fence"),
        ((r"\n\s*fence seq_cst", ""), "fence"),
        ((r"((?:atomicrmw|cmpxchg) .*)", lambda line: line[1].replace("seq_cst", "monotonic")), "read-modify-write"),
    ],
    ids=["store", "load", "fence of loads only", "fence", "read-modify-write"],
)
def test_a_weaker_ordering_would_be_seen(weaker, kind):
    """With an ordering taken out of its code, a push or wait has not the instructions that it needs."""
    for number in (0, 3):
        code, name = code_of(number)
        found, _ = instructions(re.sub(*weaker, code), name, "neoverse-n1", 0)
        expected = accesses(KERNELS[number][0].py_func)
        if kind in expected:
            assert found[kind] == 0, (found, kind)


def test_a_kernel_is_compiled_for_another_processor(tmp_path):
    """bench/arm64_kernels.py puts a kernel's code for arm64 where it is told to; it refuses unknown names."""
    script, file = ROOT / "bench/arm64_kernels.py", "pool.work_queues.wake_consumer.code"
    subprocess.run([sys.executable, "-P", script, tmp_path, file], check=True, timeout=110)
    found = image.read(tmp_path / file)
    code = found.code[found.executed : found.written or None]
    assert struct.pack("<I", 0xD65F03C0) in [code[at : at + 4] for at in range(0, len(code), 4)]  # ret
    ran = subprocess.run(
        [sys.executable, "-P", script, tmp_path, "none.code"], capture_output=True, text=True, timeout=110
    )
    assert (ran.returncode, ran.stderr) == (1, "no such kernels: none.code\n")
