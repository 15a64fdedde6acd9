"""What holds for all tests: CPU, one thread, no network, no files from outside."""

import signal

import pytest
import torch
from toys import TOYS

from mmpareto.datasets import DATASETS

# A shell lets what it starts in the background ignore Ctrl-C; the commands under test must not.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    monkeypatch.setattr(DATASETS, "parts", DATASETS.parts | TOYS)


@pytest.fixture(autouse=True)
def same_start():
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture
def calls(monkeypatch):
    """Runs train.py in this process (where the toy data is known); the list of its calls."""
    import train
    from mmpareto.results import jobs
    from mmpareto.system.errors import UserError

    made = []

    class InProcess:
        def __init__(self, command, environment, log=None):
            made.append(command[2:])
            self.code, self.said = 0, ""
            try:
                train.main(command[2:])
            except UserError as error:
                self.code, self.said = 2, str(error)

        def poll(self):
            return self.code

        def last_line(self):
            return self.said

    monkeypatch.setattr(jobs, "Child", InProcess)
    monkeypatch.setattr("mmpareto.run.environment.commit", lambda: "abc")
    return made
