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
from damage import told
from run_files import assert_same_run
from sets import contents, error_of, prepare_set, write_arrays

import analyze
import compare
import train
from mmpareto.data.batches import loader
from mmpareto.data.reading import Array
from mmpareto.run import checkpoint
from mmpareto.system.lock import NAME as LOCK
from train import Trainer

PAGE = os.sysconf("SC_PAGE_SIZE")  # what a tmpfs hands out


def mount(*words):
    return subprocess.run(["mount", *map(str, words)], capture_output=True, text=True)


class Disk:
    """A small file system in memory."""

    def __init__(self, path):
        self.path, self.ballast = path, path / "ballast"

    def leave(self, pages):
        """Fill it up to so many pages."""
        self.empty()
        state = os.statvfs(self.path)
        with open(self.ballast, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, state.f_bavail * state.f_frsize - pages * PAGE)

    def empty(self):
        self.ballast.unlink(missing_ok=True)

    def read_only(self):
        """Though files in it may be open for writing: by a second mount, over the first."""
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
        done = mount("-t", "tmpfs", "-o", "size=8m", "none", path)
    except FileNotFoundError:
        pytest.skip("no mount here")
    if done.returncode:
        pytest.skip(f"mounting is not possible here: {done.stderr.strip()}")
    yield Disk(path)
    while os.path.ismount(path):
        subprocess.run(["umount", "--lazy", path], check=True)


FLAGS = ["--dataset", "toy", "--encoder", "cnn", "--epochs", "2"]


def run(folder, *flags):
    train.main([*FLAGS, "--out", str(folder), *map(str, flags)])
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An undisturbed run; toys are not registered yet where a module's fixture is made."""
    from toys import TOYS

    from mmpareto.datasets import DATASETS

    before, DATASETS.parts = DATASETS.parts, DATASETS.parts | TOYS
    yield run(tmp_path_factory.mktemp("run") / "whole")
    DATASETS.parts = before


@pytest.fixture
def spoil():
    """Have something happen before a method of the trainer, where a condition holds; or undo it."""

    def spoil(name, happen, when=lambda trainer, *words: True):
        method = getattr(Trainer, name)

        def spoiled(self, *words):
            if when(self, *words):
                happen(self)
            return method(self, *words)

        patch.setattr(Trainer, name, spoiled)

    with pytest.MonkeyPatch.context() as patch:
        spoil.undo = patch.undo
        yield spoil


class TestFull:
    @pytest.mark.parametrize(
        "pages",
        [
            0,
            3,
            150,
            *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 4, 40, 240, 300, 500)),
        ],
    )
    def test_training(self, disk, whole, pages):
        """From the first byte to the last checkpoint."""
        folder = disk.path / "run"
        disk.leave(pages)
        message = told(run, folder)
        assert "No space left on device" in message
        left = sorted(path.name for path in folder.rglob("*"))
        assert LOCK not in left and not any(name.endswith(".tmp") for name in left)
        for path in folder.glob("*.pt"):
            assert checkpoint.read_state(path).epoch == 1
        disk.empty()
        assert_same_run(run(folder, "--resume"), whole)

    def test_result(self, disk, whole, spoil):
        folder = disk.path / "run"
        spoil("scores", lambda _: disk.leave(0), when=lambda _, split: split == "test")
        assert "No space left on device" in told(run, folder)
        assert checkpoint.read_state(folder / "last.pt", checkpoint.Resumable).epoch == 2
        spoil.undo()
        disk.empty()
        assert_same_run(run(folder, "--resume"), whole)

    def test_table(self, disk, whole, capsys):
        """Finished runs, and no room for their table."""
        command = [*FLAGS, "--methods", "mmpareto", "--seeds", "0", "--out", str(disk.path)]
        shutil.copytree(whole, disk.path / "mmpareto-s0")
        disk.leave(0)
        assert "No space left on device" in told(compare.main, command)
        disk.empty()
        compare.main(command)
        assert (disk.path / "table.csv").exists() and not list(disk.path.glob("*.tmp"))

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
    @pytest.mark.parametrize("first", [0, 1])
    def test_tensorboard(self, disk, tmp_path, spoil, first):
        """Its own folder is full; the run's is not. Its files have room up to a page."""
        spoil("train_epoch", lambda _: disk.leave(0), when=lambda trainer: trainer.epoch == first)
        flags = ["--use_tensorboard", "--tensorboard_path", disk.path / "board", "--epochs", 12]
        message = told(run, tmp_path / "run", *flags)
        assert "No space left on device" in message and "--tensorboard_path" in message
        assert checkpoint.read_state(tmp_path / "run/last.pt", checkpoint.Resumable).epoch >= 1
        disk.empty()
        spoil.undo()
        run(tmp_path / "run", *flags, "--resume")

    @pytest.mark.parametrize("pages", [0, 8])
    def test_page(self, disk, whole, pages, capsys):
        command = [str(whole), "--logs_only", "--out", str(disk.path / "page")]
        (disk.path / "page").mkdir()
        disk.leave(pages)
        assert "No space left on device" in told(analyze.main, command)
        assert not [p for p in disk.path.rglob("*") if p.name.endswith((".tmp", ".lock"))]
        disk.empty()
        analyze.main(command)
        assert (disk.path / "page/report.html").exists()

    @pytest.mark.slow
    @pytest.mark.parametrize("pages", [0, 12])
    def test_prepare(self, disk, raw, tmp_path, pages, monkeypatch):
        monkeypatch.setattr("mmpareto.preparation.engine.Preparation._check_space", lambda *_: None)
        out = disk.path / "set"
        disk.leave(pages)
        message = error_of("folder", raw, out, "--workers", 1)
        assert "No space left on device" in message
        assert not (out / "metadata.json").exists() and not (out / ".tmp").exists()
        disk.empty()
        prepare_set("folder", raw, out, "--workers", 1)
        prepare_set("folder", raw, tmp_path / "whole", "--workers", 1)
        assert contents(out) == contents(tmp_path / "whole")


class TestReadOnly:
    def test_training(self, disk, whole):
        folder = shutil.copytree(whole, disk.path / "run")
        (folder / "result.json").unlink()
        before = contents(folder)
        disk.read_only()
        for where, flags in ((disk.path / "new", []), (folder, ["--resume"])):
            assert "Read-only file system" in told(run, where, *flags)
        assert contents(folder) == before
        disk.writable()
        assert_same_run(run(folder, "--resume"), whole)

    def test_in_the_middle(self, disk, whole, spoil):
        """As a disk with errors becomes."""
        folder = disk.path / "run"
        spoil("train_epoch", lambda _: disk.read_only(), when=lambda trainer: trainer.epoch == 1)
        assert "Read-only file system" in told(run, folder)
        spoil.undo()
        assert checkpoint.read_state(folder / "last.pt", checkpoint.Resumable).epoch == 1
        disk.writable()
        assert_same_run(run(folder, "--resume"), whole)
        assert LOCK not in contents(folder)

    def test_a_finished_run_is_read(self, disk, whole, capsys):
        folder = shutil.copytree(whole, disk.path / "run")
        disk.read_only()
        run(folder, "--resume")
        assert "is finished" in capsys.readouterr().out

    def test_compare_and_prepare(self, disk, raw):
        disk.read_only()
        command = [*FLAGS, "--methods", "mmpareto", "--seeds", "0", "--out", str(disk.path / "x")]
        assert "Read-only file system" in told(compare.main, command)
        assert "Read-only file system" in error_of("folder", raw, disk.path / "set")


class TestVanishing:
    @pytest.mark.parametrize("name", [".", "train.log", "steps.jsonl", "epochs.jsonl"])
    def test_of_the_run(self, tmp_path, spoil, name):
        """The folder, or a log in it, is deleted in the middle of the second epoch."""
        folder = tmp_path / "run"

        def delete(_):
            shutil.rmtree(folder) if name == "." else (folder / name).unlink()

        spoil("clip", delete, when=lambda x: x.epoch == 1 and (folder / name).exists())
        if name == ".":
            assert "cannot be used (No such file or directory)" in told(run, folder)
        else:
            run(folder)  # a log is begun anew

    @pytest.mark.parametrize("name", ["best.pt", "epochs.jsonl", "train.log"])
    def test_before_the_result(self, tmp_path, spoil, name):
        folder = tmp_path / "run"

        def delete(trainer):
            trainer.best["epoch"] = 0  # not the last one, so that best.pt is read
            (folder / name).unlink(missing_ok=True)

        spoil("scores", delete, when=lambda _, split: split == "test")
        if name == "train.log":
            run(folder)
        else:
            assert name in told(run, folder)
        assert checkpoint.read_state(folder / "last.pt", checkpoint.Resumable).epoch == 2


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """36 clips of two arrays, which are the same file."""
    raw = tmp_path_factory.mktemp("folder") / "raw"
    raw.mkdir()
    lines = ["id,label,x,y"]
    random = np.random.default_rng(0)
    for i in range(36):
        np.save(raw / f"{i}.npy", random.normal(i % 3, 1, (8, 8)).astype(np.float32))
        lines.append(f"clip-{i},{i % 3},{i}.npy,{i}.npy")
    (raw / "clips.csv").write_text("\n".join(lines) + "\n")
    return raw


class TestUnderARunningLoader:
    @pytest.fixture
    def prepared(self, tmp_path):
        return write_arrays(tmp_path / "set")

    def batches(self, prepared, workers):
        flags = train.options.parse(["--dataset", str(prepared), "--batch_size", "2"])
        split = train.setup.load_data(flags).splits["train"]
        return iter(loader(split, 2, workers=workers))

    @pytest.mark.parametrize("workers", [0, 1, 2])
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
    def test_files(self, prepared, workers, change, found):
        batches = self.batches(prepared, workers)
        next(batches)
        for path in (prepared / "x").rglob("*.npy"):
            change(path)
        message = told(lambda: list(batches))
        assert found in message and "check the set with code/verify.py" in message

    def test_packed_array_is_cut(self, prepared, tmp_path):
        """Its pages were mapped: reading them where the file has ended would kill the process."""
        packed = np.zeros((36, 64, 64), np.float32)
        np.save(prepared / "all.npy", packed)
        reader, out = Array((64, 64)), np.empty((64, 64), np.float32)
        reader.read(f"{prepared}/all.npy#3", {}, None, out)
        os.truncate(prepared / "all.npy", 20_000)
        message = told(reader.read, f"{prepared}/all.npy#30", {}, None, out)
        assert "check the set with code/verify.py" in message


def replaced(path, array):
    """At once: a process that loads meanwhile would find half a file."""
    np.save(path.with_name("new.npy"), array)
    path.with_name("new.npy").replace(path)


class Interrupted(io.BytesIO):
    """Ctrl-C comes with the second block."""

    def write(self, block) -> int:
        if self.tell():
            raise KeyboardInterrupt
        return super().write(block)


def test_interrupted_while_torch_saves(tmp_path):
    """Of which torch.save makes an error of its own."""
    path = tmp_path / "last.pt"
    state = {"model": torch.ones(1000)}
    tensors.write(path, state)
    with pytest.raises(RuntimeError, match="unexpected pos"):
        torch.save({}, Interrupted())
    with pytest.raises(KeyboardInterrupt):
        writing.write_atomically(path, lambda file: torch.save({}, Interrupted()))
    assert torch.equal(tensors.read(path)["model"], state["model"])
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]
