"""A disk that is full or only readable, and files that change or vanish while they are used.

Every end is one line, what was written before stays readable, and the same command goes on when the
cause is gone.
"""

from mmpareto.system import tensors, writing

import io
import os
import shutil
import subprocess

import numpy as np
import pytest
import torch
from damage import FLAGS, load, refused, told
from run_files import assert_same_run
from sets import contents, error_of, prepare_set, write_arrays

import analyze
import compare
import train
from mmpareto.data.batches import loader
from mmpareto.data.reading import Array
from mmpareto.datasets.shared import prepared
from mmpareto.run import checkpoint
from mmpareto.run.records import Best
from mmpareto.system.lock import NAME as LOCK
from train import Trainer

PAGE = os.sysconf("SC_PAGE_SIZE")  # what a tmpfs hands out
FULL, READ_ONLY = "No space left on device", "Read-only file system"
CHECK = "check the set with code/verify.py"
COMPARE = [*FLAGS, "--methods", "mmpareto", "--seeds", "0", "--out"]
PREPARE = ("--vocabulary", "text=10", "--workers", 1)


def mount(*words):
    return subprocess.run(["mount", *map(str, words)], capture_output=True, text=True)


class Disk:
    """Mount a small file system in memory."""

    def __init__(self, path):
        self.path, self.ballast = path, path / "ballast"

    def fill(self, leaving=0):
        """Fill the disk until so many pages are left."""
        self.empty()
        state = os.statvfs(self.path)
        with open(self.ballast, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, state.f_bavail * state.f_frsize - leaving * PAGE)

    def empty(self):
        self.ballast.unlink(missing_ok=True)

    def read_only(self):
        """Make it read-only by a second mount, since files may be open for writing."""
        for words in (["--bind", self.path, self.path], ["-o", "remount,bind,ro", self.path]):
            done = mount(*words)
            assert done.returncode == 0, done.stderr

    def writable(self):
        subprocess.run(["umount", self.path], check=True)


@pytest.fixture
def disk(tmp_path):
    path = tmp_path / "disk"
    path.mkdir()
    try:
        done = mount("-t", "tmpfs", "-o", "size=32m", "none", path)
    except FileNotFoundError:
        pytest.skip("no mount here")
    if done.returncode:
        pytest.skip(f"mounting is not possible here: {done.stderr.strip()}")
    yield Disk(path)
    while os.path.ismount(path):
        subprocess.run(["umount", "--lazy", path], check=True)


def run(folder, *flags):
    train.main([*FLAGS, "--out", str(folder), *map(str, flags)])
    return folder


@pytest.fixture
def undisturbed(compared):
    return compared / "mmpareto-s0"


@pytest.fixture
def spoil(monkeypatch):
    """Have something happen once, before a method of the trainer, in an epoch or on a split."""

    def spoil(name, moment, happen):
        method, happened = getattr(Trainer, name), []

        def spoiled(self, *words):
            if moment in (self.epoch, *words) and not happened:
                happened.append(True)
                happen(self)
            return method(self, *words)

        monkeypatch.setattr(Trainer, name, spoiled)

    return spoil


def epoch_of(folder):
    return checkpoint.read_state(folder / "last.pt", checkpoint.Resumable).epoch


slow = [pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 4, 40, 240, 300, 500)]


@pytest.mark.parametrize("pages", [0, 3, 150, *slow])
def test_training_on_a_full_disk(disk, undisturbed, pages):
    """The disk fills at any moment, from the first byte to the last checkpoint."""
    folder = disk.path / "run"
    disk.fill(leaving=pages)
    assert FULL in told(run, folder)
    left = sorted(path.name for path in folder.rglob("*"))
    assert LOCK not in left and not any(name.endswith(".tmp") for name in left)
    for path in folder.glob("*.pt"):
        assert checkpoint.read_state(path).epoch == 1
    disk.empty()
    assert_same_run(run(folder, "--resume"), undisturbed)


@pytest.mark.parametrize(
    ("name", "moment", "happen", "why", "epoch"),
    [
        ("scores", "test", Disk.fill, FULL, 2),
        ("train_epoch", 1, Disk.read_only, READ_ONLY, 1),  # as a disk with errors becomes
    ],
)
def test_in_the_middle(disk, undisturbed, spoil, name, moment, happen, why, epoch):
    folder = disk.path / "run"
    spoil(name, moment, lambda _: happen(disk))
    assert why in told(run, folder)
    assert epoch_of(folder) == epoch
    disk.empty() if happen is Disk.fill else disk.writable()
    assert_same_run(run(folder, "--resume"), undisturbed)
    assert LOCK not in contents(folder)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.slow
def test_tensorboard(disk, tmp_path, spoil):
    """TensorBoard's folder is full, the run's is not. Its files have room up to a page."""
    flags = ["--use_tensorboard", "--tensorboard_path", disk.path / "board", "--epochs", 12]
    for first in (0, 1):
        spoil("train_epoch", first, lambda _: disk.fill())
        message = told(run, tmp_path / f"{first}", *flags)
        assert FULL in message and "--tensorboard_path" in message
        assert epoch_of(tmp_path / f"{first}") >= 1
        disk.empty()
        run(tmp_path / f"{first}", *flags, "--resume")


@pytest.mark.parametrize(
    ("main", "words", "made", "pages"),
    [
        (compare.main, [*COMPARE, "{disk}"], "table.csv", [0]),  # of finished runs
        (analyze.main, ["{disk}/mmpareto-s0", "--logs_only", "--out", "{disk}/page"],
         "page/report.html", [0, 8]),
    ],
)  # fmt: skip
def test_results_on_a_full_disk(disk, undisturbed, quick_figures, main, words, made, pages):
    shutil.copytree(undisturbed, disk.path / "mmpareto-s0")
    words = [word.format(disk=disk.path) for word in words]
    for leaving in pages:
        disk.fill(leaving)
        assert FULL in told(main, words)
        assert not [p for p in disk.path.rglob("*") if p.name.endswith((".tmp", ".lock"))]
    disk.empty()
    main(words)
    assert (disk.path / made).exists()


@pytest.mark.slow
@pytest.mark.parametrize("pages", [0, 12])
def test_preparing_on_a_full_disk(disk, raw, tmp_path, pages, monkeypatch):
    monkeypatch.setattr("mmpareto.preparation.engine.Preparation._check_space", lambda *_: None)
    out = disk.path / "set"
    disk.fill(leaving=pages)
    assert FULL in error_of("folder", raw, out, *PREPARE)
    assert not (out / "metadata.json").exists() and not (out / ".tmp").exists()
    disk.empty()
    prepare_set("folder", raw, out, *PREPARE)
    prepare_set("folder", raw, tmp_path / "whole", *PREPARE)
    assert contents(out) == contents(tmp_path / "whole")


def test_a_disk_to_read(disk, undisturbed, raw, capsys):
    finished, broken = (disk.path / name for name in ("finished", "broken"))
    for folder in (finished, broken):
        shutil.copytree(undisturbed, folder)
    (broken / "result.json").unlink()
    before = contents(disk.path)
    disk.read_only()
    assert READ_ONLY in told(run, disk.path / "new")
    assert READ_ONLY in told(run, broken, "--resume")
    assert READ_ONLY in told(compare.main, [*COMPARE, str(disk.path / "table")])
    assert READ_ONLY in error_of("folder", raw, disk.path / "set", *PREPARE)
    run(finished, "--resume")
    assert "is finished" in capsys.readouterr().out
    assert contents(disk.path) == before
    disk.writable()
    assert_same_run(run(broken, "--resume"), undisturbed)


@pytest.mark.parametrize(
    ("name", "moment", "why"),
    [
        (".", 1, "cannot be used (No such file or directory)"),
        *((log, 1, None) for log in ("train.log", "steps.jsonl", "epochs.jsonl")),  # begun anew
        ("best.pt", "test", "best.pt"),
        ("epochs.jsonl", "test", "epochs.jsonl"),
        ("train.log", "test", None),
    ],
)
def test_vanishing(tmp_path, spoil, name, moment, why):
    """The folder, or a file in it, vanishes in the second epoch or before the result."""
    folder = tmp_path / "run"

    def delete(trainer):
        if moment == "test":
            trainer.best = Best()  # not the last one, so that best.pt is read
        shutil.rmtree(folder) if name == "." else (folder / name).unlink()

    spoil("clip" if moment == 1 else "scores", moment, delete)
    line = refused(run, folder)
    assert line is None if why is None else why in line
    if name != ".":
        assert epoch_of(folder) == 2


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda path: path.unlink(), "No such file"),
        (lambda path: replaced(path, np.zeros((2, 2), np.float32)), "shape (2, 2) found"),
        (lambda path: os.truncate(path, 150), "cannot be read"),
        (lambda path: path.write_bytes(b""), "cannot be read"),
    ],
    ids=["deleted", "another", "cut", "emptied"],
)
def test_files_under_a_running_loader(tmp_path, workers, change, found, monkeypatch):
    monkeypatch.setattr(prepared, "SHARE", 0)  # a set too large to be held in memory
    split = load(write_arrays(tmp_path)).splits["train"]
    batches = iter(loader(split, 2, workers=workers))
    next(batches)
    for path in (tmp_path / "x").rglob("*.npy"):
        change(path)
    message = told(lambda: list(batches))
    assert found in message and CHECK in message


def replaced(path, array):
    """The file appears whole: a process that loads meanwhile must not find half a file."""
    np.save(path.with_name("new.npy"), array)
    path.with_name("new.npy").replace(path)


def test_packed_array_is_cut(tmp_path):
    """A mapped file would kill the process that reads past its new end."""
    np.save(tmp_path / "all.npy", np.zeros((36, 64, 64), np.float32))
    reader, path = Array((64, 64)), str(tmp_path / "all.npy")
    assert reader.load(path, [3]).shape == (1, 64, 64)
    os.truncate(path, 20_000)
    assert CHECK in told(reader.load, path, [30])


class Interrupted(io.BytesIO):
    """A file in which Ctrl-C comes with the second block."""

    def write(self, block) -> int:
        if self.tell():
            raise KeyboardInterrupt
        return super().write(block)


def test_interrupted_while_torch_saves(tmp_path):
    """torch.save hides the interrupt behind its own error."""
    path = tmp_path / "last.pt"
    state = {"model": torch.ones(1000)}
    tensors.write(path, state)
    with pytest.raises(RuntimeError, match="unexpected pos"):
        torch.save({}, Interrupted())
    with pytest.raises(KeyboardInterrupt):
        writing.write_atomically(path, lambda file: torch.save({}, Interrupted()))
    assert torch.equal(tensors.read(path)["model"], state["model"])
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]
