"""Run commands in parallel, each in its own process, and stop them all together."""

import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from subprocess import DEVNULL, Popen
from tempfile import NamedTemporaryFile
from typing import Any

from ..system.entry import LAST_WORDS
from ..system.paths import clear_errors
from ..system.processes import PARENT
from .server import Forked

POLL = 0.02  # seconds between two looks at what runs
GRACE = 10  # seconds in which what is interrupted has to end
TAIL = 4096  # bytes of output in which its last line is looked for


class Child:
    """A running command, which ends with this process at the latest.

    Its output goes to log; without a log, to our console. Forked, it starts at once.
    """

    def __init__(
        self,
        command: list[str],
        environment: dict[str, str],
        log: Path | None = None,
        forked: bool = False,
    ):
        environment = {**environment, PARENT: str(os.getpid())}
        with clear_errors(log):
            # a: what reads here must not move where others write
            self._words = open(log, "a+b") if log else NamedTemporaryFile()  # noqa: SIM115
            self._words.truncate(0)
        if not log:
            environment[LAST_WORDS] = self._words.name
        if forked:
            self.process = Forked(command, environment, log)
            return
        streams: dict[str, Any] = {}
        if log:
            streams = {"stdin": DEVNULL, "stdout": self._words, "stderr": self._words}
        self.process = Popen(command, env=environment, **streams)

    def poll(self) -> int | None:
        """The child's exit code, or minus the signal that killed it; None while it runs."""
        code = self.process.poll()
        if code is not None and not self._words.closed:
            self._words.seek(0)
            self._end = self._words.read()[-TAIL:]
            self._words.close()
        return code

    def last_line(self) -> str:
        """Return the last line of an ended child; without a log, its exit error."""
        lines = [line.strip() for line in self._end.decode(errors="replace").splitlines()]
        return next((line.removeprefix("error: ") for line in reversed(lines) if line), "")


def run(tasks: Iterable, slots: Iterable, start: Callable[..., Child], ended: Callable) -> None:
    """Call start(task, slot) for every task, each slot holding one, then ended(task, child).

    No child is left running, even after Ctrl-C or SIGTERM.
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
            child.process.send_signal(signal.SIGINT)
        while any(child.poll() is None for child in running) and time.monotonic() < end:
            time.sleep(POLL)
    finally:
        for child in running:
            child.process.kill()
            child.process.wait()
            child.poll()


def share_of_cores(count: int) -> dict[str, str]:
    """Return the environment of one of count children: an equal share of threads.

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
