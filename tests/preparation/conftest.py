"""Clips with CREMA-D's names, and the set that they make."""

import shutil

import forked
import pytest
from sets import SMALL, prepare_set

from mmpareto.benchmarks import synthetic


@pytest.fixture(scope="session", autouse=True)
def server():
    """Workers are forked from a process that has imported all they need."""
    with pytest.MonkeyPatch.context() as patch:
        forked.start_server(patch)


@pytest.fixture(scope="session")
def raw_clips(tmp_path_factory):
    """24 clips; tests copy what they change."""
    raw = tmp_path_factory.mktemp("cremad") / "raw"
    synthetic.write_cremad(raw, 24, size=SMALL)
    return raw


@pytest.fixture(scope="session")
def one_set(raw_clips, tmp_path_factory):
    out = tmp_path_factory.mktemp("cremad") / "set"
    prepare_set("cremad", raw_clips, out)
    return out


@pytest.fixture
def raw(raw_clips, tmp_path):
    return shutil.copytree(raw_clips, tmp_path / "raw")


@pytest.fixture
def copy(one_set, tmp_path):
    return shutil.copytree(one_set, tmp_path / "set")
