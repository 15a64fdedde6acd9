"""Ctrl-C at a moment when it would do harm."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


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
