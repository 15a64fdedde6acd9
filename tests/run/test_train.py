"""The training loop: its folder, its rows, and where it runs."""

from mmpareto.system import tensors

import json
import re
import statistics
import sys
from pathlib import Path

import pytest
import torch
from run_files import read, weights

import train
from mmpareto.run import checkpoint, devices
from mmpareto.run.scores import evaluate
from mmpareto.system.errors import UserError
from train import Trainer

ROW = re.compile(
    r"Epoch \d+/\d+  Loss \d+\.\d{4}  (val|test) Acc [01]\.\d{4}  Acc_a [01]\.\d{4}  "
    r"Acc_b [01]\.\d{4}  Best Acc [01]\.\d{4} \(\d+\)(  conflict \d+%)?(  \w+ \d+)*"
    r"  waiting \d+%  \d+\.\ds"
)


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


def test_evaluation_changes_nothing(tmp_path):
    flags = train.options.parse(["--dataset", "toy", "--encoder", "cnn"])
    trainer = Trainer(flags, train.Run(tmp_path / "run", {}, resume=False))
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    first, second = (
        evaluate(trainer.model, trainer.loaders["test"], trainer.device) for _ in range(2)
    )
    assert first == second
    assert all(torch.equal(before[k], v) for k, v in trainer.model.state_dict().items())


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("flags", [["--device", "cuda"], ["--gpu_ids", "0"]])
def test_no_gpu(flags):
    with pytest.raises(UserError, match=r"finds no usable GPU.*use --device cpu"):
        train.main(["--dataset", "toy", *flags])


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a usable GPU")
def test_a_gpu_that_cannot_be_used_is_named_aloud(monkeypatch, capsys):
    assert devices.pick_device("auto", None).type == "cpu"
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(Path, "glob", lambda folder, pattern: iter(["nvidia0"]))
    assert devices.pick_device("auto", None).type == "cpu"
    assert "TRAINING ON THE CPU" in capsys.readouterr().out


def test_out_under_a_file(tmp_path):
    (tmp_path / "file").write_text("content")
    with pytest.raises(UserError, match="file is a file: give a folder"):
        train.main(["--dataset", "toy", "--out", str(tmp_path / "file" / "run")])
    assert (tmp_path / "file").read_text() == "content"
