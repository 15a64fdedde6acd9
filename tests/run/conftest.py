"""What the tests of this room share."""

import pytest

import train


@pytest.fixture
def run(tmp_path):
    """Trains on the toy data in a folder; returns the folder."""

    def main(*flags, name="run", method="mmpareto"):
        folder = tmp_path / name
        train.main(["--dataset", "toy", "--encoder", "cnn", "--method", method,
                    "--out", str(folder), *map(str, flags)])  # fmt: skip
        return folder

    return main
