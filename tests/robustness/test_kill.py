"""Killed at any moment: what is there stays readable, and a second call ends as an undisturbed one.

Every signal hits at a random moment, drawn by a fixed seed, of a command that is really at work.
"""

from mmpareto.system import tensors

import csv
import json
import random
import signal
from itertools import cycle

import forked
import numpy as np
import pytest
import torch
from run_files import rows as log_rows
from sets import contents

from mmpareto.run import checkpoint
from mmpareto.system.lock import NAME as LOCK

pytestmark = pytest.mark.slow

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


@pytest.fixture(scope="module", autouse=True)
def server():
    with pytest.MonkeyPatch.context() as monkeypatch:
        forked.start_server(monkeypatch)


def survive(tmp_path, words, kills, check, compare, group=False, signals=SIGNALS):
    """Kill a command again and again, each time going on, until so many kills have hit it.

    words(folder) is the command; check(folder) after each kill; compare(folder, undisturbed folder)
    where it came to its end.
    """
    whole, log = tmp_path / "whole", tmp_path / "log"
    undisturbed = forked.run(*words(whole), log=log)
    assert undisturbed.code == 0, undisturbed.output
    moment, signals, hits, number = random.Random(kills), cycle(signals), 0, 0
    while True:
        folder = tmp_path / f"broken{number}"
        is_last = hits >= kills
        number_of_signal = 0 if is_last else next(signals)
        after = None if is_last else moment.uniform(0, undisturbed.seconds)
        ended = forked.run(
            *words(folder), signal_=number_of_signal, after=after, group=group, log=log
        )
        assert forked.gone(ended.session), "processes are left"
        assert "Traceback" not in ended.output, ended.output
        if ended.killed and ended.code != 0:
            hits += 1
            assert ended.code in (-number_of_signal, 130), ended.output
            if folder.exists():
                check(folder)
            continue
        assert ended.code == 0, ended.output
        compare(folder, whole)
        if is_last:
            return
        number += 1


def readable(folder):
    for path in folder.rglob("*.pt"):
        assert checkpoint.read_state(path).epoch >= 1


def names(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def same_run(folder, whole):
    """To the bit, but for seconds; and nothing is left lying about."""
    assert names(folder) == names(whole)
    for file in ("last.pt", "best.pt"):
        one, other = (tensors.read(path / file) for path in (folder, whole))
        for state in (one, other):
            state.pop("config")
            state.pop("logs", None)
        assert same(one, other)
    assert log_rows(folder) == log_rows(whole)
    for file in ("steps.jsonl", "epochs.jsonl", "result.json"):
        assert untimed(folder / file) == untimed(whole / file)


def same(one, other):
    if isinstance(one, torch.Tensor):
        bits = one.dtype == other.dtype and one.shape == other.shape
        return bits and one.numpy().tobytes() == other.numpy().tobytes()
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def untimed(path):
    text = path.read_text()
    lines = text.splitlines() if path.suffix == ".jsonl" else [text]
    clocks = ("seconds", "waiting", "seconds_per_epoch")
    return [{k: v for k, v in json.loads(line).items() if k not in clocks} for line in lines]


@pytest.mark.parametrize(
    ("method", "own"),
    [
        ("mmpareto", []),
        ("gradnorm", []),
        ("gblend", ["--super_epoch", 2]),
        ("mmpareto", ["--workers", 1]),
    ],
    ids=str,
)
def test_training(tmp_path, method, own):
    flags = ["--dataset", "toy", "--encoder", "cnn", "--epochs", 5, "--method", method, *own]
    survive(
        tmp_path, lambda folder: ["train", *flags, "--resume", "--out", folder], 9,
        readable, same_run,
    )  # fmt: skip


def test_writing_checkpoints(tmp_path):
    """The file is that of one moment, whole; it exists from the first time on."""
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
    """group: as Ctrl-C and a closing terminal do; else compare.py alone, whose runs end with it."""
    flags = ["--dataset", "toy", "--encoder", "cnn", "--epochs", 2, "--methods", "joint,mmpareto",
             "--seeds", "0", "--jobs", jobs]  # fmt: skip

    def same_table(folder, whole):
        assert names(folder) == names(whole)
        for file in ("table.csv", "runs.csv"):
            assert numbers(folder / file) == numbers(whole / file)
        for path in whole.glob("*-s?"):
            same_run(folder / path.name, path)

    survive(
        tmp_path, lambda folder: ["compare", *flags, "--out", folder], 4, readable,
        same_table, group,
    )  # fmt: skip


def numbers(path):
    with open(path, newline="") as file:
        return [
            {k: v for k, v in row.items() if "seconds_per" not in k and k != "commit"}
            for row in csv.DictReader(file)
        ]


def test_prepare(tmp_path):
    """Ctrl-C is tested on the real command: here its workers are forked by its main thread."""
    raw = tmp_path / "raw"
    raw.mkdir()
    lines = ["id,label,x,y"]
    for i in range(60):
        for name in "xy":
            np.save(raw / f"{i}{name}.npy", np.full((4, 5), i, np.float32))
        lines.append(f"clip-{i},{i % 3},{i}x.npy,{i}y.npy")
    (raw / "clips.csv").write_text("\n".join(lines) + "\n")

    def same_set(folder, whole):
        assert contents(folder) == contents(whole)
        assert names(folder) == names(whole)

    survive(
        tmp_path,
        lambda folder: ["prepare", "folder", "--raw", raw, "--out", folder, "--workers", 2], 9,
        lambda folder: None, same_set, signals=SIGNALS[:2],
    )  # fmt: skip
    assert LOCK not in names(tmp_path / "whole")
