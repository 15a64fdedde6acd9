"""Going on with a run, and steps that are skipped because something is not finite."""

from mmpareto.system import tensors

import json
import math
import subprocess
import sys

import pytest
import torch
from run_files import assert_same_run, read

from mmpareto.methods import METHODS
from mmpareto.methods.base import Method
from mmpareto.system.errors import UserError
from mmpareto.system.paths import REPOSITORY
from train import Trainer


class TestResume:
    @pytest.fixture
    def interrupted(self, run, monkeypatch):
        """Stops training in the middle of an epoch."""

        def stop(epoch, *flags, **settings):
            original = Trainer.clip

            def clip(self):
                is_copy = self.flags.method != self.run.config["method"]
                if self.epoch == epoch - 1 and self.order.epoch == epoch and not is_copy:
                    self.count = getattr(self, "count", 0) + 1
                    if self.count == 3:
                        raise KeyboardInterrupt
                return original(self)

            monkeypatch.setattr(Trainer, "clip", clip)
            with pytest.raises(KeyboardInterrupt, match=f"after epoch {epoch - 1}; go on"):
                run(*flags, **settings)
            monkeypatch.setattr(Trainer, "clip", original)

        return stop

    @pytest.mark.parametrize(
        ("method", "own"),
        [(method, []) for method in METHODS]
        + [("gblend", ["--super_epoch", 2]), ("greedy", ["--threshold", 0])],
        ids=str,
    )
    def test_same_as_undisturbed(self, run, interrupted, method, own):
        flags = ["--epochs", 4, "--lr_decay_step", 2, "--optimizer", "adam", *own]
        whole = run(*flags, name="whole", method=method)
        interrupted(3, *flags, name="broken", method=method)
        assert_same_run(whole, run(*flags, "--resume", name="broken", method=method))

    def test_before_the_first_checkpoint(self, run, interrupted):
        whole = run(name="whole")
        interrupted(1, name="broken")
        assert_same_run(whole, run("--resume", name="broken"))

    def test_new_folder(self, run):
        assert_same_run(run(name="plain"), run("--resume", name="resumed"))

    def test_leftovers_of_a_killed_run(self, run):
        flags = ["--epochs", 3]
        folder = run(*flags)
        (folder / "last.pt.tmp").write_bytes(b"half")
        log = folder / "train.log"
        log.write_text(log.read_text() + "Epoch 4/9 half a li")
        (folder / "result.json").unlink()
        run(*flags, "--resume")
        assert "half" not in log.read_text()
        assert log.read_text().count("Resumed after epoch 3") == 1
        assert not list(folder.glob("*.tmp"))

    def test_finished(self, run, capsys):
        folder = run()
        before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
        capsys.readouterr()
        run("--resume")
        assert before == {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
        out = capsys.readouterr().out
        assert "is finished" in out and "Result (last)" in out

    def test_more_epochs(self, run):
        run()
        assert_same_run(run("--epochs", 3, name="three"), run("--epochs", 3, "--resume"))

    def test_a_folder_of_something_else(self, run, tmp_path):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "train.log").write_text("of somebody else")
        with pytest.raises(UserError, match="it holds no run to resume"):
            run("--resume")
        assert (tmp_path / "run" / "train.log").read_text() == "of somebody else"

    def test_other_flags(self, run):
        folder = run()
        before = (folder / "last.pt").read_bytes()
        with pytest.raises(UserError, match=r"other flags \(gamma was 1.5, is 2.0\): repeat"):
            run("--resume", "--gamma", 2)
        assert (folder / "last.pt").read_bytes() == before

    def test_another_architecture(self, run):
        folder = run()
        state = tensors.read(folder / "last.pt")
        state["model"] = {"encoders.a.weight": torch.ones(3)}
        tensors.write(folder / "last.pt", state)
        (folder / "result.json").unlink()
        log = (folder / "train.log").read_text()
        with pytest.raises(UserError, match="another architecture"):
            run("--resume")
        assert (folder / "train.log").read_text() == log

    def test_cut_off(self, run):
        folder = run()
        content = (folder / "last.pt").read_bytes()
        (folder / "last.pt").write_bytes(content[: len(content) // 2])
        with pytest.raises(UserError, match="damaged, cut off or no checkpoint"):
            run("--resume", "--epochs", 3)

    def test_pickle(self, run):
        folder = run()
        torch.save({"model": {}, "evil": Method}, folder / "last.pt")
        with pytest.raises(UserError, match="only pickle can load"):
            run("--resume", "--epochs", 3)

    def test_foreign_checkpoint(self, run):
        folder = run()
        torch.save({"weights": torch.ones(2)}, folder / "last.pt")
        with pytest.raises(UserError, match=r"last.pt: missing or damaged in it: .*config"):
            run("--resume", "--epochs", 3)

    def test_best_is_no_last(self, run):
        folder = run()
        (folder / "last.pt").write_bytes((folder / "best.pt").read_bytes())
        with pytest.raises(UserError, match=r"damaged in it: .*optimizer.*: give a run's last.pt"):
            run("--resume", "--epochs", 3)

    def test_lost_log(self, run):
        folder = run()
        (folder / "epochs.jsonl").unlink()
        with pytest.raises(UserError, match=r"epochs.jsonl is missing or shorter than"):
            run("--resume", "--epochs", 3)

    @pytest.mark.parametrize("finished", [True, False])
    def test_fewer_epochs(self, run, finished):
        folder = run()
        if not finished:
            (folder / "result.json").unlink()
        with pytest.raises(UserError, match="holds 2 epochs, --epochs says 1"):
            run("--resume", "--epochs", 1)

    def test_earlier_settings_are_kept(self, run):
        run()
        config = json.loads((run("--resume", "--epochs", 3) / "config.json").read_text())
        assert config["flags"]["epochs"] == 3
        assert [entry["flags"]["epochs"] for entry in config["earlier"]] == [2]

    def test_file_size_limit(self, tmp_path):
        """A write that fails in the middle, as on a full disk."""
        code = (
            "import resource, signal, sys, torch; sys.path.insert(0, 'code');"
            "from mmpareto.system import tensors; from pathlib import Path;"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000));"
            f"tensors.write(Path({str(tmp_path / 'x.pt')!r}), {{'a': torch.ones(1_000_000)}})"
        )
        root = REPOSITORY
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=root, capture_output=True, text=True
        )
        assert "UserError" in done.stderr and "x.pt: cannot be written" in done.stderr
        assert not list(tmp_path.iterdir())

    def test_writing_fails(self, tmp_path, monkeypatch):
        """The old file stays, and no half of the new one."""
        tensors.write(tmp_path / "x.pt", {"a": 1})

        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("os.fsync", full)
        with pytest.raises(UserError, match=r"x.pt: cannot be written \(No space left"):
            tensors.write(tmp_path / "x.pt", {"a": 2})
        assert tensors.read(tmp_path / "x.pt") == {"a": 1}
        assert [path.name for path in tmp_path.iterdir()] == ["x.pt"]


class TestNotFinite:
    @pytest.fixture
    def poisoned(self, monkeypatch):
        """Makes chosen batches of a modality NaN, or huge, while training."""

        def poison(bad, factor=math.nan):
            original, count = Trainer.train_epoch, []

            def train_epoch(self):
                forward = self.method.forward

                def spoiled(inputs):
                    count.append(1)
                    if len(count) in bad:
                        inputs = inputs | {"b": inputs["b"] * factor}
                    return forward(inputs)

                self.method.forward = spoiled
                steps = original(self)
                self.method.forward = forward
                return steps

            monkeypatch.setattr(Trainer, "train_epoch", train_epoch)

        return poison

    @pytest.mark.parametrize("method", ["joint", "unimodal", "uniform", "pareto", "mmpareto"])
    def test_skipped_as_if_it_had_not_been(self, run, poisoned, method, monkeypatch):
        """Parameters, BatchNorm and momentum are those of a run that never saw the batch."""
        poisoned({6})
        folder = run("--epochs", 1, method=method)
        without = run("--epochs", 1, "--limit_batches", 5, name="without", method=method)
        a, b = (tensors.read(path / "last.pt") for path in (folder, without))
        assert all(torch.equal(a["model"][k], b["model"][k]) for k in a["model"])
        momentum = [state["optimizer"]["state"] for state in (a, b)]
        assert momentum[0].keys() == momentum[1].keys() != set()
        for param, kept in momentum[0].items():
            assert torch.equal(kept["momentum_buffer"], momentum[1][param]["momentum_buffer"])
        steps = read(folder / "steps.jsonl")
        assert [step["skipped"] for step in steps] == [False] * 5 + [True]
        assert steps[-1]["losses"].get("b") is None
        assert "  skipped 1  " in (folder / "train.log").read_text()

    def test_statistics_that_overflow(self, run, poisoned, monkeypatch):
        """Loss and gradient are finite, but BatchNorm's variance would be infinite from then on."""
        poisoned({6}, 1e25)
        folder = run("--epochs", 1)
        without = run("--epochs", 1, "--limit_batches", 5, name="without")
        a, b = (tensors.read(path / "last.pt")["model"] for path in (folder, without))
        assert all(torch.equal(a[k], b[k]) for k in a)
        step = read(folder / "steps.jsonl")[-1]
        assert step["skipped"] and math.isfinite(step["loss"] + step["grad_norm"])

    def test_too_many_stop_the_run(self, run, poisoned):
        poisoned(set(range(8, 100)))
        with pytest.raises(UserError, match=r"epoch 2, step 5: 4 steps in a row .*joint, b\)"):
            run("--max_skipped", 3)

    def test_count_is_of_steps_in_a_row(self, run, poisoned):
        poisoned({2, 4, 6, 8})
        assert [e["skipped"] for e in read(run("--max_skipped", 1) / "epochs.jsonl")] == [3, 1]
