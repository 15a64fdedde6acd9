"""Ctrl-C, memory, and the end of processes: none of ours outlives the process that started it."""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

PARENT = "MMPARETO_PARENT"  # in a command's environment: the process that it must not outlive
CGROUPS = Path("/sys/fs/cgroup")  # of Linux: the limits of containers and of a cluster's jobs
INTERVAL = 0.5  # seconds between two looks at the parent
PR_SET_PDEATHSIG = 1  # of Linux's prctl.h
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_memory() -> None:
    """Keep the memory of freed CPU tensors for the next ones, in huge pages where they are large.

    Every step frees all gradients and activations and allocates them again. Memory that is given
    back in between has to be cleared page by page, which takes 10 to 20 % of a small step. The peak
    does not change. If a user sets GLIBC_TUNABLES, even to nothing, nothing is done here.
    """
    if "GLIBC_TUNABLES" in os.environ:
        return
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch reads it at its first allocation
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):  # glibc has it
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def free_memory() -> int:
    """Return how many bytes can be taken: of the machine, or of a container that has less."""
    free = psutil.virtual_memory().available
    with suppress(OSError):  # not Linux
        own = CGROUPS / Path("/proc/self/cgroup").read_text().rpartition("0::/")[2].strip()
        for group in (own, *own.parents):
            with suppress(OSError, ValueError):  # none, or one without a limit: "max"
                limit, used = (int((group / f"memory.{n}").read_text()) for n in ("max", "current"))
                statistics = (group / "memory.stat").read_text().split()
                cached = int(statistics[statistics.index("inactive_file") + 1])
                free = min(free, limit - used + cached)
    return max(free, 0)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C be a KeyboardInterrupt within; afterwards it is what it was before."""
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
    """Send Ctrl-C once more if it came in a __del__, where Python drops exceptions."""
    if issubclass(lost.exc_type, KeyboardInterrupt):
        threading.Timer(0.01, os.kill, [os.getpid(), signal.SIGINT]).start()
    else:
        sys.__unraisablehook__(lost)


@contextmanager
def held_back() -> Iterator[None]:
    """Let Ctrl-C that comes within act afterwards; processes started within never receive it.

    A KeyboardInterrupt while a process starts would leave that process without an owner, and
    Python forgets one that comes in the middle of a fork.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # other threads get no KeyboardInterrupt
        return
    came = []
    before = signal.signal(signal.SIGINT, lambda *_: came.append(True))
    # Processes inherit the mask; it does not keep other threads from taking the signal.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, before)
        if came and before == signal.default_int_handler:
            raise KeyboardInterrupt


def end_with_parent() -> None:
    """End this command when the parent that the environment names has ended."""

    def wait() -> None:
        while os.getppid() == parent:  # an orphan is given another parent
            time.sleep(INTERVAL)

    if parent := int(os.environ.pop(PARENT, 0)):
        _end_after(parent, wait)


def begin_worker(*_: object) -> None:
    """Let a process of multiprocessing end in silence with the process that started it."""

    def hook(kind, error, trace) -> None:
        if not issubclass(kind, ConnectionError | EOFError):  # that is the parent, gone
            sys.__excepthook__(kind, error, trace)

    parent = multiprocessing.parent_process()
    if parent:  # else not a worker: a benchmark does a worker's work itself
        _end_after(parent.pid, parent.join)
        sys.excepthook = hook


def _end_after(parent: int | None, wait: Callable[[], object]) -> None:
    """Kill this process when its parent has ended, whatever it is doing.

    Linux does it. Elsewhere, and if a server of processes stands between the two, a thread waits
    for the parent.
    """

    def watch() -> None:
        wait()
        os.kill(os.getpid(), signal.SIGKILL)

    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    asked = prctl is not None and prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) == 0
    if not asked or os.getppid() != parent:  # if the parent lived after prctl, Linux sees its end
        threading.Thread(target=watch, daemon=True).start()
