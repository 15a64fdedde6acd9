"""Several processes do what one does, with gloo on the CPU, in float64.

Most tests fork what torchrun would start, which imports torch anew for every process.
"""

from mmpareto.system import tensors

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import forked
import pytest
import ranks
import torch

from mmpareto.core import distributed
from mmpareto.data.batches import ShuffledBatches, consecutive
from mmpareto.methods import METHODS
from mmpareto.run.devices import synchronised
from mmpareto.system.errors import UserError

CODE = Path(__file__).resolve().parents[2] / "code"
BALANCED = {  # method: its own flags, so that what is its own happens in 18 steps
    **dict.fromkeys(METHODS, ""),
    "greedy": "--threshold 0 --balancing_steps 2", "gblend": "--super_epoch 2",
    "smv": "--warm_up 1", "opm": "--warmup_epochs 0", "cml --compare batch": "",
    "lfm --schedule minnorm": "--accumulate 2",
    "mmpareto --gramian features": "", "pcgrad --gramian features": "",
    "mmpareto --gramian adaptive": "",
    "uniform --gamma 1.5 --accumulate 2 --clip_grad 0.5": "", "mmpareto --accumulate 2": "",
    # fewer batches than processes, in evaluation, too
    "mmpareto --limit_batches 2": "", "gblend --limit_batches 2": "--super_epoch 2",
    "rlw --accumulate 2": "", "torchjd --aggregator GradDrop": "",
    "uniform --dataset lacking": "--accumulate 2", "mmpareto --dataset lacking": "",
    "dwa --dataset lacking": "", "gblend --dataset lacking": "--super_epoch 2",
    "uniform --class_weights balanced --modality_dropout 0.3": "--accumulate 2",
    "half": "--accumulate 2", "balanced": "--accumulate 2",  # the methods that the pages add
}  # fmt: skip
LOOSE = {"greedy": 1e-3}  # held gates have the mean of a process's own share until the epoch ends


def launched(*words, **more):
    """Two processes of train.py, started by torchrun."""
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone",
         "--nproc_per_node", "2", CODE / "train.py", *words],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more,
    )  # fmt: skip


def together(*words, code=0):
    process = launched(*words)
    out, _ = process.communicate(timeout=300)
    assert (process.returncode == 0) == (code == 0), out
    return out


def lines_of(methods, folder):
    file = folder.parent / f"{folder.name}.flags"
    common = "--epochs 3 --batch_size 16 --device cpu"
    file.write_text("".join(
        f"--method {method} {BALANCED[method]} {common} --out '{folder / method}'\n"
        for method in methods
    ))  # fmt: skip
    return file


def assert_same_runs(one, other, tolerance=1e-9):
    a, b = (tensors.read(folder / "last.pt") for folder in (one, other))
    assert a["model"].keys() == b["model"].keys()
    for name, value in a["model"].items():
        torch.testing.assert_close(value, b["model"][name], rtol=tolerance, atol=tolerance)
    for name, value in a["method"].items():
        torch.testing.assert_close(
            value, b["method"][name], rtol=tolerance, atol=tolerance, equal_nan=True
        )
    found = [
        [json.loads(line) for line in (folder / "epochs.jsonl").read_text().splitlines()]
        for folder in (one, other)
    ]
    assert len(found[0]) == len(found[1]) == a["epoch"]
    for x, y in zip(*found, strict=True):
        assert x["loss"] == pytest.approx(y["loss"], rel=max(tolerance, 1e-6))
        if tolerance < 1e-6:
            assert x.keys() == y.keys()
            scores = [key for key in x if key.startswith(("Acc", "F1", "conflict"))]
            assert [x[key] for key in scores] == [y[key] for key in scores]


@pytest.fixture
def run_ranks(monkeypatch):
    """So many processes run the lines of a file of flags; returns what they say."""
    forked.start_server(monkeypatch)
    return lambda processes, file: forked.together(processes, "ranks", file, logs=file.parent)


FEW = ["mmpareto", "mmpareto --gramian adaptive", "pmr", "ogm_ge", "gradnorm", "half"]


@pytest.mark.parametrize(
    ("methods", "processes"),
    [
        (FEW, 2),
        pytest.param([*BALANCED], 4, marks=pytest.mark.slow),
    ],
    ids=["few-2", "all-4"],
)
def test_several_processes_are_one(tmp_path, run_ranks, methods, processes):
    ranks.main([lines_of(methods, tmp_path / "alone")])
    out = run_ranks(processes, lines_of(methods, tmp_path / "shared"))
    runs = len(methods) + len({"umt", "g2d"} & {*methods})  # their teachers are a run, too
    assert len(re.findall("^Result", out, re.MULTILINE)) == 2 * runs  # one log
    for method in methods:
        assert_same_runs(
            tmp_path / "alone" / method, tmp_path / "shared" / method, LOOSE.get(method, 1e-9)
        )


class TestTrainInProcesses:
    FLAGS = ("--encoder", "cnn", "--device", "cpu", "--train_size", "128", "--batch_size", "32")

    @pytest.mark.slow
    def test_resumed_with_other_numbers_of_processes(self, tmp_path, run_ranks):
        ranks.main([lines_of(["gradnorm"], tmp_path / "alone")])
        text = lines_of(["gradnorm"], tmp_path / "changing").read_text()
        for epochs, processes in ((1, 2), (2, 4), (3, 1)):
            part = tmp_path / "part.flags"
            part.write_text(text.replace("--epochs 3", f"--resume --epochs {epochs}"))
            run_ranks(processes, part)
        assert_same_runs(tmp_path / "alone/gradnorm", tmp_path / "changing/gradnorm")

    @pytest.mark.slow
    def test_a_rank_that_dies_ends_the_job(self, tmp_path):
        """With a message; --resume goes on after the last whole epoch."""
        out = tmp_path / "run"
        words = [*self.FLAGS, "--epochs", "400", "--out", str(out)]
        process = launched(*words, start_new_session=True)
        try:
            for _ in range(600):
                if (out / "last.pt").exists():
                    break
                time.sleep(0.2)
            children = subprocess.run(
                ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True
            ).stdout.split()
            os.kill(int(children[-1]), signal.SIGKILL)
            text, _ = process.communicate(timeout=60)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        assert process.returncode != 0
        assert "SIGKILL" in text or "has lost the others of its run" in text
        done = len((out / "epochs.jsonl").read_text().splitlines())
        words[words.index("400")] = str(done + 2)
        text = together(*words, "--resume")
        assert "Resumed after epoch" in text and "Result (last)" in text

    @pytest.mark.slow
    def test_bad_input(self, tmp_path):
        text = together(*self.FLAGS[:-1], "33", "--out", tmp_path / "run", code=2)
        assert "2 processes cannot share the batch equally: give a multiple of 2" in text
        assert f'File "{CODE}' not in text  # no stack trace of ours
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize(
        ("device", "message"),
        [("cpu", "on CUDA GPUs only, not on cpu"), ("cuda", "acts only in several processes")],
    )
    def test_sync_bn(self, device, message):
        with pytest.raises(UserError, match=message):
            synchronised(torch.nn.Module(), torch.device(device))


class TestShares:
    @pytest.fixture(params=[1, 2, 3, 4])
    def size(self, request, monkeypatch):
        monkeypatch.setattr(distributed, "size", lambda: request.param)
        return request.param

    def of_ranks(self, size, monkeypatch, batches):
        for rank in range(size):
            monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
            yield [indices for indices, _ in batches()]

    def test_evaluation_is_complete_and_without_duplicates(self, size, monkeypatch):
        parts = self.of_ranks(size, monkeypatch, lambda: consecutive(23, 5))
        indices = [i for part in parts for batch in part for i in batch]
        assert sorted(indices) == list(range(23))

    def test_training_is_shared_equally(self, size, monkeypatch):
        batches = ShuffledBatches(50, 12, seed=3)
        parts = list(self.of_ranks(size, monkeypatch, lambda: batches))
        monkeypatch.setattr(distributed, "size", lambda: 1)
        monkeypatch.setattr(distributed, "rank", lambda: 0)
        whole = [indices for indices, _ in batches]
        for step, indices in enumerate(whole):
            shares = [part[step] for part in parts]
            assert {len(share) for share in shares} == {12 // size}
            assert sorted(i for share in shares for i in share) == sorted(indices)
