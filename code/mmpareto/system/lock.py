"""A lock, so that one command at a time writes to a folder."""

import sys
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from .errors import UserError

NAME = ".mmpareto.lock"
TABLES = ".mmpareto.tables.lock"  # a second lock, for tables of runs that may still go on
PATIENCE = 0.1  # seconds for a process that gives the lock back to remove its file


class Lock(AbstractContextManager):
    """The lock of a folder; raises UserError, with hint, if another process has it.

    tables: take the lock for writing tables; it waits until the other process has written.
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
            if error.filename:  # the file could not be opened, which has nothing to do with locks
                raise
            print(
                f"{folder}: its file system has no locks ({error.strerror}): start no second "
                "command that writes to it",
                file=sys.stderr,
            )
            self._remove()

    def release(self) -> None:
        if self._lock.is_locked:
            self._remove()  # first: then nobody can lock the file that is about to go
            self._lock.release()

    def _remove(self) -> None:
        with suppress(OSError):  # nothing may be writable any more
            self.path.unlink()

    def __exit__(self, *_) -> None:
        self.release()
