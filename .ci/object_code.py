"""object_code.py FOLDER [LEVEL...]: compile all kernels for levels of this machine's processors, to go into a wheel.

``WIRECAP_OBJECT_CODE=FOLDER python -m hatchling build -t wheel`` makes the wheel (hatch_build.py); ``make wheel`` does
both.  Without levels it is all that are known (wirecap/kernels/base/shipped.py).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from wirecap.kernels.base import shipped
from wirecap.kernels.base.cache import TEXT

FEATURES = {"x86-64-v4": "+avx512bw,+avx512cd,+avx512dq,+avx512f,+avx512vl"}
"""What kernels may ask for (compile.has_feature), by LLVM's names.  The level's name has the others for LLVM."""


def compile_for(level: str, folder: Path, *command: str) -> int:
    """Put the object code of the kernels that a command of wirecap needs into a folder; returns how many there are."""
    with tempfile.TemporaryDirectory() as empty:
        wanted = {"WIRECAP_CACHE_DIR": empty, "NUMBA_CPU_NAME": level, "NUMBA_CPU_FEATURES": FEATURES.get(level, "")}
        subprocess.run([sys.executable, "-m", "wirecap", *command], check=True, env=os.environ | wanted)
        shutil.rmtree(folder, ignore_errors=True)
        (made,) = (path for path in Path(empty).iterdir() if path.is_dir())
        shutil.copytree(made, folder, ignore=lambda place, names: [name for name in names if ".code" not in name])
    return len(list(folder.iterdir()))


def main() -> None:
    if shipped.settings():
        sys.exit(f"object code is made with Numba's defaults: unset {' '.join(shipped.settings())}")
    target, *levels = sys.argv[1:]
    known = shipped.LEVELS.get(os.uname().machine, {})
    for level in levels or known:
        if level not in known:
            sys.exit(f"{level} is no level of {os.uname().machine}: {', '.join(known)}")
        folder = Path(target, shipped.digest_of(TEXT), level)
        made = compile_for(level, folder, "warmup", "--quiet")
        print(f"{made} kernels for {level} in {folder}", flush=True)


if __name__ == "__main__":
    main()
