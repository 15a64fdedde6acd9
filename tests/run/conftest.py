"""What the tests of this room share."""

import pytest
from toy_kinds import ToyAlone, ToyKinds

import train
from mmpareto.datasets import DATASETS


@pytest.fixture
def run(tmp_path):
    """Trains on the toy data in a folder; returns the folder."""

    def main(*flags, name="run", method="mmpareto"):
        folder = tmp_path / name
        train.main(["--dataset", "toy", "--encoder", "cnn", "--method", method,
                    "--out", str(folder), *map(str, flags)])  # fmt: skip
        return folder

    return main


@pytest.fixture
def kinds(toys, monkeypatch):
    own = {"toy_kinds": ToyKinds, "toy_alone": ToyAlone}
    monkeypatch.setattr(DATASETS, "parts", DATASETS.parts | own)


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")
