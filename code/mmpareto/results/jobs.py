"""Commands side by side: each in a process of its own, and all stopped together."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

from ..system.orphans import PARENT
from ..system.paths import clear_errors

POLL = 0.1  # seconds between two looks at what runs
GRACE = 10  # seconds in which what is interrupted has to end
TAIL = 4096  # bytes of output in which its last line is looked for


class Child:
    """A command of ours that runs, and does not outlive this process.

    All it prints goes to log; without a log the console shows it.
    """

    def __init__(self, command: list[str], environment: dict[str, str], log: Path | None = None):
        self.log, self._tail, self._shown = log, b"", True
        environment = {**environment, PARENT: str(os.getpid())}
        if log:
            with clear_errors(log), open(log, "wb") as file:
                self.process = subprocess.Popen(
                    command, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file
                )
            return
        reader, writer = _open_console()
        self.process = subprocess.Popen(command, env=environment, stderr=writer)
        os.close(writer)
        self._copier = Thread(target=self._copy, args=(reader,), daemon=True)
        self._copier.start()

    def _copy(self, reader: int) -> None:
        """Show what arrives on stderr, and keep its end."""
        while chunk := _read(reader):
            self._tail = (self._tail + chunk)[-TAIL:]
            if self._shown:
                with suppress(OSError):  # a console that is gone must not block the child
                    os.write(2, chunk)
        os.close(reader)

    def poll(self) -> int | None:
        """Its exit code, below 0 the signal that killed it; None while it runs."""
        return self.process.poll()

    def last_line(self) -> str:
        """What it said last, on stderr where the console shows it."""
        if self.log:
            self._tail = self.log.read_bytes()[-TAIL:]
        else:
            self._copier.join(1)  # workers that outlive the child may hold its stderr
        lines = [line.strip() for line in self._tail.decode(errors="replace").splitlines()]
        return next((line.removeprefix("error: ") for line in reversed(lines) if line), "")

    def interrupt(self) -> None:
        """As Ctrl-C does; from here on nothing of it is shown."""
        self._shown = False
        if self.log is None and sys.stderr.isatty():
            os.write(2, b"\r\x1b[K")  # its progress bar stays half-drawn otherwise
        self.process.send_signal(signal.SIGINT)


def run(
    tasks: Iterable,
    slots: Sequence,
    start: Callable[[Any, Any], Child],
    ended: Callable[[Any, Child], None],
) -> None:
    """Call start(task, slot) for every task, each slot holding one at a time, then ended.

    Whatever ends this, Ctrl-C and SIGTERM among it, no child is left running.
    """
    waiting, free, running = list(tasks), list(slots), {}
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        while waiting or running:
            while waiting and free:
                task, slot = waiting.pop(0), free.pop(0)
                running[start(task, slot)] = task, slot
            over = [child for child in running if child.poll() is not None]
            for child in over:
                task, slot = running.pop(child)
                free.append(slot)
                ended(task, child)
            if not over:
                time.sleep(POLL)
    finally:
        stop(running)
        signal.signal(signal.SIGTERM, before)


def stop(children: Iterable[Child]) -> None:
    """Interrupt them all, and kill those that do not end."""
    running = [child for child in children if child.poll() is None]
    end = time.monotonic() + GRACE
    try:
        for child in running:
            child.interrupt()
        while any(child.poll() is None for child in running) and time.monotonic() < end:
            time.sleep(POLL)
    finally:
        for child in running:
            child.process.kill()
            child.process.wait()


def share_of_cores(count: int) -> dict[str, str]:
    """The environment of one of count children: an equal share of the cores, in threads.

    A single child decides itself; OMP_NUM_THREADS, where the user has set it, is kept.
    """
    if count == 1:
        return dict(os.environ)
    usable = getattr(os, "sched_getaffinity", lambda process: range(os.cpu_count() or 1))
    threads = str(max(1, len(usable(0)) // count))
    return {"OMP_NUM_THREADS": threads, **os.environ, "PYTHONUNBUFFERED": "1"}


def how(code: int) -> str:
    """An exit code in words."""
    return f"exit {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"


def _open_console() -> tuple[int, int]:
    """Where a child's stderr is read and written: a terminal where ours is, for progress bars."""
    if not sys.stderr.isatty():
        return os.pipe()
    import termios
    import tty

    reader, writer = os.openpty()
    tty.setraw(writer)
    termios.tcsetwinsize(writer, termios.tcgetwinsize(sys.stderr.fileno()))
    return reader, writer


def _read(reader: int) -> bytes:
    try:
        return os.read(reader, TAIL)
    except OSError:  # how a terminal says that its other side is closed
        return b""
