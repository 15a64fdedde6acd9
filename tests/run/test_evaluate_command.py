"""evaluate.py as a command: the scores are those of the training, and bad input is one line."""

from mmpareto.system import tensors

import re
import subprocess
import sys

import pytest
from test_compare import FLAGS

import evaluate
import train
from mmpareto.system.errors import UserError


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
        evaluate.main([str(folder / "best.pt"), "--part", "val"])
        assert "toy val, 40 of 40 samples" in capsys.readouterr().out

    def test_unknown_split(self, folder):
        with pytest.raises(UserError, match="--part dev: toy has train, val, test"):
            evaluate.main([str(folder / "best.pt"), "--part", "dev"])

    def test_missing_checkpoint(self, tmp_path):
        with pytest.raises(UserError, match=r"nothing.pt: no such file"):
            evaluate.main([str(tmp_path / "nothing.pt")])

    def test_another_architecture(self, folder):
        state = tensors.read(folder / "last.pt")
        state["config"]["encoder"] = ["resnet18"]
        tensors.write(folder / "last.pt", state)
        with pytest.raises(UserError, match="another architecture"):
            evaluate.main([str(folder / "last.pt")])

    def test_as_a_command(self, folder):
        """Without a checkpoint: one line, exit 2."""
        command = [sys.executable, evaluate.__file__, str(folder / "config.json")]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 2
        assert done.stderr.startswith("error: checkpoint ") and done.stderr.count("\n") == 1
