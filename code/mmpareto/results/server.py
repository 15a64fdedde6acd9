"""A process that has imported torch and read the data; runs are forked from it and start at once.

For runs on the CPU alone: what a GPU's driver holds does not survive a fork.
"""

import importlib
import json
import multiprocessing
import os
import signal
import sys
from argparse import Namespace
from contextlib import suppress
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from pathlib import Path

import torch

from ..run import options, setup
from ..system import entry
from ..system.paths import REPOSITORY
from ..system.processes import PARENT, held_back, keep_memory

WORDS = "MMPARETO_WORDS"  # in the server's environment: flags of a run whose data it loads
PRELOADED = ["mmpareto.results.preloaded", "train"]
_source: str | None = None  # of the data that the running server holds


class Forked:
    """A command `python code/NAME.py WORDS` with the face of subprocess.Popen."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path | None):
        self.process = context().Process(target=become, args=(command, environment, log))
        with held_back():
            self.process.start()

    def poll(self) -> int | None:
        return self.process.exitcode

    def send_signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, number)

    def kill(self) -> None:
        self.process.kill()

    def wait(self) -> None:
        self.process.join()


def suits(flags: Namespace) -> bool:
    """Return whether a run with these flags computes on the CPU."""
    return flags.device == "cpu" or (flags.device == "auto" and not torch.cuda.is_available())


def start(words: list[str], environment: dict[str, str]) -> None:
    """Start the server with the data of a run, whose flags are words, unless it runs already."""
    global _source
    if (source := setup.source(options.parse(words))) != _source:
        with held_back():
            forkserver._forkserver._stop()  # it has other data, or none if others have started it
            _source = source
    before = dict(os.environ)
    paths = [str(REPOSITORY / "code"), environment.get("PYTHONPATH", "")]
    more = {WORDS: json.dumps(words), "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    os.environ.update(environment | more)
    multiprocessing.set_forkserver_preload(PRELOADED)
    try:
        with held_back():
            forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)


def context() -> BaseContext:
    return multiprocessing.get_context("forkserver")


def become(command: list[str], environment: dict[str, str], log: Path | None) -> None:
    """Be the command, in a process that was forked for it."""
    if log:
        with open(log, "ab") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
    # what this process had before may be of another kind than the file behind the number is now
    sys.stdout, sys.stderr = (open(number, "w", 1, closefd=False) for number in (1, 2))  # noqa: SIM115
    os.environ.clear()
    os.environ.update(environment)
    os.environ[PARENT] = str(os.getppid())  # the server ends with the process that started it
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until `entry.run` takes over
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
    sys.argv = command[1:]
    keep_memory()
    entry.run(importlib.import_module(Path(command[1]).stem).main)
