"""Fixtures of this room."""

import shutil

import pytest
from toy_kinds import TRAINED, ToyAlone, ToyKinds
from toys import TOYS

import train
from mmpareto.datasets import DATASETS


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    own = TOYS | {"toy_kinds": ToyKinds, "toy_alone": ToyAlone}
    monkeypatch.setattr(DATASETS, "parts", DATASETS.parts | own)


def train_toy(folder, *flags, method="mmpareto"):
    train.main(["--dataset", "toy", "--encoder", "cnn", "--method", method, "--out", str(folder),
                *map(str, flags)])  # fmt: skip
    return folder


@pytest.fixture
def run(tmp_path):
    """Return a function that trains on the toy data in a folder, and returns the folder."""
    return lambda *flags, name="run", **method: train_toy(tmp_path / name, *flags, **method)


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def done(folders, toys):
    """Return a finished run of two epochs; it is made once and only read."""
    folder = folders / "done"
    return folder if folder.exists() else train_toy(folder)


@pytest.fixture
def umt(folders, toys):
    """Return a finished run that has trained its teachers first; it is only read."""
    folder, words = folders / "umt", ["--teacher_epochs", 3, "--limit_batches", 3]
    return folder if folder.exists() else train_toy(folder, *words, method="umt")


@pytest.fixture
def copied(done, tmp_path):
    """Return a copy of that run, where `run` trains: tests may change it."""
    return shutil.copytree(done, tmp_path / "run")


@pytest.fixture
def trained(request, folders, toys):
    """Return the last checkpoint of the toy_kinds.TRAINED that `runs` names; each is made once."""
    path = folders / request.param / "last.pt"
    if not path.exists():
        train.main([*TRAINED[request.param], "--epochs", "1", "--out", str(path.parent)])
    return path
