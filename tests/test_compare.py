"""compare.py and evaluate.py, on runs of the toy data made in this process."""

import csv
import re
import statistics
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

import compare
import evaluate
import train
from mmpareto import checkpoint
from mmpareto.errors import UserError


@pytest.fixture
def calls(monkeypatch):
    """Runs train.py in this process (where the toy data is known); the list of its calls."""
    made = []

    def run(command, check):
        made.append(command[2:])
        try:
            train.main(command[2:])
        except UserError:
            return SimpleNamespace(returncode=2)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr("mmpareto.runs.commit", lambda: "abc")
    return made


FLAGS = ["--dataset", "toy", "--encoder", "cnn", "--epochs", "1"]


def compared(folder, *flags):
    compare.main([*FLAGS, "--out", str(folder), *flags])
    with open(folder / "comparison.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_table(tmp_path, calls, capsys):
    rows = compared(tmp_path, "--methods", "joint,pareto:scale=2", "--seeds", "0,1,2")
    assert len(calls) == 6 and len(rows) == 12
    assert {row["rule"] for row in rows} == {"best-val", "last"}
    assert {row["commit"] for row in rows} == {"abc"}
    assert {row["torch"] for row in rows} == {torch.__version__}
    assert (tmp_path / "pareto-scale=2-s1" / "result.json").exists()
    table = capsys.readouterr().out.split("mean and standard deviation over seeds")[1]
    mine = [100 * float(r["Acc"]) for r in rows if r["method"] == "joint" and r["rule"] == "last"]
    expected = f"{statistics.mean(mine):.1f} +- {statistics.stdev(mine):.1f}"
    assert re.search(rf"joint +3 +{re.escape(expected)}", table)
    assert re.search(r"pareto:scale=2 +3 .* \d+\.\d%", table)


def test_settings_reach_the_method(tmp_path, calls):
    compared(tmp_path, "--methods", "mmpareto:gamma=2:granularity=tensor", "--seeds", "0")
    config = checkpoint.read(tmp_path / "mmpareto-gamma=2-granularity=tensor-s0/last.pt")["config"]
    assert (config["gamma"], config["granularity"]) == (2.0, "tensor")


def test_nothing_is_computed_twice(tmp_path, calls, capsys):
    first = compared(tmp_path, "--methods", "joint", "--seeds", "0,1")
    second = compared(tmp_path, "--methods", "joint,uniform", "--seeds", "0,1")
    assert len(calls) == 4
    assert [row for row in second if row["method"] == "joint"] == first
    assert "joint, seed 1: finished already" in capsys.readouterr().out


def test_last_epoch_of_finished_runs(tmp_path, calls, capsys):
    compared(tmp_path, "--methods", "joint", "--seeds", "0")
    compared(tmp_path, "--methods", "joint", "--seeds", "0", "--select", "last")
    assert len(calls) == 1
    assert "last epoch, mean" in capsys.readouterr().out


def test_another_number_of_epochs(tmp_path, calls):
    """Runs of different lengths never meet in one table."""
    compared(tmp_path, "--methods", "joint", "--seeds", "0", "--epochs", "2")
    with pytest.raises(UserError, match="holds 2 epochs, --epochs says 1"):
        compared(tmp_path, "--methods", "joint,uniform", "--seeds", "0", "--epochs", "1")
    longer = compared(tmp_path, "--methods", "joint", "--seeds", "0", "--epochs", "3")
    assert {row["epoch"] for row in longer if row["rule"] == "last"} == {"3"}


def test_other_flags_in_the_same_folder(tmp_path, calls):
    compared(tmp_path, "--methods", "joint", "--seeds", "0")
    with pytest.raises(UserError, match=r"learning_rate was 0.05, is 0.5"):
        compared(tmp_path, "--methods", "joint", "--seeds", "0", "--learning_rate", "0.5")


def test_failures_are_reported_at_the_end(tmp_path, calls, monkeypatch, capsys):
    original = train.main

    def fail(arguments):
        if "uniform" in arguments:
            raise UserError("diverged")
        original(arguments)

    monkeypatch.setattr(train, "main", fail)
    with pytest.raises(UserError, match=r"1 of 2 runs failed: uniform seed 0 \(exit 2\)"):
        compared(tmp_path, "--methods", "uniform,joint", "--seeds", "0")
    assert re.search(r"joint +1 ", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--methods", "joint,nonsense"], "unknown method 'nonsense'"),
        (["--methods", "joint:gamma=2"], "--gamma acts only with --method mmpareto"),
        (["--methods", "joint,joint"], "one is given twice"),
        (["--seeds", "one"], "'one' is not a whole number from 0 to 4294967295"),
        (["--method", "joint"], "--method: compare.py sets it itself"),
    ],
)
def test_bad_input_starts_nothing(tmp_path, calls, flags, message):
    with pytest.raises(UserError, match=re.escape(message)):
        compared(tmp_path / "out", *flags)
    assert not calls and not (tmp_path / "out").exists()


class TestEvaluate:
    @pytest.fixture
    def folder(self, tmp_path):
        train.main([*FLAGS, "--out", str(tmp_path / "run")])
        return tmp_path / "run"

    def test_same_scores_as_training(self, folder, capsys):
        log = (folder / "train.log").read_text()
        trained = re.search(r"Result \(last\): test Acc (\S+)  Acc_a (\S+)  Acc_b (\S+)", log)
        capsys.readouterr()
        evaluate.main([str(folder / "last.pt"), "--batch_size", "7"])
        out = capsys.readouterr().out
        assert "toy test, 48 of 48 samples; mmpareto, seed 0, epoch 1" in out
        scores = re.findall(r"^(joint|a|b) +(\S+) +(\S+)$", out, re.MULTILINE)
        assert [accuracy for _, accuracy, _ in scores] == list(trained.groups())

    def test_validation_split(self, folder, capsys):
        evaluate.main([str(folder / "best.pt"), "--split", "val"])
        assert "toy val, 40 of 40 samples" in capsys.readouterr().out

    def test_unknown_split(self, folder):
        with pytest.raises(UserError, match="--split dev: toy has train, val, test"):
            evaluate.main([str(folder / "best.pt"), "--split", "dev"])

    def test_missing_checkpoint(self, tmp_path):
        with pytest.raises(UserError, match=r"nothing.pt: no such file"):
            evaluate.main([str(tmp_path / "nothing.pt")])

    def test_another_architecture(self, folder):
        state = checkpoint.read(folder / "last.pt")
        state["config"]["encoder"] = ["resnet18"]
        checkpoint.write(folder / "last.pt", state)
        with pytest.raises(UserError, match="another architecture"):
            evaluate.main([str(folder / "last.pt")])

    def test_as_a_command(self, folder):
        """Without a checkpoint: one line, exit 2."""
        command = [sys.executable, evaluate.__file__, str(folder / "config.json")]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 2
        assert done.stderr.startswith("error: checkpoint ") and done.stderr.count("\n") == 1
