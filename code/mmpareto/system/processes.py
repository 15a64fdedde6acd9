"""Ctrl-C, and the end of processes: none of ours outlives the one that has started it."""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PARENT = "MMPARETO_PARENT"  # in a command's environment: the process that it must not outlive
INTERVAL = 0.5  # seconds between two looks at the parent
PR_SET_PDEATHSIG = 1  # of Linux's prctl.h


@contextmanager
def interruptible() -> Iterator[None]:
    """Within, Ctrl-C is a KeyboardInterrupt; before and after, it is what it was."""
    before = signal.getsignal(signal.SIGINT)
    if before == signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    hook, sys.unraisablehook = sys.unraisablehook, _again
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        sys.unraisablehook = hook


def _again(lost) -> None:
    """Python drops an exception in a __del__, after a trace; let Ctrl-C come once more."""
    if issubclass(lost.exc_type, KeyboardInterrupt):
        threading.Timer(0.01, os.kill, [os.getpid(), signal.SIGINT]).start()
    else:
        sys.__unraisablehook__(lost)


@contextmanager
def held_back() -> Iterator[None]:
    """Ctrl-C that comes within acts after it; processes that are started within never see one.

    Where a process is being started, a KeyboardInterrupt would leave it without anybody who knows
    it, and Python forgets one that comes in the middle of a fork.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # others get no KeyboardInterrupt
        return
    came = []
    before = signal.signal(signal.SIGINT, lambda *_: came.append(True))
    # The mask is what processes inherit; it does not keep other threads from taking the signal.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, before)
        if came and before == signal.default_int_handler:
            raise KeyboardInterrupt


def end_with_parent() -> None:
    """In a command: where the environment names a parent, end when that process has."""
    if parent := int(os.environ.pop(PARENT, 0)):

        def wait() -> None:
            while os.getppid() == parent:  # an orphan is given another parent
                time.sleep(INTERVAL)

        _end_after(parent, wait)


def begin_worker() -> None:
    """In a process of multiprocessing: it ends with the one that wanted it, in silence."""
    parent = multiprocessing.parent_process()
    if parent is None:  # this is no such process: a benchmark does a worker's work itself
        return
    _end_after(parent.pid, parent.join)
    shown = sys.excepthook

    def hook(kind, error, trace) -> None:
        if not issubclass(kind, ConnectionError | EOFError):  # that is the parent, gone
            shown(kind, error, trace)

    sys.excepthook = hook


def _end_after(parent: int | None, wait: Callable[[], object]) -> None:
    """End this process when parent has, in the middle of anything: it may be killed.

    Linux does it. A thread waits for the parent elsewhere, and where a server of processes stands
    between the two.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    asked = prctl is not None and prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) == 0
    if asked and os.getppid() == parent:  # it lived when asked, so that its end will be seen
        return

    def watch() -> None:
        wait()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
