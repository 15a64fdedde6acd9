"""compare.py and evaluate.py, on runs of the toy data made in this process."""

from mmpareto.system import tensors

import csv
import json
import os
import re
import shlex
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from math import sqrt
from pathlib import Path

import pytest
import torch

import compare
import evaluate
import train
from mmpareto.results import choice, figures, jobs, plans, saved, table
from mmpareto.results.plans import Comparison
from mmpareto.run import devices
from mmpareto.system.errors import UserError


@pytest.fixture
def calls(monkeypatch):
    """Runs train.py in this process (where the toy data is known); the list of its calls."""
    made = []

    class InProcess:
        def __init__(self, command, environment, log=None):
            made.append(command[2:])
            self.code, self.said = 0, ""
            try:
                train.main(command[2:])
            except UserError as error:
                self.code, self.said = 2, str(error)

        def poll(self):
            return self.code

        def last_line(self):
            return self.said

    monkeypatch.setattr(jobs, "Child", InProcess)
    monkeypatch.setattr("mmpareto.run.environment.commit", lambda: "abc")
    return made


FLAGS = ["--dataset", "toy", "--encoder", "cnn", "--epochs", "1"]


def compared(folder, *flags, file="runs.csv"):
    compare.main([*FLAGS, "--out", str(folder), *flags])
    with open(folder / file, newline="") as opened:
        return list(csv.DictReader(opened))


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
    assert "vs" not in table  # uniform is not among them


def test_what_is_compared_can_be_read_back(tmp_path, calls):
    """Its table is the one that was made at once, after the folder has moved, too."""
    flags = ["--methods", "uniform,pareto:scale=2", "--seeds", "0,1"]
    tuned = ["--tune", "learning_rate=0.05,0.01"]
    rows = compared(tmp_path / "first", *flags, *tuned)
    (tmp_path / "first").rename(tmp_path / "moved")
    again, found = saved.reopen(tmp_path / "moved")
    assert len(found) == len(rows) == 16
    chosen, notes = choice.pick_settings(again, choice.of_rule(found, again.select))
    cells = table.cells(again, table.summarise(again, chosen))
    made = (tmp_path / "moved/table.md").read_text()
    assert table.as_markdown(table.title(chosen), cells, notes) == made
    for row in found:
        setting = {"learning_rate": row["learning_rate"]}
        name = plans.folder_name(row["method"], setting, row["seed"])
        assert (tmp_path / "moved" / name / "config.json").exists()
    (tmp_path / "moved/comparison.json").write_text("{}")
    with pytest.raises(UserError, match=r"comparison\.json or runs\.csv is damaged .* --collect"):
        saved.reopen(tmp_path / "moved")


def test_default_baseline(tmp_path, calls, capsys):
    """uniform, where it is one of several; the numbers are those of runs.csv, seed by seed."""
    rows = compared(tmp_path, "--methods", "joint,uniform", "--seeds", "0,1")
    scores = {
        (row["method"], row["seed"]): float(row["Acc"]) for row in rows if row["rule"] == "last"
    }
    one, other = (scores["joint", seed] - scores["uniform", seed] for seed in "01")
    assert one != other
    half = 12.706 * abs(one - other) / 2
    table = compared(tmp_path, "--methods", "joint,uniform", "--seeds", "0,1", file="table.csv")
    joint, uniform = table
    assert joint["difference_seeds"] == "2" and uniform["difference_mean"] == ""
    assert float(joint["difference_mean"]) == pytest.approx((one + other) / 2, abs=1e-5)
    assert float(joint["difference_low"]) == pytest.approx((one + other) / 2 - half, abs=1e-4)
    shown = re.escape(f"{50 * (one + other):+.1f} [")
    assert re.search(rf"joint .* {shown}", capsys.readouterr().out)


def test_settings_reach_the_method(tmp_path, calls):
    methods = "mmpareto:gamma=2:granularity=tensor,OGM_GE:without_ge"
    rows = compared(tmp_path, "--methods", methods, "--seeds", "0")
    config = tensors.read(tmp_path / "mmpareto-gamma=2-granularity=tensor-s0/last.pt")["config"]
    assert (config["gamma"], config["granularity"]) == (2.0, "tensor")
    assert tensors.read(tmp_path / "ogm_ge-without_ge-s0/last.pt")["config"]["without_ge"]
    assert {row["method"] for row in rows} == {*methods.lower().split(",")}


def test_nothing_is_computed_twice(tmp_path, calls, capsys):
    """With another number of jobs neither."""
    first = compared(tmp_path, "--methods", "joint", "--seeds", "0,1")
    second = compared(tmp_path, "--methods", "joint,uniform", "--seeds", "0,1", "--jobs", "2")
    assert len(calls) == 4
    assert [row for row in second if row["method"] == "joint"] == first
    out = capsys.readouterr().out
    assert "joint, seed 1: finished already" in out
    assert re.search(r"== uniform, seed 1: Result \(best-val, epoch 1\): test Acc 0\.\d+", out)


def test_files_of_a_finished_run_are_read_once(tmp_path, calls):
    """By a second call, which trains nothing and makes the same table."""
    tune = ["--tune", "learning_rate=0.05,0.003", "--tune_seeds", "8"]
    flags = ["--methods", "joint,uniform", "--seeds", "0,1", *tune]
    compared(tmp_path, *flags)
    opened = Counter()

    def note(event, arguments):
        if event == "open" and str(tmp_path) in str(arguments[0]) and opened is watched[0]:
            opened[Path(arguments[0]).name] += 1

    watched = [opened]
    sys.addaudithook(note)
    try:
        assert len(compared(tmp_path, *flags)) == 2 * len(calls)
    finally:
        watched[0] = None  # the hook itself stays as long as this process
    runs = len(calls)
    assert runs == 8 and opened["config.json"] == opened["result.json"] == runs
    assert opened["epochs.jsonl"] == runs


def test_last_epoch_of_finished_runs(tmp_path, calls, capsys):
    compared(tmp_path, "--methods", "joint", "--seeds", "0")
    compared(tmp_path, "--methods", "joint", "--seeds", "0", "--select", "last")
    assert len(calls) == 1
    assert "last epoch, mean" in capsys.readouterr().out


def test_without_validation_the_last_epoch_counts(tmp_path, calls, capsys):
    flags = ["--dataset", "toy_without_val", "--methods", "joint", "--seeds", "0"]
    (row,) = compared(tmp_path, *flags)
    assert (row["rule"], row["val_Acc"]) == ("last", "")
    assert "last epoch, mean" in capsys.readouterr().out


def test_another_number_of_epochs(tmp_path, calls):
    """Runs of different lengths never meet in one table."""
    compared(tmp_path, "--methods", "joint", "--seeds", "0", "--epochs", "2")
    with pytest.raises(UserError, match="holds 2 epochs, --epochs says 1"):
        compared(tmp_path, "--methods", "joint,uniform", "--seeds", "0", "--epochs", "1")
    longer = compared(tmp_path, "--methods", "joint", "--seeds", "0", "--epochs", "3")
    assert {row["epoch"] for row in longer if row["rule"] == "last"} == {"3"}


@pytest.mark.parametrize("finished", [True, False])
def test_other_flags_in_the_same_folder(tmp_path, calls, finished):
    compared(tmp_path, "--methods", "joint", "--seeds", "0")
    if not finished:
        (tmp_path / "joint-s0/result.json").unlink()
    with pytest.raises(UserError, match=r"learning_rate was 0.05, is 0.5"):
        compared(tmp_path, "--methods", "joint", "--seeds", "0", "--learning_rate", "0.5")
    assert len(calls) == 1


def fail_with(monkeypatch, folder):
    """train.main fails where --out is called so."""
    original = train.main

    def fail(arguments):
        if Path(arguments[arguments.index("--out") + 1]).name == folder:
            raise UserError("diverged")
        original(arguments)

    monkeypatch.setattr(train, "main", fail)


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_failures_are_reported_at_the_end(tmp_path, calls, monkeypatch, capsys, jobs):
    fail_with(monkeypatch, "uniform-s0")
    with pytest.raises(UserError, match=r"1 of 2 runs failed: uniform, seed 0: "):
        compared(tmp_path, "--methods", "uniform,joint", "--seeds", "0", "--jobs", jobs)
    table = capsys.readouterr().out.split("mean and standard deviation")[1]
    assert re.search(r"joint +1 ", table) and not re.search(r"uniform +\d", table)
    assert "Failed: uniform, seed 0 (exit 2: diverged)\n" in table


def test_interrupted_run(tmp_path, monkeypatch, calls):
    def interrupt(command, environment, log=None):
        raise KeyboardInterrupt

    monkeypatch.setattr(jobs, "Child", interrupt)
    with pytest.raises(KeyboardInterrupt, match="the same command goes on"):
        compared(tmp_path)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--methods", "joint,nonsense"], "unknown method 'nonsense'"),
        (["--methods", "joint:gamma=2"], "--gamma acts only with --method uniform or --method mm"),
        (["--methods", "joint,Joint"], "joint, seed 0 and joint, seed 0: one run is given twice"),
        (["--methods", "pareto,pareto:scale=1"], "pareto:scale=1, seed 0: one run is given twice"),
        (["--methods", "joint:"], "--methods joint:: a flag is empty"),
        (["--methods", "joint:random_seed=3"], "--random_seed: compare.py sets it itself"),
        (["--methods", "joint:select=last"], "--select has to be the same for all"),
        (["--seeds", "one"], "'one' is not a whole number from 0 to 4294967295"),
        (["--seeds", "0,00"], "one run is given twice"),
        (["--method", "joint"], "--method: compare.py sets it itself"),
        (["--use_tensorboard", "--tensorboard_path", "x"], "every run has its own"),
        (["--baseline", "agm"], "--baseline agm: choose one of --methods joint,"),
        (["--jobs", "0"], "'0' is not a positive whole number"),
        (["--gpu_ids", "0,1", "--jobs", "3"], "--jobs 3: a GPU takes one run at a time"),
        (["--gpu_ids", "0,0"], "--gpu_ids 0,0: one is given twice"),
        (["--gpu_ids", "0", "--device", "cpu"], "--gpu_ids"),
        (["--gpu_ids", "0", "--print_commands"], "--print_commands leaves the GPUs"),
        (["--collect", "--print_commands"], "not allowed with argument"),
        (["--tune", "learning_rate"], "--tune learning_rate: give FLAG=VALUE,VALUE"),
        (["--tune", "learning_rate=0.1,"], "give FLAG=VALUE,VALUE"),
        (["--tune", "learning_rate=0.1,0.10"], "one run is given twice"),
        (["--tune", "workers=0,1"], "one run is given twice"),
        (["--tune", "gamma=1,2", "--methods", "mmpareto,joint"],
         "--tune with joint gamma=1: --gamma acts only with --method uniform or --method mmpareto"),
        (["--tune", "learning_rate=1,x"], "--tune with joint learning_rate=x: "),
        (["--tune", "learning_rate=1,2", "learning_rate=3"], "--tune learning_rate: given twice"),
        (["--tune", "learning_rate=1,2", "--learning_rate", "3"],
         "--tune learning_rate: it is given with a single value, too"),
        (["--tune", "scale=1,2", "--methods", "pareto:scale=1"], "with a single value, too"),
        (["--tune", "split=a,b"], "--tune: --split has to be the same for all"),
        (["--tune", "learning_rate=1,2", "--select", "best-test"], "--tune: validation chooses"),
        (["--tune", "learning_rate=1,2", "--dataset", "toy_without_val"],
         "--tune: toy has no validation split to choose by"),
        (["--tune_seeds", "5"], "--tune_seeds acts only with --tune"),
        (["--tune", "learning_rate=1,2", "--tune_seeds", "5,01"],
         "--tune_seeds 5,01: 1 is one of --seeds, too"),
        (["--tune", "learning_rate=1,2", "--tune_seeds", "5,five"], "'five' is not a whole number"),
    ],
)  # fmt: skip
def test_bad_input_starts_nothing(tmp_path, calls, flags, message):
    with pytest.raises(UserError, match=re.escape(message)) as error:
        compared(tmp_path / "out", *flags)
    assert "\n" not in str(error.value)
    assert not calls and not (tmp_path / "out").exists()


def test_every_gpu_takes_one_run(tmp_path, calls, monkeypatch):
    """Which one is no part of what defines a run."""
    checked = []
    pick = devices.pick_device
    monkeypatch.setattr(
        devices, "pick_device", lambda name, gpu: checked.append(gpu) or pick(name, None)
    )
    flags = ["--methods", "joint,uniform", "--seeds", "0,1"]
    compared(tmp_path, *flags, "--gpu_ids", "4, 7")
    assert checked[:2] == ["4", "7"]
    used = [words[words.index("--gpu_ids") + 1] for words in calls]
    assert used == ["4", "7", "4", "7"]
    compared(tmp_path, *flags)
    assert len(calls) == 4


def test_print_commands(tmp_path, calls, capsys, monkeypatch):
    """Of what is left, and nothing else; they run from any folder, and a later call collects."""
    monkeypatch.chdir(tmp_path)
    flags = ["--methods", "joint,pareto:scale=2", "--seeds", "0,1"]
    compared(Path("out"), "--methods", "joint", "--seeds", "0")
    capsys.readouterr()
    compare.main([*FLAGS, "--out", "out", *flags, "--print_commands"])
    printed = capsys.readouterr().out
    commands = [shlex.split(line) for line in printed.splitlines()]
    assert len(calls) == 1 and len(commands) == 3
    script = str(Path(compare.__file__).with_name("train.py"))
    assert all(words[:2] == [sys.executable, script] for words in commands)
    assert sum("--scale=2" in words for words in commands) == 2

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    for words in commands:
        train.main(words[2:])
    monkeypatch.chdir(tmp_path)
    rows = compared(Path("out"), *flags, "--collect")
    assert len(calls) == 1 and len(rows) == 8
    capsys.readouterr()
    compare.main([*FLAGS, "--out", "out", *flags, "--print_commands"])
    assert capsys.readouterr().out == ""


def test_paths_in_commands_are_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("set", "toy", "weights=1.pt", "last"):
        Path(name).touch()
    words = [
        "--dataset",
        "set",
        "--pretrained=weights=1.pt",
        "--select",
        "last",
        "--data_root",
        "no",
    ]
    assert plans.from_anywhere(words) == [
        "--dataset", f"{tmp_path}/set", f"--pretrained={tmp_path}/weights=1.pt",
        "--select", "last", "--data_root", "no",
    ]  # fmt: skip
    assert plans.from_anywhere(["--dataset=toy"]) == ["--dataset=toy"]  # a registered name


def test_collect(tmp_path, calls, capsys):
    compared(tmp_path, "--methods", "joint", "--seeds", "0")
    rows = compared(tmp_path, "--methods", "joint,uniform", "--seeds", "0,1", "--collect")
    assert len(calls) == 1 and len(rows) == 2
    out = capsys.readouterr().out
    assert re.search(r"joint +1 ", out)
    missing = "Not finished, 3 of 4 runs: uniform, seed 0; joint, seed 1; uniform, seed 1\n"
    assert out.endswith(missing)


def test_collect_nothing(tmp_path, calls, capsys):
    compare.main([*FLAGS, "--out", str(tmp_path / "out"), "--seeds", "0", "--collect"])
    assert capsys.readouterr().out.startswith("Not finished, 5 of 5 runs: ")
    assert not (tmp_path / "out").exists()


class TestTune:
    FLAGS = ["--methods", "joint,uniform", "--seeds", "0,1", "--epochs", "2"]

    @pytest.mark.parametrize("rule", ["last", "best-val"])
    def test_validation_chooses(self, tmp_path, calls, capsys, rule):
        values = ["0.0001", "0.05", "0.003"]
        tune = ["--tune", f"learning_rate={','.join(values)}", "--select", rule]
        table = compared(tmp_path, *self.FLAGS, *tune, file="table.csv")
        assert len(calls) == 12  # 2 methods, 3 values, 2 seeds
        for row in table:
            means = []
            for value in values:
                folders = [
                    tmp_path / f"{row['method']}-learning_rate={value}-s{seed}" for seed in (0, 1)
                ]
                means.append(sum(validation(folder, rule) for folder in folders) / 2)
            assert row["learning_rate"] == values[means.index(max(means))]
        out = capsys.readouterr().out
        assert "6 runs for each method (3 settings x 2 seeds)" in out
        rows = compared(tmp_path, *self.FLAGS, *tune)
        assert len(rows) == 24 and {row["learning_rate"] for row in rows} == set(values)
        assert len(calls) == 12

    def test_only_whole_settings_are_chosen_among(self, tmp_path, calls, monkeypatch, capsys):
        fail_with(monkeypatch, "uniform-learning_rate=0.05-s1")
        tune = ["--tune", "learning_rate=0.05,0.0001"]
        with pytest.raises(UserError, match=r"1 of 8 runs failed: uniform learning_rate=0.05, s"):
            compared(tmp_path, *self.FLAGS, *tune)
        out = capsys.readouterr().out
        note = "uniform: only 1 of 2 settings have all their runs finished, the choice is among"
        assert note in out
        assert re.search(r"^uniform +0\.0001 +2 ", out, re.MULTILINE)

    def test_the_test_split_does_not_choose(self):
        rows = [
            row("joint", seed, acc, val_Acc=val, learning_rate=value)
            for value, seeds in {
                "1": [(0.9, 0.2), (0.9, 0.4)],
                "2": [(0.1, 0.3), (0.1, 0.4)],
            }.items()
            for seed, (acc, val) in enumerate(seeds)
        ]
        settings = [{"learning_rate": "1"}, {"learning_rate": "2"}]
        assert choice.choose(rows, settings) == {"learning_rate": "2"}

    def test_the_first_of_equals(self):
        rows = [row("joint", 0, 0.5, val_Acc=0.5, momentum=value) for value in "312"]
        for order in ("312", "231"):
            settings = [{"momentum": value} for value in order]
            assert choice.choose(rows, settings) == settings[0]

    def test_without_validation_accuracies(self):
        with pytest.raises(UserError, match="joint momentum=1 was scored on the test split only"):
            choice.choose([row("joint", 0, 0.5, momentum="1")], [{"momentum": "1"}])

    def test_no_setting_is_whole(self):
        settings = [{"momentum": "1"}, {"momentum": "2"}]
        rows = [row("joint", s, 0.5, val_Acc=0.5, momentum=m) for s, m in [(0, "1"), (1, "2")]]
        kept, notes = choice.pick_settings(made(["joint"], settings=settings, seeds=[0, 1]), rows)
        assert kept == [] and "joint: only 0 of 2 settings" in notes[0]

    def test_own_seeds_choose(self, tmp_path, calls, capsys):
        """Then only the choice is trained with the table's seeds, none of which it has seen."""
        values = ["0.0001", "0.05", "0.003"]
        flags = [*self.FLAGS, "--tune", f"learning_rate={','.join(values)}", "--tune_seeds", "8,9"]
        table = compared(tmp_path, *flags, file="table.csv")
        assert len(calls) == 2 * (3 * 2 + 2)
        for row in table:
            folder = f"{tmp_path}/{row['method']}-learning_rate="
            means = [
                statistics.mean(
                    validation(Path(f"{folder}{value}-s{seed}"), "best-val") for seed in (8, 9)
                )
                for value in values
            ]
            best = values[means.index(max(means))]
            assert row["learning_rate"] == best and row["seeds"] == "2"
            for value in values:
                assert Path(f"{folder}{value}-s0").exists() is (value == best)
            scores = [
                json.loads(Path(f"{folder}{best}-s{seed}/result.json").read_text())
                for seed in (0, 1)
            ]
            mean = statistics.mean(score["results"]["best-val"]["Acc"] for score in scores)
            assert float(row["Acc_mean"]) == pytest.approx(mean, abs=1e-5)
        assert table[1]["difference_seeds"] == "" and table[0]["difference_seeds"] == "2"
        out = capsys.readouterr().out
        assert "over seeds 8, 9, none of them in the table" in out
        assert "6 runs for each method (3 settings x 2 seeds)" in out
        rows = compared(tmp_path, *flags)
        assert len(calls) == 16 and len(rows) == 32  # nothing is computed twice

    def test_commands_of_own_seeds(self, tmp_path, calls, capsys):
        """Those that choose first; a method's choice is printed when all of its have finished."""
        tune = ["--tune", "learning_rate=0.05,0.003", "--tune_seeds", "8"]
        flags = [*FLAGS, "--out", str(tmp_path / "out"), "--seeds", "0,1", *tune]

        def commands(methods):
            capsys.readouterr()
            compare.main([*flags, "--methods", methods, "--print_commands"])
            return [shlex.split(line)[2:] for line in capsys.readouterr().out.splitlines()]

        first = commands("joint")
        assert [words[words.index("--random_seed") + 1] for words in first] == ["8", "8"]
        train.main(first[0])
        assert commands("joint") == first[1:]
        compare.main([*flags, "--methods", "joint", "--collect"])
        assert "Not finished, 3 of 4 runs: joint learning_rate=0.003, s" in capsys.readouterr().out
        train.main(first[1])
        second = commands("joint,uniform")
        assert [words[words.index("--random_seed") + 1] for words in second] == ["8", "8", "0", "1"]
        for words in second[2:]:
            train.main(words)
        capsys.readouterr()
        compare.main([*flags, "--methods", "joint", "--collect"])
        assert re.search(r"^joint +0\.\d+ +2 ", capsys.readouterr().out, re.MULTILINE)

    def test_a_setting_that_fails_is_not_the_choice_of_own_seeds(
        self, tmp_path, calls, monkeypatch
    ):
        fail_with(monkeypatch, "joint-learning_rate=0.05-s8")
        flags = ["--methods", "joint", "--seeds", "0", "--tune", "learning_rate=0.05,0.0001"]
        with pytest.raises(UserError, match=r"1 of 3 runs failed: joint learning_rate=0.05, s"):
            compared(tmp_path, *flags, "--tune_seeds", "8")
        assert (tmp_path / "joint-learning_rate=0.0001-s0/result.json").exists()

    def test_all_combinations(self):
        assert plans.find_settings(["a=1,2", "b=x,y"]) == [
            {"a": "1", "b": "x"}, {"a": "1", "b": "y"}, {"a": "2", "b": "x"}, {"a": "2", "b": "y"},
        ]  # fmt: skip


def validation(folder, rule):
    """The joint validation accuracy of the epoch that the rule takes."""
    lines = (folder / "epochs.jsonl").read_text().splitlines()
    epochs = [json.loads(line) for line in lines]
    assert {epoch["split"] for epoch in epochs} == {"val"}
    return max(e["Acc"] for e in epochs) if rule == "best-val" else epochs[-1]["Acc"]


def row(method, seed, acc, **more):
    """Of a finished run, as Plan.rows gives it."""
    scores = {"Acc": acc, "Acc_a": acc / 2, "F1": acc - 0.01, "F1_a": acc / 4}
    kept = {"rule": "last", "val_Acc": None, "conflict": None, "seconds_per_epoch": 2.0}
    return {"method": method, "seed": seed, **scores, **kept, **more}


def made(names, settings=({},), seeds=(0, 1, 2), baseline=None, folder=Path()):
    return Comparison(folder, "last", names, seeds, seeds, list(settings), baseline, [])


class TestStatistics:
    def test_interval_of_two(self):
        """Student's t with 1 degree of freedom: 12.706."""
        low, high = table.interval([1.0, 3.0])
        half = 12.706 * sqrt(2) / sqrt(2)
        assert (low, high) == pytest.approx((2 - half, 2 + half), rel=1e-4)

    def test_interval_of_three(self):
        low, high = table.interval([1.0, 2.0, 3.0])
        assert (low, high) == pytest.approx((2 - 4.303 / sqrt(3), 2 + 4.303 / sqrt(3)), abs=1e-3)

    def test_interval_of_one(self):
        assert table.interval([1.0]) is None

    def test_difference_over_common_seeds(self):
        """Seed 3 and seed 9 have no partner; 0.1 and 0.3 are left: 0.2 +- 12.706 * 0.1."""
        found = table.paired_difference({0: 0.5, 3: 0.9, 1: 0.7}, {1: 0.4, 0: 0.4, 9: 0.0})
        assert found == pytest.approx((2, 0.2, 0.2 - 1.2706, 0.2 + 1.2706), rel=1e-4)

    def test_difference_of_one_seed(self):
        assert table.paired_difference({0: 0.5}, {0: 0.25}) == (1, 0.25, None, None)

    def test_difference_without_common_seed(self):
        assert table.paired_difference({0: 0.5}, {1: 0.5}) is None

    def test_summary(self):
        """In the order asked for; a method without runs is left out."""
        rows = [row("uniform", s, acc) for s, acc in enumerate([0.1, 0.2, 0.6])]
        rows += [row("pareto", 1, 0.5, conflict=0.25)]
        asked = made(["pareto", "joint", "uniform"], baseline="uniform")
        pareto, uniform = table.summarise(asked, rows)
        assert (pareto["method"], uniform["method"]) == ("pareto", "uniform")
        assert (pareto["seeds"], uniform["seeds"]) == (1, 3)
        assert uniform["Acc_mean"] == pytest.approx(0.3)
        assert uniform["Acc_std"] == pytest.approx(sqrt((0.2**2 + 0.1**2 + 0.3**2) / 2))
        assert uniform["F1_a_mean"] == pytest.approx(0.075)
        assert (uniform["conflict_mean"], pareto["conflict_mean"]) == (None, 0.25)
        assert pareto["Acc_std"] is None
        assert pareto["difference_mean"] == pytest.approx(0.3)
        assert (pareto["difference_seeds"], pareto["difference_low"]) == (1, None)
        assert uniform["difference_mean"] is None

    def test_baseline_without_runs(self):
        asked = made(["joint", "uniform"], baseline="uniform")
        (joint,) = table.summarise(asked, [row("joint", 0, 0.5)])
        assert joint["difference_mean"] is None


class TestFiles:
    ROWS = [row("joint", s, acc) for s, acc in enumerate([0.25, 0.35])] + [
        row("ogm_ge:without_ge", s, acc, conflict=0.5) for s, acc in enumerate([0.5, 0.4])
    ]

    @pytest.fixture
    def folder(self, tmp_path):
        asked = made(["ogm_ge:without_ge", "joint"], baseline="joint", folder=tmp_path)
        summary = table.summarise(asked, self.ROWS)
        table.write_table_files(asked, self.ROWS, summary, ["a note"])
        return tmp_path

    def test_numbers(self, folder):
        with open(folder / "table.csv", newline="") as file:
            first, second = csv.DictReader(file)
        assert (first["Acc_mean"], first["seeds"]) == ("0.45", "2")
        assert float(second["Acc_std"]) == pytest.approx(0.1 / sqrt(2), rel=1e-4)
        assert (first["conflict_mean"], second["conflict_mean"]) == ("0.5", "")

    def test_markdown(self, folder):
        heading, table, note = (folder / "table.md").read_text(encoding="utf-8").split("\n\n")
        assert "last epoch" in heading and note == "a note\n"
        lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
        assert lines[0][:3] == ["method", "seeds", "Acc"]
        # differences 0.25 and 0.05: 15 +- 12.706 * 10
        assert lines[2] == [
            "ogm_ge:without_ge", "2", "45.0 \u00b1 7.1", "22.5 \u00b1 3.5", "44.0 \u00b1 7.1",
            "50.0%", "2.0", "+15.0 [-112.1, +142.1]",
        ]  # fmt: skip
        assert lines[3][-3:] == ["-", "2.0", "-"]

    def test_latex(self, folder):
        text = (folder / "table.tex").read_text(encoding="utf-8")
        lines = text.splitlines()
        assert lines[0].startswith("% Test accuracy") and lines[1] == "% a note"
        assert lines[2] == r"\begin{tabular}{lrrrrrrr}" and lines[-1] == r"\end{tabular}"
        assert text.count("rule") == 3  # top, mid, bottom
        row = next(line for line in lines if "ogm" in line)
        assert row.startswith(r" ogm\_ge:without\_ge ") and r" 45.0 $\pm$ 7.1 " in row
        assert r"50.0\%" in row and r"$+$15.0 [$-$112.1, $+$142.1]" in row

    def test_picture(self, tmp_path):
        """A panel for each accuracy; methods from the top in their order; every seed is a dot."""
        asked = made(["ogm_ge:without_ge", "joint"])
        points = table.points(asked, self.ROWS)
        assert points["Acc"] == {"ogm_ge:without_ge": [50, 40], "joint": [25, 35]}
        panels = figures.table(points, "last").axes
        assert [panel.get_title() for panel in panels] == ["Acc", "Acc_a"]
        names = [text.get_text() for text in panels[0].get_yticklabels()]
        assert names == ["ogm_ge:without_ge", "joint"]
        assert panels[0].get_ylim()[0] > panels[0].get_ylim()[1]
        dots = [list(line.get_xdata()) for line in panels[1].lines if line.get_marker() == "o"]
        assert dots == [[25, 20], [12.5, 17.5]]
        (bar,) = panels[0].collections[0].get_segments()
        assert bar[:, 0] == pytest.approx([45 - sqrt(50), 45 + sqrt(50)])

    def test_picture_files(self, tmp_path):
        points = table.points(made(["joint"]), [row("joint", 0, 0.5)])
        paths = [tmp_path / "table.png", tmp_path / "table.svg"]
        figures.write(paths, figures.table, points, "last")
        contents = [path.read_bytes() for path in paths]
        assert contents[0].startswith(b"\x89PNG") and b">joint<" in contents[1]
        figures.write(paths, figures.table, points, "last")
        assert [path.read_bytes() for path in paths] == contents


def test_without_matplotlib(tmp_path, calls, monkeypatch, capsys):
    """The table is there; a line says what is not."""
    monkeypatch.setattr(compare, "find_spec", lambda name: name != "matplotlib")
    compared(tmp_path, "--methods", "joint", "--seeds", "0")
    assert "No picture of the table" in capsys.readouterr().out
    assert (tmp_path / "table.csv").exists() and not (tmp_path / "table.png").exists()


class TestJobs:
    def child(self, code, log=None, environment=None):
        return jobs.Child([sys.executable, "-c", code], environment or dict(os.environ), log)

    def ended(self, child):
        end = time.monotonic() + 60
        while child.poll() is None:
            assert time.monotonic() < end, "waited too long"
            time.sleep(0.01)
        return child

    def test_output_to_a_file(self, tmp_path, capfd):
        environment = jobs.share_of_cores(2)
        child = self.child(
            "import sys; print('rows'); print('error: all wrong', file=sys.stderr); exit(3)",
            tmp_path / "log", environment,
        )  # fmt: skip
        assert self.ended(child).poll() == 3 and child.last_line() == "all wrong"
        assert (tmp_path / "log").read_text() == "rows\nerror: all wrong\n"
        assert capfd.readouterr() == ("", "")

    def test_output_to_the_console(self, capfd):
        """The console is the child's own; how it ended is told apart."""
        entry = (
            "import sys; from mmpareto.system import entry; from mmpareto.system.errors import *"
        )
        less = "give a smaller --batch_size"
        for ends, told, shown in (
            ("UserError('all wrong')", "all wrong", "error: all wrong\n"),
            (
                "MemoryError('16 TB')",
                f"not enough memory (16 TB): {less}",
                None,
            ),
            ("LookupError('x')", "LookupError: x", None),
            ("KeyboardInterrupt", "", ""),
        ):
            code = f"{entry}\ndef main(words):\n  print('rows')\n  raise {ends}\nentry.run(main)"
            paths = os.pathsep.join(sys.path)
            child = self.ended(self.child(code, environment={**os.environ, "PYTHONPATH": paths}))
            out, error = capfd.readouterr()
            assert (child.last_line(), out) == (told, "rows\n")
            assert told in error and shown in (None, error)

    def test_share_of_cores(self, monkeypatch):
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(8), raising=False)
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        threads = [jobs.share_of_cores(n).get("OMP_NUM_THREADS") for n in (1, 2, 3, 9)]
        assert threads == [None, "4", "2", "1"]
        monkeypatch.setenv("OMP_NUM_THREADS", "7")
        assert jobs.share_of_cores(2)["OMP_NUM_THREADS"] == "7"

    def test_as_many_as_slots(self):
        """Never more at once, and no slot twice at a time."""
        now, most, used = set(), [], []

        class Counted:
            def __init__(self, slot):
                assert slot not in now
                now.add(slot)
                most.append(len(now))
                self.slot, self.polls = slot, 0

            def poll(self):
                self.polls += 1
                return 0 if self.polls > 1 else None

        def ended(task, child):
            now.remove(child.slot)
            used.append(task)

        jobs.run(range(5), ["a", "b"], lambda task, slot: Counted(slot), ended)
        assert sorted(used) == [0, 1, 2, 3, 4] and max(most) == 2

    @pytest.mark.parametrize("deaf", [False, True])
    def test_nothing_is_left_running(self, tmp_path, monkeypatch, deaf):
        """Neither of those that end when they are interrupted, nor of those that do not."""
        monkeypatch.setattr(jobs, "GRACE", 0.5)
        ignore = "signal.signal(signal.SIGINT, signal.SIG_IGN);" if deaf else ""
        code = f"import signal, time; {ignore} print('ready', flush=True); time.sleep(60)"
        children = []

        def start(task, slot):
            children.append(self.child(code if task else "pass", tmp_path / f"{task}"))
            return children[-1]

        def interrupted(task, child):
            while any((tmp_path / name).read_text() != "ready\n" for name in "12"):
                time.sleep(0.01)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            jobs.run([1, 2, 0], [None] * 3, start, interrupted)
        codes = {child.process.returncode for child in children[:2]}
        assert codes == {-signal.SIGKILL if deaf else -signal.SIGINT}

    def test_sigterm_stops_all(self, tmp_path):
        """As a scheduler sends it: like Ctrl-C."""
        code = f"import os, signal, time; os.kill({os.getpid()}, signal.SIGTERM); time.sleep(60)"
        started = []

        def start(task, slot):
            started.append(self.child(code, tmp_path / "log"))
            return started[0]

        with pytest.raises(KeyboardInterrupt):
            jobs.run([0], [None], start, lambda task, child: None)
        assert started[0].poll() == -signal.SIGINT

    def test_words_for_codes(self):
        assert (jobs.how(2), jobs.how(-9)) == ("exit 2", "killed by SIGKILL")


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
