"""arm64_kernels.py FOLDER FILE...: compile kernels for arm64, whatever this machine is, under names that the cache has.

Numba makes LLVM's code as always; LLVM makes machine code of it for the other processor, and WireCAP's linker an image.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import re
import sys
from pathlib import Path
from typing import Any
from unittest import mock

from wirecap.cli.warmup import import_kernels
from wirecap.kernels.base import image, jit
from wirecap.kernels.base.later import llvm

ROOT = Path(__file__).parent.parent
TRIPLE, PROCESSOR = "aarch64-unknown-linux-gnu", "generic"
ELSEWHERE = re.compile(r"(.+)\.\w+\.([0-9a-f]{16})\.code")
"""The file of a kernel that is not the package's (jit._file_of): its module, and a digest of that module's text."""
os.environ["NUMBA_CPU_NAME"], os.environ["NUMBA_CPU_FEATURES"] = "generic", ""  # read when Numba is imported


def declare(files: set[str]) -> None:
    """Import the modules with the entry points that are kept in such files, under the names that they had."""
    with mock.patch("platform.machine", return_value="aarch64"):
        importlib.import_module("wirecap.kernels.base.libc")  # it has the numbers of system calls
    import_kernels()
    sys.path += [str(ROOT / "tests"), str(ROOT / "bench")]
    sources = [*ROOT.glob("tests/**/*.py"), *ROOT.glob("bench/*.py")]
    digests = {hashlib.sha256(path.read_bytes()).hexdigest()[:16]: path for path in sources}
    for name, digest in {found.groups() for file in files if (found := ELSEWHERE.fullmatch(file))}:
        if name not in sys.modules:
            spec = importlib.util.spec_from_file_location(name, digests[digest])
            sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules[name])


def for_arm64() -> Any:
    """The compiler, which makes its images for arm64 from now on."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    compiler = jit.compiler()
    target = llvm.Target.from_triple(TRIPLE).create_target_machine(cpu=PROCESSOR, opt=3, reloc="pic", codemodel="small")
    make = compiler._image

    def image_of(module: Any, exported: dict[str, str]) -> image.Image:
        module.triple, module.data_layout = TRIPLE, str(target.target_data)
        made: image.Image = make(module, exported)
        return made

    compiler._target, compiler._image = lambda: target, image_of
    return compiler


def main() -> None:
    folder, files = Path(sys.argv[1]), set(sys.argv[2:])
    declare(files)
    compiler = for_arm64()
    for one in list(jit._entry_points.values()):
        file = jit._file_of(one)
        if file in files:
            image.write(folder / file, compiler.compile_kernel(one))
            files.remove(file)
    if files:
        sys.exit(f"no such kernels: {' '.join(sorted(files))}")


if __name__ == "__main__" and len(sys.argv) > 1:
    main()
