"""Resuming a run, and skipping steps in which something is not finite."""

from mmpareto.system import tensors

import json
import math
import re
import resource
import shutil
import signal

import pytest
import torch
from balance import cases
from run_files import assert_same_run, read
from sets import contents

from mmpareto.methods import METHODS
from mmpareto.methods.base import Method
from mmpareto.run.scores import Score
from mmpareto.system.errors import UserError
from train import Trainer


@pytest.mark.parametrize(
    ("method", "own"),
    cases(
        *((method, []) for method in METHODS),
        ("gblend", ["--super_epoch", 2]), ("greedy", ["--threshold", 0]),
        ("reconboost", ["--stage_epochs", 2]),
        ("smv", ["--warm_up", 1, "--level", "modality"]), ("opm", ["--warmup_epochs", 0]),
        ("mmpareto", ["--gramian", "adaptive"]),
    ),
)  # fmt: skip
def test_same_as_undisturbed(run, tmp_path, monkeypatch, method, own):
    """The test resumes the folder as it was when the third epoch began."""

    def train_epoch(self):
        if self.epoch == 2 and self.flags.method == method:
            shutil.copytree(self.run.folder, tmp_path / "broken")
        return original(self)

    original = Trainer.train_epoch
    flags = ["--epochs", 4, "--limit_batches", 2, "--lr_decay_step", 3, "--optimizer", "adam", *own]
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_epoch", train_epoch)
        whole = run(*flags, name="whole", method=method)
    assert_same_run(whole, run(*flags, "--resume", name="broken", method=method))


@pytest.mark.parametrize("epoch", [1, 2])
def test_interrupted_in_the_middle(run, done, monkeypatch, epoch):
    def clip(self):
        if self.order.epoch == epoch and self.batches.pop() == 3:
            raise KeyboardInterrupt
        return original(self)

    original = Trainer.clip
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "clip", clip)
        patch.setattr(Trainer, "batches", list(range(6)), raising=False)
        with pytest.raises(KeyboardInterrupt, match=f"after epoch {epoch - 1}; go on"):
            run()
    assert_same_run(done, run("--resume"))


def test_new_folder(run, done):
    assert_same_run(done, run("--resume"))


def test_leftovers_of_a_killed_run(run, copied):
    (copied / "last.pt.tmp").write_bytes(b"half")
    log = copied / "train.log"
    log.write_text(log.read_text() + "Epoch 4/9 half a li")
    (copied / "result.json").unlink()
    run("--resume")
    assert "half" not in log.read_text()
    assert log.read_text().count("Resumed after epoch 2") == 1
    assert not list(copied.glob("*.tmp"))


def test_finished(run, copied, capsys):
    before = {path.name: path.stat().st_mtime_ns for path in copied.iterdir()}
    run("--resume")
    assert before == {path.name: path.stat().st_mtime_ns for path in copied.iterdir()}
    out = capsys.readouterr().out
    assert "is finished" in out and "Result (last)" in out


def test_more_epochs(run, copied):
    assert_same_run(run("--epochs", 3, name="three"), run("--epochs", 3, "--resume"))
    config = json.loads((copied / "config.json").read_text())
    assert config["flags"]["epochs"] == 3
    assert [entry["flags"]["epochs"] for entry in config["earlier"]] == [2]


def something_else(last):
    for path in last.parent.iterdir():
        path.unlink()
    last.with_name("train.log").write_text("of somebody else")


def other_model(last):
    tensors.write(last, {**tensors.read(last), "model": {"encoders.a.weight": torch.ones(3)}})


def late_state(last):
    tensors.write(last, {**tensors.read(last), "method": {"ema": torch.ones(3)}})


def a_best(last):
    last.write_bytes(last.with_name("best.pt").read_bytes())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (something_else, "it holds no run to resume"),
        (other_model, "another architecture"),
        (late_state, "method's state 'ema', .* make it in __init__"),
        (a_best, r"damaged in it: .*optimizer.*: give a run's last.pt"),
        (lambda last: last.write_bytes(last.read_bytes()[:9999]), "damaged, cut off or no check"),
        (lambda last: torch.save({"model": {}, "evil": Method}, last), "only pickle can load"),
        (lambda last: torch.save({"weights": torch.ones(2)}, last), "damaged in it: .*config"),
        (lambda last: last.with_name("epochs.jsonl").unlink(), "epochs.jsonl is missing or short"),
    ],
)
def test_damaged(run, copied, change, message):
    """Nothing is changed either."""
    change(copied / "last.pt")
    before = contents(copied)
    with pytest.raises(UserError, match=message):
        run("--resume", "--epochs", 3)
    assert contents(copied) == before


@pytest.mark.parametrize("is_old", [False, True])
def test_equal_epochs(run, tmp_path, monkeypatch, is_old):
    """The lowest loss is best, also after a resume; a run of an old version keeps the first."""
    losses, folder = [0.6, 0.9, 0.3, 0.3], tmp_path / "broken"

    def scores(self, split):
        if self.epoch == 2 and not folder.exists():
            shutil.copytree(self.run.folder, folder)
        found, loss = original(self, split)
        if split != "val":
            return found, loss
        return found | {"joint": Score(0.5, 0.5)}, losses[self.epoch]

    original = Trainer.scores
    monkeypatch.setattr(Trainer, "scores", scores)
    flags = ["--epochs", 4, "--limit_batches", 1]
    whole = run(*flags, name="whole")
    if is_old:
        last = tensors.read(folder / "last.pt")
        tensors.write(folder / "last.pt", {**last, "best": {"epoch": 1, "Acc": 0.5}})
    resumed = run(*flags, "--resume", name="broken")
    if not is_old:
        assert_same_run(whole, resumed)
    assert tensors.read(resumed / "best.pt")["epoch"] == (1 if is_old else 3)
    shown = re.findall(r"Best Acc 0.5000 (.*?\))", (resumed / "train.log").read_text())
    second = "(1, lowest loss of 2 equal)"
    if is_old:
        assert shown == ["(1)", second, "(1)", "(1)"]
    else:
        assert shown == ["(1)", second, *(f"(3, lowest loss of {n} equal)" for n in (3, 4))]


def test_other_flags(run, copied):
    before = contents(copied)
    for flags, message in (
        (["--gamma", 2], r"other flags \(gamma was 1.5, is 2.0\): repeat"),
        (["--epochs", 1], "holds 2 epochs, --epochs says 1"),
    ):
        with pytest.raises(UserError, match=message):
            run("--resume", *flags)
        assert contents(copied) == before
    (copied / "result.json").unlink()
    with pytest.raises(UserError, match="holds 2 epochs, --epochs says 1"):
        run("--resume", "--epochs", 1)


def test_a_flag_that_the_run_did_not_have(run, copied):
    """The run was trained before there were these flags: it did what their defaults do."""
    config = json.loads((copied / "config.json").read_text())
    del config["flags"]["granularity"], config["flags"]["init_encoder"]
    (copied / "config.json").write_text(json.dumps(config))
    run("--resume")
    with pytest.raises(UserError, match="granularity was encoder, is tensor"):
        run("--resume", "--granularity", "tensor")


def test_file_size_limit(tmp_path, monkeypatch):
    """Write and fail in the middle, as on a full disk."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"x\.pt: cannot be written"):
            tensors.write(tmp_path / "x.pt", {"a": torch.ones(1_000_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert not list(tmp_path.iterdir())


def test_writing_fails(tmp_path, monkeypatch):
    """The old file stays whole, and no half of the new file is left."""
    tensors.write(tmp_path / "x.pt", {"a": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match=r"x.pt: cannot be written \(No space left"):
        tensors.write(tmp_path / "x.pt", {"a": 2})
    assert tensors.read(tmp_path / "x.pt") == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["x.pt"]


@pytest.fixture
def poisoned(monkeypatch):
    """Makes chosen batches of a modality NaN, or huge, while training."""

    def poison(bad, factor=math.nan):
        original, count = Trainer.train_epoch, []

        def train_epoch(self):
            forward = self.method.forward

            def spoiled(batch):
                count.append(1)
                if len(count) in bad:
                    bad_inputs = batch.inputs | {"b": batch.inputs["b"] * factor}
                    batch = batch._replace(inputs=bad_inputs)
                return forward(batch)

            self.method.forward = spoiled
            steps = original(self)
            self.method.forward = forward
            return steps

        monkeypatch.setattr(Trainer, "train_epoch", train_epoch)

    return poison


class TestNotFinite:
    @pytest.mark.parametrize(
        ("method", "factor"),
        [
            *((method, math.nan) for method in ("joint", "unimodal", "uniform", "pareto")),
            ("mmpareto", math.nan),
            ("mmpareto", 1e25),
        ],
    )
    def test_skipped_as_if_it_had_not_been(self, run, poisoned, method, factor):
        """Parameters, BatchNorm and momentum are those of a run that never saw the batch.

        At 1e25 loss and gradient are finite, but BatchNorm's variance would be infinite.
        """
        poisoned({3}, factor)
        folder = run("--epochs", 1, "--limit_batches", 3, method=method)
        without = run("--epochs", 1, "--limit_batches", 2, name="without", method=method)
        a, b = (tensors.read(path / "last.pt") for path in (folder, without))
        assert all(torch.equal(a["model"][k], b["model"][k]) for k in a["model"])
        momentum = [state["optimizer"]["state"] for state in (a, b)]
        assert momentum[0].keys() == momentum[1].keys() != set()
        for param, kept in momentum[0].items():
            assert torch.equal(kept["momentum_buffer"], momentum[1][param]["momentum_buffer"])
        steps = read(folder / "steps.jsonl")
        assert [step["skipped"] for step in steps] == [False, False, True]
        is_finite = steps[-1]["losses"].get("b") is not None
        assert is_finite == (factor == 1e25)
        assert not is_finite or math.isfinite(steps[-1]["loss"] + steps[-1]["grad_norm"])
        assert "  skipped 1  " in (folder / "train.log").read_text()

    def test_too_many_stop_the_run(self, run, poisoned):
        poisoned(set(range(8, 100)))
        with pytest.raises(UserError, match=r"epoch 2, step 5: 4 steps in a row .*joint, b\)"):
            run("--max_skipped", 3)

    def test_count_is_of_steps_in_a_row(self, run, poisoned):
        poisoned({2, 4, 6, 8})
        assert [e["skipped"] for e in read(run("--max_skipped", 1) / "epochs.jsonl")] == [3, 1]
