"""The training loop: its folder, its rows, resuming, skipped steps, and every flag that acts."""

from mmpareto.system import entry as cli
from mmpareto.system import tensors

import json
import math
import re
import statistics
import subprocess
import sys

import pytest
import torch

import train
from mmpareto.methods import METHODS
from mmpareto.methods.base import Method
from mmpareto.run import checkpoint, devices
from mmpareto.run.scores import evaluate
from mmpareto.system.errors import UserError
from mmpareto.system.paths import REPOSITORY
from train import Trainer

ROW = re.compile(
    r"Epoch \d+/\d+  Loss \d+\.\d{4}  (val|test) Acc [01]\.\d{4}  Acc_a [01]\.\d{4}  "
    r"Acc_b [01]\.\d{4}  Best Acc [01]\.\d{4} \(\d+\)(  conflict \d+%)?(  \w+ \d+)*"
    r"  waiting \d+%  \d+\.\ds"
)


@pytest.fixture
def run(tmp_path):
    """Trains on the toy data in a folder; returns the folder."""

    def main(*flags, name="run", method="mmpareto"):
        folder = tmp_path / name
        train.main(["--dataset", "toy", "--encoder", "cnn", "--method", method,
                    "--out", str(folder), *map(str, flags)])  # fmt: skip
        return folder

    return main


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def rows(folder):
    """The epochs' rows and results of a log, without times and the number of epochs."""
    lines = (folder / "train.log").read_text().splitlines()
    kept = [line for line in lines if line.startswith(("Epoch", "Result"))]
    return [re.sub(r"(/\d+)|(  waiting \d+%  [\d.]+s$)", "", line) for line in kept]


def weights(folder, file="last.pt"):
    return tensors.read(folder / file)["model"]


def assert_same_run(one, other):
    for file in ("last.pt", "best.pt"):
        a, b = weights(one, file), weights(other, file)
        assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    a, b = (tensors.read(folder / "last.pt")["method"] for folder in (one, other))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k].nan_to_num(-1.0), b[k].nan_to_num(-1.0)) for k in a)
    assert rows(one) == rows(other)
    for log in ("steps.jsonl", "epochs.jsonl"):
        drop = {"seconds": None, "waiting": None}
        assert [x | drop for x in read(one / log)] == [x | drop for x in read(other / log)]


class TestFolder:
    def test_files(self, run, capsys):
        folder = run()
        assert {path.name for path in folder.iterdir()} == {
            "config.json", "train.log", "epochs.jsonl", "steps.jsonl", "last.pt", "best.pt",
            "result.json",
        }  # fmt: skip
        log = (folder / "train.log").read_text()
        captured = capsys.readouterr()
        assert captured.out == log and captured.err == ""  # no bar where nobody watches
        assert "recipe" in log and "Command  python" in log and "seed 0" in log
        epochs = [line for line in log.splitlines() if line.startswith("Epoch")]
        assert all(0 < row["waiting"] < 1 for row in read(folder / "epochs.jsonl"))
        assert len(epochs) == 2 and all(ROW.fullmatch(row) for row in epochs)
        results = [line for line in log.splitlines() if line.startswith("Result")]
        assert re.fullmatch(r"Result \(best-val, epoch \d\): test Acc .*", results[0])
        assert results[1].startswith("Result (last): test Acc ")

    def test_steps(self, run):
        steps = read(run() / "steps.jsonl")
        assert [(s["epoch"], s["step"]) for s in steps] == [
            (e, i) for e in (1, 2) for i in range(1, 7)
        ]
        for step in steps:
            assert step["loss"] == pytest.approx(sum(step["losses"].values()), rel=1e-5)
            for stats in step["encoders"].values():
                assert stats["conflict"] == (stats["cos"] <= 0)
                assert stats["joint_weight"] + stats["unimodal_weight"] == pytest.approx(2)
                assert stats["scale"] >= 1.5 - 1e-9

    def test_result(self, run):
        folder = run()
        result = json.loads((folder / "result.json").read_text())
        assert result["selected"] == "best-val"
        assert set(result["results"]) == {"best-val", "last"}
        assert result["results"]["last"]["epoch"] == 2
        steps = [
            s["conflict"]
            for step in read(folder / "steps.jsonl")
            for s in step["encoders"].values()
        ]
        assert result["conflict"] == pytest.approx(sum(steps) / len(steps))

    def test_accuracy_is_of_the_whole_test_split(self, run):
        """Recomputed by hand, 48 samples in batches of 16."""
        folder = run("--batch_size", 20)
        result = json.loads((folder / "result.json").read_text())["results"]["last"]
        flags = train.options.parse(
            [
                "--dataset",
                "toy",
                "--encoder",
                "cnn",
                "--out",
                str(folder / "x"),
                "--batch_size",
                "20",
            ]
        )
        trainer = Trainer(flags, train.Run(flags.out, {}, resume=False))
        trainer.model.load_state_dict(weights(folder))
        trainer.model.eval()
        split = trainer.data.splits["test"]
        output = trainer.model(split.inputs)
        assert len(split) == 48
        right = (output.joint.argmax(1) == split.targets).float().mean()
        assert result["Acc"] == pytest.approx(float(right))
        assert result["Acc_b"] == pytest.approx(
            float((output.unimodal["b"].argmax(1) == split.targets).float().mean())
        )

    def test_checkpoints_hold_what_a_run_needs(self, run):
        state = tensors.read(run() / "last.pt")
        expected = {"model", "optimizer", "scheduler", "method", "rng", "epoch", "config"}
        assert expected <= set(state)
        assert state["epoch"] == 2 and state["config"]["method"] == "mmpareto"

    def test_folders_of_files_that_are_not_ours(self, run, tmp_path):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "thesis.tmp").write_text("years of work")
        with pytest.raises(UserError, match="not empty"):
            run()
        assert (tmp_path / "run" / "thesis.tmp").read_text() == "years of work"

    def test_without_msgspec(self, run, monkeypatch):
        """Only reading a run's files back needs it, so that a bare server can train."""
        monkeypatch.setitem(sys.modules, "msgspec", None)
        assert (run() / "result.json").exists()
        with pytest.raises(UserError, match="needs a package: run pip install msgspec"):
            run("--resume")

    def test_two_runs_in_one_folder(self, run, tmp_path):
        """The second one to start is refused, though both saw no folder before."""
        folder = tmp_path / "run"
        runs = [train.Run(folder, {"use_tensorboard": False}, resume=False) for _ in range(2)]
        data = checkpoint.DataRecord("", [], "")
        runs[0].start(["first"], data)
        with pytest.raises(UserError, match="another run has just taken it"):
            runs[1].start(["second"], data)
        assert (folder / "train.log").read_text() == "first\n"

    def test_tensorboard_path_that_cannot_be(self, run, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(UserError, match=r"--tensorboard_path .* cannot be used"):
            run("--use_tensorboard", "--tensorboard_path", tmp_path / "file" / "board")
        assert not (tmp_path / "run").exists()

    def test_name_that_is_too_long(self, run):
        with pytest.raises(UserError, match=r"cannot be created .*too long"):
            run(name="x" * 300)

    def test_used_folder(self, run):
        folder = run()
        before = {path.name: path.read_bytes() for path in folder.iterdir()}
        with pytest.raises(UserError, match="not empty: give another one, or --resume"):
            run()
        assert before == {path.name: path.read_bytes() for path in folder.iterdir()}

    def test_what_a_method_decides_by(self, run):
        """Step by step, and as the epoch's mean."""
        folder = run(method="agm")
        steps, epochs = read(folder / "steps.jsonl"), read(folder / "epochs.jsonl")
        assert steps[0]["measures"].keys() == {"kappa_a", "kappa_b"}
        first = [step["measures"]["kappa_a"] for step in steps if step["epoch"] == 1]
        assert epochs[0]["kappa_a"] == pytest.approx(sum(first) / len(first))

    def test_without_the_validation_split_that_a_method_needs(self, run, tmp_path):
        with pytest.raises(UserError, match="--method gblend needs a validation split, and toy"):
            run("--dataset", "toy_without_val", method="gblend")
        assert not (tmp_path / "run").exists()

    def test_on_a_terminal(self, run, monkeypatch, capsys):
        """Lines end where its width does, between their parts; the log's do not."""
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        monkeypatch.setenv("COLUMNS", "80")
        monkeypatch.setattr(sys, "argv", ["code/train.py"])  # a long path would not break
        log = (run() / "train.log").read_text()
        shown = capsys.readouterr().out
        assert shown.split() == log.split() and "\033" not in shown
        lines = shown.splitlines()
        assert 70 < max(map(len, lines)) <= 80
        row = next(i for i, line in enumerate(lines) if line.startswith("Epoch 2/2"))
        assert re.fullmatch(r"Epoch .* Acc_b [01]\.\d{4}", lines[row])
        assert re.match(r" {9}Best Acc [01]\.\d{4} \(\d\)  conflict", lines[row + 1])

    def test_tensorboard(self, run):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        folder = run("--use_tensorboard")
        events = EventAccumulator(str(folder / "tensorboard"))
        events.Reload()
        epochs = read(folder / "epochs.jsonl")
        names = {"val/Acc": "Acc", "train/loss": "loss", "val/F1_a": "F1_a"}
        expected = {tag: [epoch[name] for epoch in epochs] for tag, name in names.items()}
        steps = read(folder / "steps.jsonl")
        for field in ("cos", "conflict", "unimodal_weight"):
            expected[f"train/b/{field}"] = [
                statistics.mean(s["encoders"]["b"][field] for s in steps if s["epoch"] == epoch)
                for epoch in (1, 2)
            ]
        results = json.loads((folder / "result.json").read_text())["results"]
        expected["result (last)/Acc_a"] = [results["last"]["Acc_a"]]
        for tag, wanted in expected.items():
            values = [event.value for event in events.Scalars(tag)]
            assert values == pytest.approx(wanted, rel=1e-5), tag


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


class TestFlags:
    """Every flag acts."""

    def first_steps(self, run, *flags, method="mmpareto", name="flags"):
        return read(run("--epochs", 1, *flags, name=name, method=method) / "steps.jsonl")

    def test_same_seed_same_run_with_any_number_of_workers(self, run):
        one = run("--workers", 0, name="none")
        for workers in (1, 2):
            assert_same_run(one, run("--workers", workers, name=str(workers)))
        assert_same_run(one, run("--deterministic", name="three"))
        torch.use_deterministic_algorithms(False)

    def test_seed(self, run):
        a = self.first_steps(run, name="a")
        b = self.first_steps(run, "--random_seed", 1, name="b")
        assert a[0]["loss"] != b[0]["loss"]

    def test_window(self, run):
        """Outside it OGM-GE is the joint loss, whose noise and damping are nothing."""
        joint = run("--epochs", 2, method="joint", name="joint")
        for window, same in (("3-9", True), ("2-9", False)):
            folder = run("--epochs", 2, "--window", window, method="ogm_ge", name=window)
            one, other = (read(f / "steps.jsonl") for f in (folder, joint))
            assert one[0]["loss"] == other[0]["loss"]
            assert (one[-1]["loss"] == other[-1]["loss"]) == same

    @pytest.mark.parametrize("window", ["5", "0-3", "4-3", "1-", "a-b", "1-2-3"])
    def test_window_that_is_none(self, run, window):
        with pytest.raises(UserError, match=f"'{window}' is no range of epochs: give FIRST-LAST"):
            run("--window", window, method="agm")

    def test_lr_decay(self, run):
        folder = run("--epochs", 4, "--lr_decay_step", 2, "--lr_decay_ratio", 0.5)
        state = tensors.read(folder / "last.pt")["optimizer"]
        assert state["param_groups"][0]["lr"] == 0.05 / 4
        constant = run("--epochs", 3, name="constant")
        state = tensors.read(constant / "last.pt")["optimizer"]
        assert state["param_groups"][0]["lr"] == 0.05

    @pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
    def test_optimizer(self, run, optimizer):
        folder = run("--optimizer", optimizer, "--weight_decay", 0.3, "--epochs", 1)
        state = tensors.read(folder / "last.pt")["optimizer"]["param_groups"][0]
        assert state["weight_decay"] == 0.3
        assert ("momentum" in state) == (optimizer == "sgd")
        assert state["lr"] == (0.05 if optimizer == "sgd" else 0.001)

    def test_clip(self, run):
        """The first step is the clipped gradient times the learning rate, in length."""
        one_step = ["--limit_batches", 1, "--epochs", 1, "--weight_decay", 0]
        start = weights(run(*one_step, "--learning_rate", 1e-30, name="start"))
        lengths = {}
        for norm in (1e6, 1e-2):
            after = weights(run(*one_step, "--clip_grad", norm, name=f"clip{norm}"))
            moved = [after[k] - start[k] for k in start if k.endswith(("weight", "bias"))]
            lengths[norm] = float(torch.cat([x.flatten() for x in moved]).norm())
        assert lengths[1e-2] == pytest.approx(0.05 * 1e-2, rel=1e-3)
        assert lengths[1e6] > 10 * lengths[1e-2]

    def test_accumulate(self, run, monkeypatch):
        """Two batches of 8 make the step that one batch of 16 makes, BatchNorm aside."""
        monkeypatch.setattr(torch.nn.BatchNorm2d, "forward", lambda self, x: x)
        one_step = ["--epochs", 1, "--weight_decay", 0]
        whole = run(*one_step, "--limit_batches", 1, name="whole")
        flags = ["--batch_size", 8, "--accumulate", 2, "--limit_batches", 2]
        parts = run(*one_step, *flags, name="parts")
        a, b = weights(whole), weights(parts)
        for name in a:
            torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-6)
        assert len(read(parts / "steps.jsonl")) == 1

    def test_accumulate_needs_enough_samples(self, run):
        with pytest.raises(UserError, match=r"--batch_size 16 --accumulate 7: .*112 samples"):
            run("--accumulate", 7)

    def test_train_size(self, run):
        assert len(self.first_steps(run, "--train_size", 40)) == 2

    def test_limit_batches(self, run):
        folder = run("--limit_batches", 2, "--epochs", 1)
        assert len(read(folder / "steps.jsonl")) == 2
        accuracy = read(folder / "epochs.jsonl")[0]["Acc"] * 32
        assert accuracy == pytest.approx(round(accuracy))

    @pytest.mark.parametrize("method", list(METHODS))
    def test_bf16(self, run, method):
        plain = self.first_steps(run, name="plain", method=method)
        half = self.first_steps(run, "--precision", "bf16", name="half", method=method)
        assert plain[0]["loss"] != half[0]["loss"]
        assert plain[0]["loss"] == pytest.approx(half[0]["loss"], rel=0.05)

    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize("method", ["uniform", "mmpareto"])
    def test_compile(self, run, method, monkeypatch):
        compiled = torch.compile
        monkeypatch.setattr(torch, "compile", lambda model: compiled(model, backend="aot_eager"))
        plain = self.first_steps(run, "--limit_batches", 2, name="plain", method=method)
        fast = self.first_steps(
            run, "--limit_batches", 2, "--compile", name="compiled", method=method
        )
        for a, b in zip(plain, fast, strict=True):
            assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)

    def test_select_best_test(self, run):
        folder = run("--select", "best-test", "--epochs", 3)
        result = json.loads((folder / "result.json").read_text())
        epochs = read(folder / "epochs.jsonl")
        best = max(epochs, key=lambda epoch: epoch["Acc"])
        assert result["selected"] == "best-test"
        assert result["results"]["best-test"]["Acc"] == best["Acc"]
        assert result["results"]["best-test"]["epoch"] == best["epoch"]
        assert all(" test Acc" in row for row in rows(folder))

    def test_select_last(self, run):
        folder = run("--select", "last")
        assert json.loads((folder / "result.json").read_text())["selected"] == "last"

    def test_best_is_of_the_best_epoch(self, run):
        folder = run("--epochs", 6, "--learning_rate", 0.5)  # jumps about
        epochs = read(folder / "epochs.jsonl")
        best = max(epochs, key=lambda epoch: epoch["Acc"])
        assert tensors.read(folder / "best.pt")["epoch"] == best["epoch"]

    def test_without_validation_split(self, run):
        folder = run("--dataset", "toy_without_val")
        result = json.loads((folder / "result.json").read_text())
        assert result["selected"] == "last" and set(result["results"]) == {"last"}
        assert all(" test Acc" in row for row in rows(folder))

    def test_names_match_without_case(self):
        flags = train.options.parse(["--dataset", "CGDigits", "--method", "MMPareto"])
        assert (flags.dataset, flags.method, flags.fusion) == ("cgdigits", "mmpareto", "concat")

    @pytest.mark.parametrize("second", [[], ["--encoder"]])
    def test_encoder_for_one_modality(self, second):
        choices = ["--encoder", "cnn", *second, "a=resnet18"]
        flags = train.options.parse(["--dataset", "toy", *choices])
        trainer = Trainer(flags, train.Run(flags.out, {}, resume=False))
        assert [type(e).__name__ for e in trainer.model.encoders.values()] == ["ResNet18", "CNN"]

    def test_released_settings_where_a_dataset_says_nothing(self, monkeypatch):
        from toys import Toy

        monkeypatch.setattr(Toy, "defaults", {})
        flags = train.options.parse(["--dataset", "toy"])
        assert (flags.epochs, flags.batch_size, flags.learning_rate) == (50, 64, 0.002)
        assert (flags.momentum, flags.weight_decay, flags.lr_decay_step) == (0.9, 1e-4, None)
        assert (flags.method, flags.gamma, flags.granularity) == ("mmpareto", 1.5, "encoder")


def test_evaluation_changes_nothing(tmp_path):
    flags = train.options.parse(["--dataset", "toy", "--encoder", "cnn"])
    trainer = Trainer(flags, train.Run(tmp_path / "run", {}, resume=False))
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    first, second = (
        evaluate(trainer.model, trainer.loaders["test"], trainer.device) for _ in range(2)
    )
    assert first == second
    assert all(torch.equal(before[k], v) for k, v in trainer.model.state_dict().items())


BAD_INPUT = [
    ("--method mmparetto", "unknown method 'mmparetto' (did you mean mmpareto?): choose one of"),
    ("--dataset mnist", "unknown dataset 'mnist'"),
    ("--fusion cat", "unknown fusion 'cat'"),
    ("--encoder vgg", "unknown encoder 'vgg'"),
    ("--encoder sound=cnn", "--encoder sound=cnn: toy has no modality 'sound', only a, b"),
    ("--nonsense 3", "unknown flag --nonsense"),
    ("stray", "'stray' belongs to no flag"),
    ("--method joint --gamma 2", "--gamma acts only with --method uniform or --method mmpareto"),
    ("--no_probes", "--no_probes acts only with --method joint or --method unimodal"),
    ("--train", "--train is a flag of the original scripts"),
    ("--model x", "choose --method, --fusion and --encoder"),
    ("--n_classes=6", "the number of classes comes from the dataset"),
    ("--epochs -3", "--epochs: '-3' is not a positive whole number"),
    ("--epochs 2.5", "'2.5' is not a positive whole number"),
    ("--learning_rate nan", "'nan' is not a positive number"),
    ("--momentum 1", "'1' is not a number in [0, 1)"),
    ("--gamma 0", "'0' is not a positive number"),
    ("--granularity layer", "--granularity: invalid choice: 'layer'"),
    ("--momentum 0.5 --optimizer adam", "--momentum acts only with --optimizer sgd, not adam"),
    ("--lr_decay_ratio 0.5", "--lr_decay_ratio acts only with --lr_decay_step"),
    ("--tensorboard_path x", "--tensorboard_path acts only with --use_tensorboard"),
    ("--batch_size 105", "one step needs 105 samples, the training split has 104"),
    ("--train_size 3", "--train_size 3: the training split has 104 samples of 4 classes"),
    ("--dataset cgmnist --data_root nowhere", "nowhere: MNIST's files were not found"),
    ("--limit_batches 1 --accumulate 2", "one step needs --accumulate 2 batches"),
    ("--dataset cgdigits --data_root x", "--data_root: cgdigits is built in"),
    ("--dataset cgdigits --num_classes 1", "--num_classes: invalid choice: 1"),
    ("--dataset cgdigits --noise 2", "'2' is not a number in [0, 1]"),
    ("--random_seed 4294967296", "'4294967296' is not a whole number from 0 to 4294967295"),
    ("--batch_size 1", "--batch_size 1: Expected more than 1 value per channel"),
    ("--gpu_ids 0,1", "--gpu_ids 0,1: one process trains on one GPU"),
    ("--pretrained nothing.pt", "--pretrained nothing.pt: no such file"),
]  # fmt: skip


@pytest.mark.parametrize(("flags", "message"), BAD_INPUT)
def test_bad_input_is_one_line(flags, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["train.py", "--dataset", "toy", *flags.split()])
    with pytest.raises(SystemExit) as exit:
        cli.run(train.main)
    assert exit.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ") and message in captured.err
    assert captured.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("flags", [["--device", "cuda"], ["--gpu_ids", "0"]])
def test_no_gpu(flags):
    with pytest.raises(UserError, match=r"finds no usable GPU.*use --device cpu"):
        train.main(["--dataset", "toy", *flags])


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a usable GPU")
def test_a_gpu_that_cannot_be_used_is_named_aloud(monkeypatch, capsys):
    assert devices.pick_device("auto", None).type == "cpu"
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(devices, "_nvidia_devices", lambda: ["nvidia0"])
    assert devices.pick_device("auto", None).type == "cpu"
    assert "TRAINING ON THE CPU" in capsys.readouterr().out


def test_out_under_a_file(tmp_path):
    (tmp_path / "file").write_text("content")
    with pytest.raises(UserError, match="file is a file: give a folder"):
        train.main(["--dataset", "toy", "--out", str(tmp_path / "file" / "run")])
    assert (tmp_path / "file").read_text() == "content"


def test_help_shows_every_part(capsys):
    with pytest.raises(SystemExit) as exit:
        train.main(["--help"])
    assert exit.value.code == 0
    out = capsys.readouterr().out
    for word in ("--gamma", "--granularity", "--scale", "--no_probes", "with --dataset cgdigits"):
        assert word in out
