"""A command's console: it may be closed, full, gone midway, or have another encoding."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from .errors import UserError


class Watched:
    """stdout that raises UserError if it cannot be written: an OSError could be a file's."""

    def __init__(self, stream):
        self._stream = stream

    def _try(self, do, *arguments):
        try:
            return do(*arguments)
        except OSError as error:
            # What is still held back would fail again when Python ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            raise UserError(
                f"stdout: cannot be written ({error.strerror}), so nothing more can be shown: "
                "repeat the command, which goes on where it can (train.py with --resume)"
            ) from None

    def __getattr__(self, name: str):
        found = getattr(self._stream, name)
        return partial(self._try, found) if name in ("write", "flush") else found


@contextmanager
def usable() -> Iterator[None]:
    """Make stdout and stderr writable for any text, also where they are closed."""
    while (number := os.open(os.devnull, os.O_RDWR)) < 3:  # the next file would become stdout
        pass
    os.close(number)
    before = sys.stdout, sys.stderr
    # Python makes a closed stream None
    out, err = (stream or open(os.devnull, "w") for stream in before)  # noqa: SIM115
    for stream in (out, err):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    sys.stdout, sys.stderr = Watched(out), err
    try:
        yield
        sys.stdout.flush()
    except SystemExit:  # after --help
        sys.stdout.flush()
        raise
    finally:
        sys.stdout, sys.stderr = before
