"""How Sphinx makes a website of these pages: ``make docs``."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent.parent / "src"))

from wirecap.cli import manual
from wirecap.version import __version__

project = "WireCAP"
author = "the WireCAP project"
release = version = __version__
extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["figures/*.txt"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
nitpicky = True
html_theme = "furo"
html_title = f"WireCAP {__version__}"
html_copy_source = False


def fill_in(app: Sphinx, name: str, source: list[str]) -> None:
    """The reference of the commands goes behind what commands.md says, from the same text as their help."""
    if name == "commands":
        source[0] += "\n" + manual.markdown()
    if name == "index":  # its lists name pages by patterns, too, which may have none yet
        source[0] = re.sub(
            r"^[\w-]+\*\n", lambda line: line[0] if _matches(line[0].strip()) else "", source[0], flags=re.MULTILINE
        )


def _matches(pattern: str) -> bool:
    return any(Path(__file__).parent.glob(f"{pattern}.md"))


def setup(app: Sphinx) -> None:
    app.connect("source-read", fill_in)
