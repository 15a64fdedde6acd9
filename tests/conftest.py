"""What holds for all tests: CPU, one thread, no network, no files from outside."""

import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from toys import TOYS

from mmpareto.datasets import DATASETS

os.environ["HF_HUB_OFFLINE"] = "1"  # read once, when the hub's library is imported
# A shell lets what it starts in the background ignore Ctrl-C; the commands under test must not.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_setup(item):
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        pytest.skip("no usable CUDA GPU")


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    monkeypatch.setattr(DATASETS, "parts", DATASETS.parts | TOYS)


@pytest.fixture(autouse=True)
def same_start():
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """{words of train.py but --out: the folder of that run}, and where the next one goes."""
    return {}, tmp_path_factory.mktemp("trained")


@pytest.fixture
def once(monkeypatch, trained):
    """Toy data is the same in every test: what train.py was called with before is copied."""
    import train

    runs, store = trained
    original = train.main

    def main(words):
        out = Path(words[words.index("--out") + 1])
        key = tuple(word for word in words if word != str(out))
        if out.exists():
            original(words)
        elif key in runs:
            shutil.copytree(runs[key], out)
        else:
            original(words)
            runs[key] = shutil.copytree(out, store / str(len(runs)))

    monkeypatch.setattr(train, "main", main)


@pytest.fixture
def quick(monkeypatch):
    """For tests that look at no picture: drawing takes most of their time."""
    from mmpareto.results import figures

    def write(paths, draw, *arguments):
        for path in paths:
            path.write_text("<svg/>")

    monkeypatch.setattr(figures, "write", write)


@pytest.fixture
def calls(monkeypatch):
    """Runs train.py in this process (where the toy data is known); the list of its calls."""
    import train
    from mmpareto.results import jobs, server
    from mmpareto.system.errors import UserError

    made = []

    class InProcess:
        def __init__(self, command, environment, *_, **__):
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
    monkeypatch.setattr(server, "suits", lambda flags: False)
    monkeypatch.setattr("mmpareto.run.environment.commit", lambda: "abc")
    return made
