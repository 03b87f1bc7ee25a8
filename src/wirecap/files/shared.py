"""Folders in which everybody may make files (/tmp): ours there are for one user, and nobody leads us elsewhere."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

_SHARED = stat.S_IWOTH | stat.S_ISVTX


def is_shared(path: str | Path) -> bool:
    """Whether a file is in a folder that everybody may write to, with only a file's owner removing it."""
    try:
        return Path(path).absolute().parent.stat().st_mode & _SHARED == _SHARED
    except OSError:
        return False


def open_for_writing(path: str | Path, flags: int = 0, mode: int = 0o600) -> int:
    """os.open for a file to be written, made with the umask's mode; in a shared folder with ``mode``.

    There, a symbolic link, another user's file or pipe, and a file with a second name are refused: PermissionError.
    """
    given = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | flags
    if not is_shared(path):
        return os.open(path, given, 0o666)
    try:
        fd = os.open(path, given & ~os.O_TRUNC | os.O_NOFOLLOW, mode)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise _refused(path, "a symbolic link in a folder that everybody may write to") from None
    if problem := _problem(os.fstat(fd)):
        os.close(fd)
        raise _refused(path, f"{problem}, in a folder that everybody may write to")
    if flags & os.O_TRUNC and stat.S_ISREG(os.fstat(fd).st_mode):
        os.ftruncate(fd, 0)
    return fd


def write_text(path: str | Path, text: str) -> None:
    """Write a whole file; it replaces what was there.  Raises OSError."""
    with os.fdopen(open_for_writing(path, os.O_TRUNC), "w") as file:
        file.write(text)


def others_may_write(folder: str | Path) -> bool:
    """Whether somebody beside this user, whoever called sudo(8), and root can put files into a folder."""
    found = Path(folder).stat()
    return bool(found.st_mode & stat.S_IWOTH) or (found.st_uid != 0 and not _is_ours(found))


def _is_ours(found: os.stat_result) -> bool:
    caller = os.environ.get("SUDO_UID", "") if os.geteuid() == 0 else ""
    return found.st_uid == os.geteuid() or str(found.st_uid) == caller


def _problem(found: os.stat_result) -> str:
    """Why a file that was there may have been put there for us to write to; "" if not."""
    if not _is_ours(found):
        return "it belongs to another user"
    if stat.S_ISREG(found.st_mode) and found.st_nlink > 1:
        return "it has a second name"
    return ""


def _refused(path: str | Path, why: str) -> OSError:
    return PermissionError(errno.EPERM, why, str(path))
