"""One command at a time in a folder."""

import errno
import fcntl
import multiprocessing
import time
from threading import Thread

import pytest

import analyze
import compare
import train
from mmpareto.system.errors import UserError
from mmpareto.system.lock import NAME, TABLES, Lock
from train import Trainer

FLAGS = ["--dataset", "toy", "--encoder", "cnn", "--epochs", "2"]


def test_second_one(tmp_path):
    with Lock(tmp_path):
        with pytest.raises(UserError, match="another command is writing to it: wait"):
            Lock(tmp_path)
        assert (tmp_path / NAME).exists()  # the second one has not removed it
    assert not list(tmp_path.iterdir())


def test_file_of_a_dead_process(tmp_path):
    """A file that nobody has locked is as good as none, for a training, too."""
    (tmp_path / NAME).write_text("")
    with Lock(tmp_path):
        pass
    assert not list(tmp_path.iterdir())
    (tmp_path / NAME).write_text("")
    train.main([*FLAGS, "--out", str(tmp_path)])
    assert (tmp_path / "result.json").exists() and not (tmp_path / NAME).exists()


def test_file_that_is_removed_meanwhile(tmp_path, monkeypatch):
    """Who had the lock removes the file between our opening and our locking it: we start anew."""
    lock, tries = fcntl.flock, []

    def late(file, how):
        tries.append(how)
        if len(tries) == 1:
            (tmp_path / NAME).unlink()
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with Lock(tmp_path):
        assert len(tries) == 2
        with pytest.raises(UserError):
            Lock(tmp_path)


def test_forked_process_does_not_keep_it(tmp_path):
    """As a loading process that lives a moment longer than a killed training."""
    lock = Lock(tmp_path)
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=[60])
    process.start()
    lock.release()
    try:
        with Lock(tmp_path):
            pass
    finally:
        process.kill()
        process.join()
        process.close()


def test_file_system_without_locks(tmp_path, monkeypatch, capsys):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with Lock(tmp_path):
        assert "has no locks (No locks available)" in capsys.readouterr().err


def test_two_trainings(tmp_path, monkeypatch):
    """The second is refused while the first is in its second epoch, which it does not disturb."""
    folder, epoch, refused = tmp_path / "run", Trainer.train_epoch, []

    def meanwhile(self):
        if self.epoch == 1 and not refused:
            before = {p.name: p.read_bytes() for p in folder.iterdir()}
            with pytest.raises(UserError, match=r"another command is writing to it") as error:
                train.main([*FLAGS, "--out", str(folder), "--resume"])
            refused.append(str(error.value))
            assert before == {p.name: p.read_bytes() for p in folder.iterdir()}
        return epoch(self)

    monkeypatch.setattr(Trainer, "train_epoch", meanwhile)
    train.main([*FLAGS, "--out", str(folder)])
    assert refused and (folder / "result.json").exists() and not (folder / NAME).exists()


@pytest.mark.parametrize(
    ("command", "flags", "told"),
    [
        (train, [], "another command"),
        (train, ["--resume"], "another command"),
        (compare, ["--methods", "joint", "--seeds", "0"], r"writing to it: wait .* --collect"),
    ],
)
def test_empty_folder_that_is_taken(tmp_path, command, flags, told):
    with Lock(tmp_path), pytest.raises(UserError, match=told):
        command.main([*FLAGS, *flags, "--out", str(tmp_path)])
    assert not list(tmp_path.iterdir())


def test_an_end_that_is_an_error_gives_it_back(tmp_path, monkeypatch):
    def bad(self):
        raise UserError("bad")

    monkeypatch.setattr(Trainer, "train_epoch", bad)
    with pytest.raises(UserError, match="bad"):
        train.main([*FLAGS, "--out", str(tmp_path)])
    with Lock(tmp_path):
        pass


def test_collecting_while_runs_go_on_and_others_collect(tmp_path):
    """It waits for the other one's table, and not for the runs."""
    command = [*FLAGS, "--methods", "joint", "--seeds", "0", "--out", str(tmp_path)]
    train.main([*FLAGS, "--method", "joint", "--out", str(tmp_path / "joint-s0")])
    other = Lock(tmp_path, tables=True)
    with Lock(tmp_path):
        collecting = Thread(target=compare.main, args=[[*command, "--collect"]])
        collecting.start()
        time.sleep(0.3)
        assert collecting.is_alive() and not (tmp_path / "runs.csv").exists()
        other.release()
        collecting.join(60)
    assert (tmp_path / "table.md").exists()
    assert not [path for path in tmp_path.iterdir() if path.name in (NAME, TABLES)]


def test_two_analyses(tmp_path):
    train.main([*FLAGS, "--out", str(tmp_path / "run")])
    (tmp_path / "page").mkdir()
    command = [str(tmp_path / "run"), "--logs_only", "--out", str(tmp_path / "page")]
    with Lock(tmp_path / "page"), pytest.raises(UserError, match="wait for it, or give another"):
        analyze.main(command)
    assert not list((tmp_path / "page").iterdir())
