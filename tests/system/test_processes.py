"""Ctrl-C at a moment when it would do harm waits until that is over; orphans end."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mmpareto.system.processes import PARENT, held_back

CODE = Path(__file__).resolve().parents[2] / "code"


@pytest.mark.parametrize("elsewhere", [False, True], ids=["this thread", "another thread"])
def test_acts_afterwards(elsewhere):
    """Whichever thread takes the signal."""
    end, done = threading.Event(), []
    thread = threading.Thread(target=end.wait)
    thread.start()
    with pytest.raises(KeyboardInterrupt), held_back():
        signal.pthread_kill(thread.ident if elsewhere else threading.get_ident(), signal.SIGINT)
        end.set()
        thread.join()
        done.append(1)
    assert done
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()


def test_where_it_is_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with held_back():
            os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_in_another_thread():
    """As where a user's own thread reads data."""
    found = []

    def work():
        with held_back():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.default_int_handler]


def test_processes_started_within_see_none():
    code = "import os, signal; os.kill(os.getpid(), signal.SIGINT); print('alive')"
    with held_back():
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.communicate()[0] == "alive\n"


def test_an_error_within_comes_out_where_there_was_no_interrupt():
    with pytest.raises(OSError, match="full"), held_back():
        raise OSError("full")


@pytest.mark.parametrize("system", ["", "processes.ctypes.CDLL = lambda name: None;"])
def test_orphans_end(system):
    """A command whose parent is killed, in the middle of something that listens to no signal."""
    child = (
        "import signal, time; from mmpareto.system import processes;"
        f"{system} signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "processes.end_with_parent(); time.sleep(60)"
    )
    parent = (
        "import os, subprocess, sys, time;"
        f"child = subprocess.Popen([sys.executable, '-S', '-c', {child!r}],"
        f" env={{**os.environ, {PARENT!r}: str(os.getpid())}});"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(CODE)},
    ) as process:  # fmt: skip
        orphan = int(process.stdout.readline())
        process.kill()
    end = time.monotonic() + 60
    while is_alive(orphan):
        assert time.monotonic() < end
        time.sleep(0.05)


def is_alive(number):
    try:
        state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"
