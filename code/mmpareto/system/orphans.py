"""No process of ours outlives the one that has started it, however that one ended."""

import os
import signal
import time
from collections.abc import Callable
from threading import Thread

PARENT = "MMPARETO_PARENT"  # in a command's environment: the process that it must not outlive
INTERVAL = 0.5  # seconds between two looks at the parent


def end_with_parent() -> None:
    """Where the environment names a parent, end when that process has."""
    parent = os.environ.pop(PARENT, None)
    if parent:
        end_after(lambda: _wait_for(int(parent)))


def _wait_for(parent: int) -> None:
    while os.getppid() == parent:  # an orphan is given another parent
        time.sleep(INTERVAL)


def end_after(wait: Callable[[], object]) -> None:
    """End this process when wait has returned, in the middle of anything: it may be killed."""

    def watch() -> None:
        wait()
        os.kill(os.getpid(), signal.SIGKILL)

    Thread(target=watch, daemon=True).start()
