"""Raw files to accuracy through the shipped commands, as a stranger types them.

The class decides picture and sound of the synthetic clips, so that a path which loses either, or
mixes up labels, falls to chance.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import field
import pytest
from sets import SMALL, write_folder, write_food101

import verify
from mmpareto.benchmarks import synthetic
from mmpareto.datasets.kinetics_sounds import CLASSES as SOUNDS
from mmpareto.datasets.modelnet40 import CLASSES as OBJECTS

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


def run(*words, cwd):
    done = subprocess.run(
        list(map(str, words)), cwd=cwd, capture_output=True, text=True,
        env={**os.environ, "PYTHON": sys.executable},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def check(dataset, classes, cwd, *flags, prepare=(), modalities=("audio", "visual")):
    """Prepare, verify, train with MMPareto and evaluate; accuracies against chance."""
    out = run("sh", ROOT / f"script/prepare_{dataset}.sh", "--raw", "raw", "--out", "set",
              *prepare, cwd=cwd)  # fmt: skip
    assert "OK       tables" in out
    verify.main([str(cwd / "set"), "--full"])
    settings = ["--encoder", "cnn", "--batch_size", "16", "--learning_rate", "0.02",
                "--image_size", "64", "--workers", "1", "--epochs", "8", *flags]  # fmt: skip
    shell, script, *words = out.splitlines()[-1].split()[1:]  # as prepare.py says
    assert words == ["--dataset", "set"]
    run(shell, ROOT / script, *words, "--out", "run", *settings, cwd=cwd)
    recipe = json.loads((cwd / "set/metadata.json").read_text())["recipe_hash"]
    assert f"recipe {recipe}" in (cwd / "run/train.log").read_text()
    out = run(sys.executable, ROOT / "code/evaluate.py", "run/last.pt", cwd=cwd)
    scores = {
        name: float(accuracy) for name, accuracy in re.findall(r"^(\w+) +(0\.\d+|1\.0+)", out, re.M)
    }
    assert scores.keys() == {"joint", *modalities}
    assert scores["joint"] >= 3 / classes, scores
    assert all(scores[name] >= 2 / classes for name in modalities), scores
    return out


def test_cremad(tmp_path):
    synthetic.write_cremad(tmp_path / "raw", 108, size=SMALL)
    check("cremad", 6, tmp_path, "--split", "random")
    assert json.loads((tmp_path / "set/metadata.json").read_text())["splits"] == ["group", "random"]


def test_kinetics_sounds(tmp_path):
    """The clips come from the mirror's archive, the lists have the published form."""
    classes = (0, 4, 8, 12, 16, 20, 24, 28)
    ids = {id: SOUNDS[classes[i % 8]] for i, id in enumerate(synthetic.kinetics_ids(96))}
    synthetic.write_kinetics_archive(tmp_path / "raw/train/part_0.tar.gz", ids, seconds=2.0)
    lines = [f"{id},10,{SOUNDS.index(label)}\r\n" for id, label in ids.items()]
    (tmp_path / "train.txt").write_text("".join(lines[:72]))
    (tmp_path / "test.txt").write_text("".join(lines[72:]))
    out = check("kinetics_sounds", 8, tmp_path, "--epochs", "10",
                prepare=("--lists", "train.txt", "test.txt"))  # fmt: skip
    assert "kinetics_sounds test, 24 of 24 samples" in out


def test_modelnet40(tmp_path):
    synthetic.write_modelnet(tmp_path / "raw", OBJECTS[::8], {"train": 16, "test": 4})
    check("modelnet40", 5, tmp_path, modalities=("front", "rear"))


@pytest.mark.parametrize(
    ("dataset", "front", "method"), [("mosi", True, "mmpareto"), ("mosei", False, "uniform")]
)
def test_sentiment(tmp_path, dataset, front, method):
    content, _ = field.sentiment(front=front, parts={"train": 120, "valid": 16, "test": 48})
    field.write_sentiment(tmp_path / "raw/it.pkl", content)
    check(dataset, 7, tmp_path, "--encoder", "gru", "--method", method,
          prepare=("--labels", "seven"), modalities=tuple(field.FEATURES))  # fmt: skip
    header = "Labels   seven: -3, -2, -1, 0, 1, 2, 3"
    assert header in (tmp_path / "run/train.log").read_text()


def test_ucf101(tmp_path):
    """The default split is the first published one; a group is nowhere in two parts."""
    actions = ("Archery", "Biking", "Diving", "HandstandPushups", "PlayingCello", "YoYo")
    field.write_ucf(tmp_path / "raw", actions, range(1, 26))
    out = check("ucf101", 6, tmp_path, modalities=("rgb", "flow"))
    assert "ucf101 test, 42 of 42 samples" in out
    log = (tmp_path / "run/train.log").read_text()
    assert "Split    split1" in log and "Groups   0 of 12 in val also in train" in log


def test_food101(tmp_path):
    write_food101(tmp_path / "raw", 96)
    flags = ("--encoder", "image=cnn", "text=transformer", "--epochs", "12")
    check("food101", 4, tmp_path, *flags, modalities=("image", "text"))


def test_three_modalities_of_ones_own(tmp_path):
    """Video, sound and array: from a CSV file to accuracy without a line of code."""
    write_folder(tmp_path / "raw", 108, classes=("ant", "bee", "cat", "dog", "emu", "fox"))
    run("sh", ROOT / "script/prepare_folder.sh", "--raw", "raw", "--out", "own", cwd=tmp_path)
    out = run("sh", ROOT / "script/mmpareto.sh", "--dataset", "own", "--epochs", "8",
              "--batch_size", "16", "--learning_rate", "0.02", "--image_size", "64",
              "--encoder", "film=cnn", "voice=cnn", "--out", "run", cwd=tmp_path)  # fmt: skip
    scores = dict(re.findall(r"(Acc\w*) ([\d.]+)", out[out.rindex("\nResult") :]))
    assert scores.keys() == {"Acc", "Acc_film", "Acc_voice", "Acc_pose"}
    assert float(scores["Acc"]) >= 3 / 6
    assert all(float(accuracy) >= 2 / 6 for accuracy in scores.values()), scores
