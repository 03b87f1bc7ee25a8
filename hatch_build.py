"""What a wheel holds beside the package: manual pages and completion scripts, made from the text of the help.

And the kernels' object code, if WIRECAP_OBJECT_CODE names the folder that .ci/object_code.py made: the first run with
such a wheel need not compile.  Without it, as in ``pip install .``, a wheel is as good but for that.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

COMPLETIONS = {
    "bash": "share/bash-completion/completions/wirecap",
    "fish": "share/fish/vendor_completions.d/wirecap.fish",
    "zsh": "share/zsh/site-functions/_wirecap",
}


class SharedData(BuildHookInterface):  # type: ignore[type-arg]
    """Runs before a wheel is built; it needs click, but nothing else that WireCAP depends on."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        sys.path.insert(0, str(Path(self.root) / "src"))
        from wirecap.cli import completing, main, manual

        self._made = Path(tempfile.mkdtemp(prefix="wirecap-build-"))
        shared: dict[str, str] = build_data["shared_data"]
        for page in manual.write(self._made / "man1"):
            shared[str(page)] = f"share/man/man1/{page.name}"
        for shell, place in COMPLETIONS.items():
            script = self._made / shell
            script.write_text(completing.script(shell, main.main))
            shared[str(script)] = place
        code = os.environ.get("WIRECAP_OBJECT_CODE")
        if code:
            if not any(Path(code).rglob("*.code")):
                raise ValueError(f"WIRECAP_OBJECT_CODE={code}: no object code is there; .ci/object_code.py makes it")
            build_data["force_include"][str(Path(code).absolute())] = "wirecap/code"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if version != "editable":
            shutil.rmtree(self._made)
