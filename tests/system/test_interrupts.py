"""Ctrl-C at a moment when it would do harm waits until that is over."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from mmpareto.system.interrupts import held_back


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


def test_acts_afterwards():
    done = []
    with pytest.raises(KeyboardInterrupt), held_back():
        interrupt()
        done.append(1)
    assert done
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()


def test_where_another_thread_takes_the_signal():
    began, end, done = threading.Event(), threading.Event(), []
    thread = threading.Thread(target=lambda: (began.set(), end.wait()))
    thread.start()
    began.wait()
    with pytest.raises(KeyboardInterrupt), held_back():
        signal.pthread_kill(thread.ident, signal.SIGINT)
        end.set()
        thread.join()
        done.append(1)
    assert done


def test_where_it_is_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with held_back():
            interrupt()
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
