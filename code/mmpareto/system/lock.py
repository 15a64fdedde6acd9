"""One command at a time in a folder."""

import sys
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from .errors import UserError

NAME = ".mmpareto.lock"
TABLES = ".mmpareto.tables.lock"  # beside it: of who writes tables of runs that may still go on
PATIENCE = 0.1  # seconds, in which who had the lock removes its file


class Lock(AbstractContextManager):
    """The lock of a folder; UserError, with hint, where another process has it.

    tables: the lock of those who write tables; it waits for the other process, for seconds.
    The system takes the lock from a process that dies, so a file that is left behind locks nothing.
    A forked process does not have the lock. Over NFS it also holds between machines (Linux makes
    flock a lock of the server). Where a file system has no locks, stderr says so.
    """

    def __init__(
        self, folder: Path, hint: str = "wait for it, or give another folder", tables: bool = False
    ):
        self.path = folder / (TABLES if tables else NAME)
        self._lock = FileLock(
            self.path, -1 if tables else PATIENCE, thread_local=False, fallback_to_soft=False,
            poll_interval=0.02,
        )  # fmt: skip
        try:
            self._lock.acquire()
        except Timeout:
            raise UserError(f"{folder}: another command is writing to it: {hint}") from None
        except OSError as error:
            if error.filename:  # the file could not be opened: that is no matter of locks
                raise
            print(
                f"{folder}: its file system locks nothing ({error.strerror}): start no second "
                "command that writes to it",
                file=sys.stderr,
            )
            self._remove()

    def release(self) -> None:
        if self._lock.is_locked:
            self._remove()  # first: then nobody can lock the file that is about to go
            self._lock.release()

    def _remove(self) -> None:
        with suppress(OSError):  # as where nothing can be written any more
            self.path.unlink()

    def __exit__(self, *_) -> None:
        self.release()
