"""The documentation's website: every page, no warning, no broken link, nothing from elsewhere."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from doc_pages import ROOT, pages
from wirecap.cli import main


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if missing := [name for name in ("sphinx", "myst_parser", "furo") if not importlib.util.find_spec(name)]:
        pytest.skip(f"needs {', '.join(missing)}: pip install 'wirecap[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-n", "-b", "html", str(ROOT / "docs")]
    environment = os.environ | {"PYTHONWARNINGS": "default"}
    done = subprocess.run([*command, str(folder)], env=environment, capture_output=True, text=True, timeout=300,
                          check=False)  # fmt: skip
    hint = "a page that no list in docs/index.md has is put into the one where it belongs"
    assert done.returncode == 0, f"{done.stderr}\n{hint}"
    return folder


def test_every_page_is_there(site: Path) -> None:
    """Each page of docs/ is a page of the site that the front page leads to; Sphinx checked the links."""
    names = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert {path.stem for path in site.glob("*.html")} >= names
    front = (site / "index.html").read_text()
    assert all(f'href="{name}.html"' in front for name in names - {"index"})


def test_the_reference_is_the_help(site: Path) -> None:
    """The page of the commands has each command with its options."""
    text = (site / "commands.html").read_text()
    for name in (name for commands in main.SECTIONS.values() for name in commands):
        assert f'id="wirecap-{name}"' in text
    assert "--summary-json" in text
    assert "wirecap capture -i eth1@0-3 -i eth2 --mode advanced" in text


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    """A page needs no network: scripts, styles and pictures are the site's own."""
    for page in site.glob("*.html"):
        assert not re.findall(r'<(?:script|img)[^>]*src="(?:https?:)?//[^"]*"|<link[^>]*stylesheet[^>]*"https?:',
                              page.read_text())  # fmt: skip


OUTSIDE = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "SECURITY.md"]


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    """Links of the pages that are not part of the site lead to files that there are, and to headings in them."""
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if re.match("[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        there = path.parent / file if file else path
        assert there.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", there.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, target


def test_pages_link_to_each_other_by_file() -> None:
    """A link inside docs/ names a file, as GitHub wants it, and Sphinx finds it: no page is linked as .html."""
    for page in pages():
        assert not re.search(r"\]\([^):]*\.html", page.path.read_text()), page.name
