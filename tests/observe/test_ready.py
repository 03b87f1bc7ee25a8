"""``--ready-file``: what is left of it."""

from __future__ import annotations

import os

from wirecap.observe.ready import Ready


def test_only_its_own_file_is_removed(tmp_path):
    """The file is there from ``tell`` to ``close``; one that another capture has put in its place stays."""
    path = tmp_path / "ready"
    path.write_text("1234\n")  # of a capture that was killed
    first = Ready(str(path))
    assert not path.exists()
    first.tell()
    assert path.read_text() == f"{os.getpid()}\n"
    second = Ready(str(path))
    second.tell()
    first.close()
    assert path.exists()
    second.close()
    assert not list(tmp_path.iterdir())


def test_a_capture_that_never_began_leaves_no_file(tmp_path):
    """Without ``tell`` there is nothing to remove, and no file of somebody else is."""
    path = tmp_path / "ready"
    ready = Ready(str(path))
    path.write_text("mine")
    ready.close()
    assert path.read_text() == "mine"
