"""One command at a time in a folder."""

import fcntl
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from .errors import UserError

NAME = ".mmpareto.lock"
TABLES = ".mmpareto.tables.lock"  # beside it: of who writes tables of runs that may still go on

_held: set[TextIO] = set()


def _let_go() -> None:
    """In a process that was just forked: the lock would be its own, too, and outlive ours."""
    while _held:
        _held.pop().close()


os.register_at_fork(after_in_child=_let_go)


class Lock:
    """Of a folder that is there; UserError, with hint, where another process has it.

    waits: for that process, instead of the error; for work of seconds.
    The system takes it from a process that dies, however that happens, so a file that is left
    behind locks nothing. Over NFS it also holds between machines (Linux makes flock a lock of the
    server). A file system without locks is named on stderr, and nothing is locked.
    """

    def __init__(
        self,
        folder: Path,
        hint: str = "wait for it, or give another folder",
        *,
        name: str = NAME,
        waits: bool = False,
    ):
        self.path = folder / name
        how = fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB)
        while True:
            self.file = open(self.path, "a")  # noqa: SIM115 (closed by release)
            try:
                fcntl.flock(self.file, how)
            except BlockingIOError:
                self.file.close()
                raise UserError(f"{folder}: another command is writing to it: {hint}") from None
            except OSError as error:
                print(
                    f"{folder}: its file system locks nothing ({error.strerror}): start no second "
                    "command that writes to it",
                    file=sys.stderr,
                )
            if self._is_there():
                break
            self.file.close()  # who had the lock has just removed the file
        _held.add(self.file)

    def _is_there(self) -> bool:
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self.file.fileno()))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        if self.file in _held:
            _held.remove(self.file)
            with suppress(OSError):  # as where nothing can be written any more
                self.path.unlink()
            self.file.close()

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *_) -> None:
        self.release()
