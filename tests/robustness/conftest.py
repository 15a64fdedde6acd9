"""Good raw files, a prepared set and finished runs, made once and copied."""

import shutil
import signal
from pathlib import Path

import pytest
from damage import FLAGS
from matplotlib.figure import Figure
from sets import prepare_set, write_mixed
from test_data import write_mnist

import train
from mmpareto.datasets import cgmnist


@pytest.fixture(scope="session")
def raw(tmp_path_factory):
    """Write twelve raw clips of every kind but optical flow."""
    return write_mixed(tmp_path_factory.mktemp("good") / "raw", 12)


@pytest.fixture(scope="session")
def whole(raw, tmp_path_factory):
    """Prepare a set from them."""
    out = tmp_path_factory.mktemp("good") / "set"
    prepare_set("folder", raw, out, "--vocabulary", "text=10")
    return out


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "set")


@pytest.fixture(scope="session")
def compared(tmp_path_factory):
    """Train four runs of two epochs, as small as possible."""
    folder = tmp_path_factory.mktemp("good") / "compared"
    for method in ("mmpareto", "uniform"):
        for seed in "01":
            train.main(["--method", method, *FLAGS, "--random_seed", seed,
                        "--out", str(folder / f"{method}-s{seed}")])  # fmt: skip
    return folder


@pytest.fixture
def run(compared, tmp_path):
    """Return a copy of a run of mmpareto, which records encoders."""
    return shutil.copytree(compared / "mmpareto-s0", tmp_path / "run")


@pytest.fixture
def mnist(tmp_path, monkeypatch):
    """Write a small MNIST: 60 digits for training, 10 for testing."""
    monkeypatch.setattr(cgmnist, "SIZES", {True: 60, False: 10})
    monkeypatch.setattr(cgmnist, "VALIDATION", 20)
    return write_mnist(tmp_path / "mnist", 60, 60, 10)


def peak(reset: bool) -> int:
    """Return the most bytes of memory that this process has used since the last reset."""
    status, resetting = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not resetting.exists():
        return 0
    if reset:
        resetting.write_text("5")
    line = next(line for line in status.read_text().splitlines() if "VmHWM" in line)
    return int(line.split()[1]) * 1024


class Waited(BaseException):
    """An exception that no code takes for bad input."""


@pytest.fixture
def guarded(tmp_path):
    """Check that an enemy's file takes little memory, does not hang, and runs no code."""

    def give_up(*_):
        raise Waited

    handler = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(20)
    before = peak(reset=True)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, handler)
    assert peak(reset=False) - before < 200e6
    assert not list(tmp_path.rglob("sprung"))


@pytest.fixture
def quick_figures(monkeypatch):
    """Draw figures without making pictures of them, which takes most of the time."""
    monkeypatch.setattr(Figure, "savefig", lambda _, file, **how: file.write(b"<svg/>" * 1000))
