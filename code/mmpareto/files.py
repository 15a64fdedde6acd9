"""Files that others may have put there: only a regular one is opened."""

import errno
import os
import stat
from pathlib import Path


def expect_regular(path: Path | str) -> None:
    """OSError for what is no regular file: a pipe waits for ever, and /dev/zero has no end."""
    mode = os.stat(path).st_mode  # of what a link leads to
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "a pipe, a socket or a device, no regular file", str(path))
