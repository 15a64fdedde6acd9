"""Run the shipped scripts as a person runs them."""

from mmpareto.system import tensors

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from forked import gone
from run_files import assert_same_run

from mmpareto.methods import METHODS

ROOT = Path(__file__).resolve().parents[2]
QUICK = ["--encoder", "cnn", "--epochs", "1", "--limit_batches", "2"]

pytestmark = pytest.mark.slow


def sh(*words, cwd, **environment):
    """Runs sh with this test's Python; fails with what the script printed."""
    return subprocess.run(
        ["sh", *map(str, words)], cwd=cwd, capture_output=True, text=True,
        env={**os.environ, "PYTHON": sys.executable, **environment},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("script", "method", "words"),
    [
        # the original's word for --out; of two methods the last one counts
        ("mmpareto", "pareto", ["--ckpt_path", "run", "--method", "pareto"]),
        ("one_joint_loss", "joint", ["--out", "run"]),
        ("uniform_baseline", "uniform", []),
    ],
)
def test_training_scripts(tmp_path, script, method, words):
    """Scripts run from another folder; a relative path in a flag starts in the caller's folder."""
    done = sh(ROOT / "script" / f"{script}.sh", *QUICK, *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (config,) = tmp_path.glob("run/config.json" if words else "runs/*/config.json")
    assert json.loads(config.read_text())["flags"]["method"] == method
    assert words or re.fullmatch(r"cgdigits-uniform-s0-\d{8}-\d{6}-\d{6}", config.parent.name)
    assert "Result (last): test Acc" in done.stdout


def test_claim_script(tmp_path):
    """One of its settings has three arms with five rates and two seeds: 30 commands."""
    words = ["--parts", "tasks", "--print_commands"]
    done = sh(ROOT / "script/claim.sh", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("--dataset multidigits") == 30


def test_field_script(tmp_path):
    """It compares every method that takes any number of modalities."""
    done = sh(ROOT / "script/field.sh", "--encoder", "cnn", "--print_commands", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    methods = re.findall(r"--method (\w+)", done.stdout)
    assert set(methods) == METHODS.keys() - {"aug"}
    assert len(methods) == 12 * 41  # arms: six rates, two seeds each


def test_figure1(tmp_path):
    """The second of two calls trains nothing; --out is refused, because OUT names the folder."""
    script = [ROOT / "script/figure1.sh", *QUICK, "--epochs", "2", "--seeds", "0"]
    for _ in range(2):
        done = sh(*script, cwd=tmp_path, OUT="a folder")
        assert done.returncode == 0, done.stderr
    assert done.stdout.count("finished already") == 1 + 5
    assert "uniform, seed 0, epoch 1: " in done.stdout and "epoch 2: " in done.stdout
    written = {path.name for path in (tmp_path / "a folder/analysis").iterdir()}
    assert {"report.html", "plane.svg", "gradients.png", "cosines-uniform-observe-s0.png"} < written
    refused = sh(*script, "--out", "x", cwd=tmp_path)
    assert refused.returncode == 2 and "say OUT=DIR" in refused.stderr


class TestGPU:
    """sh script/gpu.sh, as far as a machine without a GPU can run it."""

    script = [ROOT / "script/gpu.sh", "--device", "cpu", "--seconds", "0.01", "--batch_size", "1"]

    @pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
    def test_without_one(self, tmp_path):
        done = sh(self.script[0], cwd=tmp_path)
        assert done.returncode == 0 and done.stdout.startswith("skipped: ")
        assert done.stdout.count("\n") == 1 and not list(tmp_path.iterdir())

    def test_lacking_packages_are_named(self, tmp_path):
        (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['psutil'] = None")
        done = sh(*self.script, cwd=tmp_path, PYTHONPATH=str(tmp_path))
        assert done.returncode == 2 and "lacks packages: psutil: install" in done.stderr
        assert done.stdout == "" and not (tmp_path / "runs").exists()

    def test_nothing_is_overwritten(self, tmp_path):
        (tmp_path / "old").write_text("old")
        for out in ("old", "old/new"):
            done = sh(*self.script, cwd=tmp_path, OUT=out)
            assert done.returncode == 2 and f"error: OUT={out}: it exists" in done.stderr
        assert (tmp_path / "old").read_text() == "old"

    def test_interrupted(self, tmp_path):
        """What was found until Ctrl-C is in the file."""
        known = {"cwd": tmp_path, "env": {**os.environ, "OUT": "new", "PYTHON": sys.executable}}
        process = subprocess.Popen(["sh", *self.script], start_new_session=True, **known)
        out = tmp_path / "new"
        wait_for(lambda: out.exists() and "convolutions of fp32" in out.read_text())
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait() == 130 and "test_cuda.py" in out.read_text()
        assert out.read_text().endswith("ended with exit code 130\n")
        assert gone(process.pid)


COMPARE = [ROOT / "script/compare.sh", "--encoder", "cnn", "--epochs", "2", "--limit_batches", "8",
           "--seeds", "0,1", "--methods", "joint,uniform", "--jobs", "2"]  # fmt: skip


def start_compare(folder, cwd, *flags):
    """Start compare.sh in its own process group: a signal then reaches its runs and nobody else."""
    return subprocess.Popen(
        ["sh", *map(str, COMPARE), *flags, "--out", folder], cwd=cwd, text=True,
        env={**os.environ, "PYTHON": sys.executable}, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def numbers(path):
    """Return the rows of a table, without the columns that depend on the moment."""
    with open(path, newline="") as file:
        return [
            {name: row[name] for name in row if not name.startswith(("seconds_per", "peak_bytes"))}
            for row in csv.DictReader(file)
        ]


def test_compare_killed_half_way(tmp_path):
    """A second call computes only what is missing; its table is that of an undisturbed call."""
    whole = sh(*COMPARE, "--out", "whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    first = start_compare("broken", tmp_path)
    results = [tmp_path / f"broken/{name}-s0/result.json" for name in ("joint", "uniform")]
    wait_for(lambda: any(path.exists() for path in results))
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    done_before = {p: p.stat().st_mtime_ns for p in results if p.exists()}
    second = sh(*COMPARE, "--out", "broken", cwd=tmp_path)
    assert second.returncode == 0, second.stderr
    assert second.stdout.count("finished already") == len(done_before) < 4
    assert {path: path.stat().st_mtime_ns for path in done_before} == done_before
    for name in ("table.csv", "runs.csv"):
        assert numbers(tmp_path / "broken" / name) == numbers(tmp_path / "whole" / name)


def test_compare_interrupted(tmp_path):
    """Ctrl-C with two runs at work prints one line, exits 130, leaves no process; it can go on.

    A run that was forked, interrupted and resumed is that of train.py, to the bit.
    """
    process = start_compare("out", tmp_path, "--seeds", "0")
    folders = [tmp_path / "out/joint-s0", tmp_path / "out/uniform-s0"]
    wait_for(lambda: all(epochs(folder) for folder in folders))
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate()
    assert process.returncode == 130
    assert stderr == "interrupted; run the same command to go on\n"
    assert gone(process.pid)
    again = sh(*COMPARE, "--seeds", "0", "--out", "out", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert [row["seeds"] for row in numbers(tmp_path / "out/table.csv")] == ["1", "1"]
    share = max(1, len(os.sched_getaffinity(0)) // 2)
    assert {row["threads"] for row in numbers(tmp_path / "out/runs.csv")} == {str(share)}
    words = COMPARE[1 : COMPARE.index("--seeds")]
    sh(ROOT / "script/uniform_baseline.sh", *words, "--out", "alone", cwd=tmp_path,
       OMP_NUM_THREADS=str(share))  # fmt: skip
    assert_same_run(tmp_path / "alone", tmp_path / "out/uniform-s0")


def test_kill_in_epoch_three_then_resume(tmp_path):
    """After SIGKILL in epoch 3, the resumed run ends bit for bit as the undisturbed one."""
    command = [sys.executable, str(ROOT / "code/train.py"), "--encoder", "cnn", "--epochs", "4"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    subprocess.run([*command, "--out", whole], check=True, capture_output=True)
    process = subprocess.Popen([*command, "--out", broken], stdout=subprocess.DEVNULL)
    wait_for(lambda: (broken / "last.pt").exists() and epochs(broken) >= 2)
    time.sleep(0.2)
    process.kill()
    process.wait()
    assert 2 <= epochs(broken) < 4
    subprocess.run([*command, "--out", broken, "--resume"], check=True, capture_output=True)
    for file, part in (("last.pt", "model"), ("best.pt", "model"), ("last.pt", "optimizer")):
        one, other = (flat(tensors.read(folder / file)[part]) for folder in (whole, broken))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert rows(whole) == rows(broken)


def test_interrupt(tmp_path):
    """Ctrl-C exits with 130 and one line that says how to go on; going on works."""
    command = [sys.executable, str(ROOT / "code/train.py"), "--encoder", "cnn", "--epochs", "3",
               "--out", str(tmp_path / "run")]  # fmt: skip
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: (tmp_path / "run/last.pt").exists())
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate()
    assert process.returncode == 130
    assert re.search(
        r"interrupted after epoch \d; go on with the same flags and --out .* --resume", stderr
    )
    assert "Traceback" not in stderr
    subprocess.run([*command, "--resume"], check=True, capture_output=True)


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler on the CPU")
def test_compile(tmp_path):
    """Losses of the first steps are the same with and without torch's default compiler."""
    losses = []
    for flags in ([], ["--compile"]):
        subprocess.run(
            [sys.executable, str(ROOT / "code/train.py"), *QUICK, *flags,
             "--out", f"run{len(flags)}"],
            cwd=tmp_path, check=True, capture_output=True,
        )  # fmt: skip
        steps = (tmp_path / f"run{len(flags)}/steps.jsonl").read_text().splitlines()
        losses.append([json.loads(step)["loss"] for step in steps])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def flat(state, name=""):
    """Return {path: tensor} of nested dicts, without anything that is no tensor."""
    if isinstance(state, torch.Tensor):
        return {name: state}
    items = state.items() if isinstance(state, dict) else ()
    return {path: t for key, value in items for path, t in flat(value, f"{name}/{key}").items()}


def epochs(folder):
    path = folder / "epochs.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def rows(folder):
    lines = (folder / "train.log").read_text().splitlines()
    kept = [line for line in lines if line.startswith(("Epoch", "Result"))]
    return [re.sub(r"  waiting \d+%  [\d.]+s$", "", line) for line in kept]


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)
