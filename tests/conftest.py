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
