"""Killed at any moment: what is there stays readable, and a second call ends as an undisturbed one.

Every signal hits at a random moment, drawn by a fixed seed, of a command that is really at work.
"""

from mmpareto.system import tensors

import csv
import random
import signal
from itertools import cycle

import forked
import numpy as np
import pytest
from run_files import assert_same_run
from sets import contents

from mmpareto.run import checkpoint
from mmpareto.system.lock import NAME as LOCK

pytestmark = pytest.mark.slow

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
TOY = ("--dataset", "toy", "--encoder", "cnn")


@pytest.fixture(scope="module", autouse=True)
def server():
    with pytest.MonkeyPatch.context() as monkeypatch:
        forked.start_server(monkeypatch)


def survive(tmp_path, words, kills, compare, group=False, signals=SIGNALS):
    """Kill a command again and again, each time going on, until so many kills have hit it.

    words: the command, to which the folder is added; compare(folder, undisturbed folder) where it
    came to its end.
    """
    whole, log = tmp_path / "whole", tmp_path / "log"
    undisturbed = forked.run(*words, whole, log=log)
    assert undisturbed.code == 0, undisturbed.output
    moment, signals, hits, number = random.Random(kills), cycle(signals), 0, 0
    while True:
        folder = tmp_path / f"broken{number}"
        is_last = hits >= kills
        number_of_signal = 0 if is_last else next(signals)
        after = None if is_last else moment.uniform(0, undisturbed.seconds)
        ended = forked.run(
            *words, folder, signal_=number_of_signal, after=after, group=group, log=log
        )
        assert forked.gone(ended.session), "processes are left"
        assert "Traceback" not in ended.output, ended.output
        if ended.killed and ended.code != 0:
            hits += 1
            assert ended.code in (-number_of_signal, 130), ended.output
            for path in folder.rglob("*.pt"):
                assert checkpoint.read_state(path).epoch >= 1
            continue
        assert ended.code == 0, ended.output
        assert names(folder) == names(whole)  # nothing is left lying about
        compare(folder, whole)
        if is_last:
            return
        number += 1


def names(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("method", "kills"),
    [
        (["mmpareto"], 9),
        (["gradnorm"], 9),
        (["gblend", "--super_epoch", 2], 9),
        (["mmpareto", "--workers", 1], 4),
    ],
    ids=str,
)
def test_training(tmp_path, method, kills):
    words = ["train", *TOY, "--epochs", 5, "--method", *method, "--resume", "--out"]
    survive(tmp_path, words, kills, assert_same_run)


def test_writing_checkpoints(tmp_path):
    """The file is always whole, and exists from the first write on."""
    path, moment, found = tmp_path / "x.pt", random.Random(0), []
    for number in (*SIGNALS * 4,):
        ended = forked.run(
            "endless", path, signal_=number, after=moment.uniform(0.1, 0.3), log=tmp_path / "log"
        )
        assert ended.killed and ended.code in (-number, 130), ended.output
        state = tensors.read(path)
        assert (state["a"] == state["i"]).all() and (state["b"]["c"] == state["i"]).all()
        found.append(state["i"])
    assert len(set(found)) > 6


@pytest.mark.parametrize(("jobs", "group"), [(1, False), (2, False), (2, True)])
def test_compare(tmp_path, jobs, group):
    """Kill the group, as a closing terminal does, or compare.py alone, whose runs end with it."""

    def same_table(folder, whole):
        for file in ("table.csv", "runs.csv"):
            assert numbers(folder / file) == numbers(whole / file)
        for path in whole.glob("*-s?"):
            assert_same_run(folder / path.name, path)

    words = ["compare", *TOY, "--epochs", 2, "--methods", "joint,mmpareto", "--seeds", "0",
             "--jobs", jobs, "--out"]  # fmt: skip
    survive(tmp_path, words, 4, same_table, group)


def numbers(path):
    with open(path, newline="") as file:
        return [
            {k: v for k, v in row.items() if not k.startswith(("seconds", "peak_bytes", "commit"))}
            for row in csv.DictReader(file)
        ]


def test_prepare(tmp_path):
    """Ctrl-C is tested on the real command: here its workers are forked by its main thread."""
    raw = tmp_path / "raw"
    raw.mkdir()
    lines = ["id,label,x,y"]
    for i in range(60):
        np.save(raw / f"{i}.npy", np.full((4, 5), i, np.float32))
        lines.append(f"clip-{i},{i % 3},{i}.npy,{i}.npy")
    (raw / "clips.csv").write_text("\n".join(lines) + "\n")

    def same_set(folder, whole):
        assert contents(folder) == contents(whole)

    words = ["prepare", "folder", "--raw", raw, "--workers", 2, "--out"]
    survive(tmp_path, words, 9, same_set, signals=SIGNALS[:2])
    assert LOCK not in names(tmp_path / "whole")
