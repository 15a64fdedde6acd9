"""The training loop: its folder, its rows, and where it runs."""

from mmpareto.system import tensors

import json
import re
import resource
import shlex
import statistics
import sys
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, mmap
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from run_files import read, weights
from sets import contents

import evaluate as command
import train
from mmpareto.run import checkpoint, devices
from mmpareto.run.scores import evaluate
from mmpareto.system.errors import UserError
from train import Trainer

ROW = re.compile(
    r"Epoch \d+/\d+  Loss \d+\.\d{4}  (val|test) Acc [01]\.\d{4}  Acc_a [01]\.\d{4}  "
    r"Acc_b [01]\.\d{4}  Best Acc [01]\.\d{4} \(\d+(, lowest loss of \d+ equal)?\)"
    r"(  conflict \d+%)?(  \w+ \d+)*  waiting \d+%  \d+\.\ds"
)


def trainer_of(folder, *words):
    flags = train.options.parse(["--dataset", "toy", "--encoder", "cnn", *words])
    return Trainer(flags, train.Run(folder, {}, resume=False))


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
        assert f"Folder   {folder}\n" in log
        last = log.splitlines()[-1]
        assert last.startswith("Evaluate ")
        command.main(shlex.split(last)[3:])
        assert f"epoch {results[0][24]}\n" in capsys.readouterr().out
        assert results[1].startswith("Result (last): test Acc ")

    def test_numbers(self, done):
        steps = read(done / "steps.jsonl")
        assert [(s["epoch"], s["step"]) for s in steps] == [
            (e, i) for e in (1, 2) for i in range(1, 7)
        ]
        conflicts = []
        for step in steps:
            assert step["loss"] == pytest.approx(sum(step["losses"].values()), rel=1e-5)
            for stats in step["encoders"].values():
                assert stats["conflict"] == (stats["cos"] <= 0)
                assert stats["joint_weight"] + stats["unimodal_weight"] == pytest.approx(2)
                assert stats["scale"] >= 1.5 - 1e-9
                conflicts.append(stats["conflict"])
        result = json.loads((done / "result.json").read_text())
        assert result["selected"] == "best-val"
        assert set(result["results"]) == {"best-val", "last"}
        assert result["results"]["last"]["epoch"] == 2
        assert result["conflict"] == pytest.approx(statistics.mean(conflicts))
        state = tensors.read(done / "last.pt")
        learned = [x for name, x in state["model"].items() if not re.search("running|num_", name)]
        assert result["parameters"] == sum(x.numel() for x in learned)
        assert result["peak_bytes"] > 2**20
        expected = {"model", "optimizer", "scheduler", "method", "rng", "epoch", "config"}
        assert expected <= set(state)
        assert state["epoch"] == 2 and state["config"]["method"] == "mmpareto"

    def test_accuracy_is_of_the_whole_test_split(self, run, tmp_path):
        """The test recomputes it from 48 samples in one batch; training used batches of 20."""
        folder = run("--batch_size", 20, "--epochs", 1)
        result = json.loads((folder / "result.json").read_text())["results"]["last"]
        trainer = trainer_of(tmp_path / "other")
        trainer.model.load_state_dict(weights(folder))
        split = trainer.data.splits["test"]
        output = trainer.model.eval()(split.inputs)
        assert len(split) == 48
        for name, logits in (("Acc", output.joint), ("Acc_b", output.unimodal["b"])):
            right = (logits.argmax(1) == split.targets).float().mean()
            assert result[name] == pytest.approx(float(right))

    def test_peak_memory(self, monkeypatch):
        """It grows by what is held beyond the last peak, and stays when that is freed."""
        cpu, size = torch.device("cpu"), 2**25
        before = devices.peak_memory(cpu)
        now = psutil.Process().memory_info()
        room = before - (now.rss - now.shared)  # what can be held without a new peak
        # New pages: memory that tests before this one have freed would not add to the peak.
        held = mmap(-1, room + size, MAP_PRIVATE | MAP_ANONYMOUS)
        np.frombuffer(held, np.uint8)[:: resource.getpagesize()] = 1
        grown = devices.peak_memory(cpu)
        assert size / 2 < grown - before < 2 * size
        del held
        assert devices.peak_memory(cpu) > before + size / 2
        monkeypatch.setattr(Path, "read_text", lambda path: "")
        assert devices.peak_memory(cpu) >= grown  # elsewhere files' pages count, too

    def test_without_msgspec(self, run, monkeypatch):
        """Only reading a run's files back needs it, so that a bare server can train."""
        monkeypatch.setitem(sys.modules, "msgspec", None)
        assert (run("--epochs", 1) / "result.json").exists()
        with pytest.raises(UserError, match="needs a package: run pip install msgspec"):
            run("--resume")

    def test_two_runs_in_one_folder(self, tmp_path):
        """The second one to start is refused, although neither saw a folder before."""
        folder = tmp_path / "run"
        runs = [train.Run(folder, {"use_tensorboard": False}, resume=False) for _ in range(2)]
        data = checkpoint.DataRecord("", [], "")
        runs[0].start(["first"], data)
        with pytest.raises(UserError, match="another run has just taken it"):
            runs[1].start(["second"], data)
        assert (folder / "train.log").read_text() == "first\n"

    def test_names_that_cannot_be(self, run, tmp_path):
        (tmp_path / "file").write_text("content")
        with pytest.raises(UserError, match=r"--tensorboard_path .* cannot be used"):
            run("--use_tensorboard", "--tensorboard_path", tmp_path / "file" / "board")
        with pytest.raises(UserError, match="file is a file: give a folder"):
            run(name="file/run")
        with pytest.raises(UserError, match=r"cannot be created .*too long"):
            run(name="x" * 300)
        assert contents(tmp_path) == {"file": b"content"} and len(list(tmp_path.iterdir())) == 1

    def test_used_folder(self, run, copied):
        """A folder with other people's files is refused too, even if their names look like ours."""
        for told in ("holds a run: add --resume", "is not empty: give another --out"):
            before = contents(copied)
            with pytest.raises(UserError, match=told):
                run()
            assert contents(copied) == before
            for path in copied.iterdir():
                path.unlink()
            (copied / "thesis.tmp").write_text("years of work")

    def test_what_a_method_decides_by(self, run):
        """AGM's measures are recorded for each step, and as the epoch's mean."""
        folder = run("--epochs", 1, method="agm")
        (epoch,), steps = read(folder / "epochs.jsonl"), read(folder / "steps.jsonl")
        assert steps[0]["measures"].keys() == {"kappa_a", "kappa_b"}
        kappas = [step["measures"]["kappa_a"] for step in steps]
        assert epoch["kappa_a"] == pytest.approx(statistics.mean(kappas))

    def test_without_the_validation_split_that_a_method_needs(self, run, tmp_path):
        with pytest.raises(UserError, match="--method gblend needs a validation split, and toy"):
            run("--dataset", "toy_without_val", method="gblend")
        assert not (tmp_path / "run").exists()

    def test_on_a_terminal(self, run, monkeypatch, capsys):
        """Lines break at its width, between their parts; lines of the log do not break."""
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        monkeypatch.setenv("COLUMNS", "80")
        monkeypatch.setattr(sys, "argv", ["code/train.py"])  # a long path would not break
        log = (run("--epochs", 1) / "train.log").read_text()
        shown = capsys.readouterr().out
        assert shown.split() == log.split() and "\033" not in shown
        lines = [x for x in shown.splitlines() if not x.startswith(("Folder", "Evaluate"))]
        assert 70 < max(map(len, lines)) <= 80
        row = next(i for i, line in enumerate(lines) if line.startswith("Epoch 1/1"))
        assert re.fullmatch(r"Epoch .* Acc_b [01]\.\d{4}", lines[row])
        assert re.match(r" {9}Best Acc [01]\.\d{4} \(\d\)  conflict", lines[row + 1])

    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore")
    def test_wandb(self, run, monkeypatch):
        """Offline, beside TensorBoard: the same numbers by the same names; resumed by one id."""
        wandb = pytest.importorskip("wandb")
        monkeypatch.setenv("WANDB_MODE", "offline")
        found, log = [], wandb.Run.log
        monkeypatch.setattr(wandb.Run, "log", lambda self, x: (found.append(x), log(self, x)))
        folder = run("--use_wandb", "--epochs", 1)
        known = (folder / "wandb.id").read_text()
        run("--use_wandb", "--resume", "--use_tensorboard")
        assert (folder / "wandb.id").read_text() == known
        files = list((folder / "wandb").glob("offline-run-*/*.wandb"))
        assert {file.name for file in files} == {f"run-{known}.wandb"}
        assert b"train/b/unimodal_weight" in b"".join(file.read_bytes() for file in files)
        epochs = read(folder / "epochs.jsonl")
        rows = [row for row in found if "train/loss" in row]
        for name, key in {"val/Acc": "Acc", "train/loss": "loss", "val/F1_a": "F1_a"}.items():
            assert [row[name] for row in rows] == [epoch[key] for epoch in epochs]
        assert sum(any(name.startswith("result (") for name in row) for row in found) == 4

    @pytest.mark.slow
    def test_wandb_without_a_key(self, run, monkeypatch, tmp_path):
        wandb = pytest.importorskip("wandb")

        def init(dir, **_):
            (dir / "wandb").mkdir()
            raise wandb.errors.UsageError("No API key configured.")

        monkeypatch.setattr(wandb, "init", init)
        with pytest.raises(UserError, match=r"--use_wandb cannot begin .*run wandb login, or set"):
            run("--use_wandb")
        assert not (tmp_path / "run").exists()

    def test_no_wandb(self, run, monkeypatch, tmp_path):
        monkeypatch.setattr("mmpareto.run.boards.find_spec", lambda name: None)
        with pytest.raises(UserError, match="--use_wandb needs a package: run pip install wandb"):
            run("--use_wandb")
        assert not (tmp_path / "run").exists()

    def test_tensorboard(self, run):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        folder = run("--use_tensorboard")
        events = EventAccumulator(str(folder / "tensorboard"))
        events.Reload()
        epochs = read(folder / "epochs.jsonl")
        names = {"val/Acc": "Acc", "train/loss": "loss", "val/F1_a": "F1_a"}
        names["val/split_loss"] = "split_loss"
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


@pytest.mark.parametrize("dataset", ["toy", "toy_tasks"])
def test_evaluation_changes_nothing(tmp_path, dataset):
    """And its loss is the mean over all samples, and over tasks."""
    trainer = trainer_of(tmp_path / "run", "--dataset", dataset)
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    asked = trainer.model, trainer.loaders["test"], trainer.device
    found = evaluate(*asked)
    assert found == evaluate(*asked)
    assert all(torch.equal(before[k], v) for k, v in trainer.model.state_dict().items())
    inputs, targets = trainer.data.splits["test"].read(range(48), 0)
    output = trainer.model.eval()(inputs)
    joint = [output.joint] if dataset == "toy" else output.unimodal.values()
    parts = zip(joint, targets.reshape(48, -1).unbind(1), strict=True)
    losses = [torch.nn.functional.cross_entropy(*part).item() for part in parts]
    assert found[1] == pytest.approx(statistics.mean(losses), rel=1e-5)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
class TestWithoutGPU:
    @pytest.mark.parametrize("flags", [["--device", "cuda"], ["--gpu_ids", "0"]])
    def test_asked_for(self, flags):
        with pytest.raises(UserError, match=r"finds no usable GPU.*use --device cpu"):
            train.main(["--dataset", "toy", *flags])

    def test_one_that_cannot_be_used_is_named_aloud(self, monkeypatch, capsys):
        assert devices.pick_device("auto", None).type == "cpu"
        assert capsys.readouterr().out == ""
        monkeypatch.setattr(Path, "glob", lambda folder, pattern: iter(["nvidia0"]))
        assert devices.pick_device("auto", None).type == "cpu"
        assert "TRAINING ON THE CPU" in capsys.readouterr().out
