"""What is good: raw files, a prepared set, and finished runs, made once and copied."""

import shutil
import signal
from pathlib import Path

import matplotlib
import pytest
from damage import FLAGS
from sets import prepare_set, write_mixed
from test_data import write_mnist

import train
from mmpareto.datasets import cgmnist
from mmpareto.results import figures
from mmpareto.results.analysis import sections


@pytest.fixture(scope="session")
def raw(tmp_path_factory):
    """Twelve clips of every kind but optical flow."""
    return write_mixed(tmp_path_factory.mktemp("good") / "raw", 12)


@pytest.fixture(scope="session")
def whole(raw, tmp_path_factory):
    """The set that is prepared from them."""
    out = tmp_path_factory.mktemp("good") / "set"
    prepare_set("folder", raw, out, "--vocabulary", "text=10")
    return out


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "set")


@pytest.fixture(scope="session")
def compared(tmp_path_factory):
    """Four runs of two epochs, as small as it gets."""
    folder = tmp_path_factory.mktemp("good") / "compared"
    for method in ("mmpareto", "uniform"):
        for seed in "01":
            train.main(["--method", method, *FLAGS, "--random_seed", seed,
                        "--out", str(folder / f"{method}-s{seed}")])  # fmt: skip
    return folder


@pytest.fixture
def run(compared, tmp_path):
    """A run of mmpareto, so that encoders are recorded."""
    return shutil.copytree(compared / "mmpareto-s0", tmp_path / "run")


@pytest.fixture
def mnist(tmp_path, monkeypatch):
    """Fewer digits than there are: 60 and 10."""
    monkeypatch.setattr(cgmnist, "SIZES", {True: 60, False: 10})
    monkeypatch.setattr(cgmnist, "VALIDATION", 20)
    return write_mnist(tmp_path / "mnist", 60, 60, 10)


@pytest.fixture
def memory():
    """Fails where a test took much memory at once."""
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if not reset.exists():
        yield
        return

    def peak():
        text = next(line for line in status.read_text().splitlines() if "VmHWM" in line)
        return int(text.split()[1]) * 1024

    reset.write_text("5")
    before = peak()
    yield
    assert peak() - before < 200e6


class Waited(BaseException):
    """What no code takes for bad input."""


@pytest.fixture
def patience():
    """Five seconds: opening a pipe that nobody writes to waits for ever."""

    def give_up(*_):
        raise Waited

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, 5)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def quick_figures(monkeypatch):
    """Figures are drawn, but not written: that takes the time."""

    def write(paths, draw, *arguments):
        with matplotlib.rc_context(figures.STYLE):
            draw(*arguments)
        for path in paths:
            path.write_text("<svg/>")

    monkeypatch.setattr(figures, "write", write)
    monkeypatch.setattr(sections, "FORMS", ("svg",))
