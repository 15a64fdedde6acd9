"""Files and folders that others may have made, and system errors that name them."""

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import UserError

REPOSITORY = Path(__file__).resolve().parents[3]


def expect_regular(path: Path | str) -> None:
    """Raise OSError unless path is a regular file: a pipe waits for ever, /dev/zero has no end."""
    mode = os.stat(path).st_mode  # follows links
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "a pipe, a socket or a device, no regular file", str(path))


def blocker_of(folder: Path) -> Path | None:
    """Return the nearest existing path at or above folder; raise UserError if it is no folder."""
    found = next((p for p in (folder, *folder.parents) if os.path.lexists(p)), None)
    if found is not None and not found.is_dir():
        what = "a link that leads nowhere" if not found.exists() else "a file"
        raise UserError(f"--out {folder}: {found} is {what}: give a folder")
    return found


@contextmanager
def clear_errors(what: object) -> Iterator[None]:
    """Turn system errors into one line about what was being read or written."""
    try:
        yield
    except OSError as error:
        is_told = error.filename is None or str(error.filename) in str(what)
        place = "" if is_told else f"{error.filename} "
        raise UserError(f"{what}: {place}cannot be used ({error.strerror or error})") from None


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
