"""compare.py, on runs of the toy data made in this process."""

from mmpareto.system import tensors

import csv
import json
import re
import shlex
import statistics
import sys
from pathlib import Path

import pytest
import torch

import compare
import train
from mmpareto.results import choice, jobs, plans, saved, table
from mmpareto.results.words import find_seeds, from_anywhere
from mmpareto.run import devices
from mmpareto.system.errors import UserError

FLAGS = ["--dataset", "toy", "--encoder", "cnn", "--epochs", "1"]


pytestmark = pytest.mark.usefixtures("once", "quick")


def compared(folder, *flags, file="runs.csv"):
    compare.main([*FLAGS, "--out", str(folder), *flags])
    with open(folder / file, newline="") as opened:
        return list(csv.DictReader(opened))


def test_table(tmp_path, calls, capsys):
    methods = "joint,pareto:scale=2,mmpareto:gamma=2:granularity=tensor,OGM_GE:without_ge"
    rows = compared(tmp_path, "--methods", methods, "--seeds", "0,1")
    assert len(calls) == 8 and len(rows) == 16
    assert {row["method"] for row in rows} == {*methods.lower().split(",")}
    assert {row["rule"] for row in rows} == {"best-val", "last"}
    assert {row["commit"] for row in rows} == {"abc"}
    assert {row["data"] for row in rows} == {"toy"}
    assert len({row["identity"] for row in rows} - {""}) == 1
    assert {row["torch"] for row in rows} == {torch.__version__}
    config = tensors.read(tmp_path / "mmpareto-gamma=2-granularity=tensor-s1/last.pt")["config"]
    assert (config["gamma"], config["granularity"]) == (2.0, "tensor")
    assert tensors.read(tmp_path / "ogm_ge-without_ge-s0/last.pt")["config"]["without_ge"]
    table = capsys.readouterr().out.split("mean and standard deviation over seeds")[1]
    mine = [100 * float(r["Acc"]) for r in rows if r["method"] == "joint" and r["rule"] == "last"]
    expected = f"{statistics.mean(mine):.1f} +- {statistics.stdev(mine):.1f}"
    assert re.search(rf"joint +2 +{re.escape(expected)}", table)
    assert re.search(r"pareto:scale=2 +2 .* \d+\.\d%", table)
    assert "vs" not in table  # uniform is not among them
    assert re.search(rf"\nLook into it: \S+ \S*code/analyze.py {tmp_path}\n$", table)


def test_what_is_compared_can_be_read_back(tmp_path, calls):
    """Its table is the one that was made at once, after the folder has moved, too."""
    flags = ["--methods", "uniform,pareto:scale=2", "--seeds", "0,1"]
    tuned = ["--tune", "learning_rate=0.05,0.01"]
    rows = compared(tmp_path / "first", *flags, *tuned)
    (tmp_path / "first").rename(tmp_path / "moved")
    again, found = saved.reopen(tmp_path / "moved")
    assert len(found) == len(rows) == 16
    chosen, notes = choice.table_rows(again, found)
    made = (tmp_path / "moved/table.md").read_text()
    (tmp_path / "moved/table.md").unlink()
    table.write_table_files(again, chosen, table.summarise(again, chosen), notes)
    assert (tmp_path / "moved/table.md").read_text() == made
    for row in found:
        setting = {"learning_rate": row["learning_rate"]}
        name = plans.folder_name(row["method"], setting, row["seed"])
        assert (tmp_path / "moved" / name / "config.json").exists()
    (tmp_path / "moved/comparison.json").write_text("{}")
    with pytest.raises(UserError, match=r"comparison\.json or runs\.csv is damaged .* --collect"):
        saved.reopen(tmp_path / "moved")


def test_default_baseline(tmp_path, calls, capsys):
    """uniform, where it is one of several; the numbers are those of runs.csv, seed by seed."""
    flags = ["--methods", "joint,uniform", "--seeds", "0-2"]
    rows = [row for row in compared(tmp_path, *flags) if row["rule"] == "last"]
    assert {row["test_samples"] for row in rows} == {"48"}
    scores = {(row["method"], row["seed"]): float(row["Acc"]) for row in rows}
    found = [scores["joint", seed] - scores["uniform", seed] for seed in "012"]
    mean, half = statistics.mean(found), 4.303 * statistics.stdev(found) / 3**0.5
    assert half > 1 / 48
    joint, uniform = compared(tmp_path, *flags, file="table.csv")
    assert joint["difference_seeds"] == "3" and uniform["difference_mean"] == ""
    assert float(joint["difference_mean"]) == pytest.approx(mean, abs=1e-5)
    assert float(joint["difference_low"]) == pytest.approx(mean - half, abs=1e-4)
    shown = re.escape(f"{100 * mean:+.1f} [")
    out = capsys.readouterr().out
    assert re.search(rf"joint .* {shown}", out) and "s/epoch" not in out
    assert "no narrower than 2.1, one of 48 samples\nEpochs by best-val, seed" in out


def test_nothing_is_computed_twice(tmp_path, calls, capsys):
    """With another number of jobs neither."""
    first = compared(tmp_path, "--methods", "joint", "--seeds", "0,1")
    second = compared(tmp_path, "--methods", "joint,uniform", "--seeds", "0,1", "--jobs", "2")
    assert len(calls) == 4
    assert [row for row in second if row["method"] == "joint"] == first
    out = capsys.readouterr().out
    assert "joint, seed 1: finished already" in out
    assert re.search(r"== uniform, seed 1: Result \(best-val, epoch 1\): test Acc 0\.\d+", out)


def test_runs_of_earlier_versions(tmp_path, calls):
    """They did not note what the model's size and the memory were: these cells are empty."""
    words = ["--methods", "joint", "--seeds", "0,1"]
    noted = ("test_samples", "parameters", "peak_bytes")
    new = compared(tmp_path, *words)
    assert all(int(row[name]) > 0 for row in new for name in noted)
    path = tmp_path / "joint-s1/result.json"
    kept = {k: v for k, v in json.loads(path.read_text()).items() if k not in noted}
    path.write_text(json.dumps(kept))
    rows = compared(tmp_path, *words, "--collect")
    old = [{**row, **dict.fromkeys(noted, "")} for row in new if row["seed"] == "1"]
    assert rows == [row for row in new if row["seed"] == "0"] + old
    assert saved.reopen(tmp_path)[1]


def test_the_last_epoch_counts(tmp_path, calls, capsys, monkeypatch):
    """Where it is asked for, of finished runs, too, and without validation. And no matplotlib."""
    compared(tmp_path / "x", "--methods", "joint", "--seeds", "0")
    compared(tmp_path / "x", "--methods", "joint", "--seeds", "0", "--select", "last")
    assert len(calls) == 1
    assert "last epoch, mean" in capsys.readouterr().out
    monkeypatch.setattr(compare, "find_spec", lambda name: name != "matplotlib")
    flags = ["--dataset", "toy_without_val", "--methods", "joint", "--seeds", "0"]
    (row,) = compared(tmp_path / "y", *flags)
    assert (row["rule"], row["val_Acc"]) == ("last", "")
    out = capsys.readouterr().out
    assert "last epoch, mean" in out and "No picture of the table" in out
    assert (tmp_path / "y/table.csv").exists() and not (tmp_path / "y/table.png").exists()


def test_another_number_of_epochs(tmp_path, calls):
    """Runs of different lengths never meet in one table."""
    compared(tmp_path, "--methods", "joint", "--seeds", "0", "--epochs", "2")
    with pytest.raises(UserError, match="holds 2 epochs, --epochs says 1"):
        compared(tmp_path, "--methods", "joint,uniform", "--seeds", "0", "--epochs", "1")
    longer = compared(tmp_path, "--methods", "joint", "--seeds", "0", "--epochs", "3")
    assert {row["epoch"] for row in longer if row["rule"] == "last"} == {"3"}


def test_other_flags_in_the_same_folder(tmp_path, calls):
    compared(tmp_path, "--methods", "joint", "--seeds", "0")
    for _ in "finished", "unfinished":
        with pytest.raises(UserError, match=r"learning_rate was 0.05, is 0.5"):
            compared(tmp_path, "--methods", "joint", "--seeds", "0", "--learning_rate", "0.5")
        (tmp_path / "joint-s0/result.json").unlink(missing_ok=True)
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
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(jobs, "Child", interrupt)
    with pytest.raises(KeyboardInterrupt, match="run the same command to go on"):
        compared(tmp_path)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--methods", "joint,nonsense"], "unknown method 'nonsense'"),
        (["--methods", "joint:gamma=2"], "--gamma acts only with --method uniform or --method mm"),
        (["--methods", "joint,Joint"], "joint, seed 0 and joint, seed 0: both name the same run"),
        (["--methods", "pareto,pareto:scale=1"], "pareto:scale=1, seed 0: both name the same run"),
        (["--methods", "joint:"], "--methods joint:: a flag is empty"),
        (["--methods", "joint:random_seed=3"], "--random_seed: compare.py sets it itself"),
        (["--methods", "joint:select=last"], "--select must be equal for all methods"),
        (["--seeds", "one"], "--seeds: 'one' is not a whole number from 0 to 4294967295"),
        (["--seeds", ","], "--seeds: names nothing"),
        (["--seeds", "0-2", "1"], "joint, seed 1 and joint, seed 1: both name the same run"),
        (["--seeds", "0,00"], "both name the same run"),
        (["--method", "joint"], "--method: compare.py sets it itself"),
        (["--use_tensorboard", "--tensorboard_path", "x"], "every run has its own"),
        (["--baseline", "agm"], "--baseline agm: choose one of --methods joint,"),
        (["--jobs", "0"], "'0' is not a positive whole number"),
        (["--gpu_ids", "0,1", "--jobs", "3"], "--jobs 3: a GPU takes one run at a time"),
        (["--gpu_ids", "0,0"], "--gpu_ids 0,0: a GPU is given twice"),
        (["--gpu_ids", "0", "--device", "cpu"], "--gpu_ids"),
        (["--gpu_ids", "0", "--print_commands"], "--gpu_ids has no effect with"),
        (["--batch_size", "999"], "--batch_size 999: one step needs 999 samples"),
        (["--modality_dropout", "0.5", "--methods", "uniform,ogm_ge"],
         "--method ogm_ge: --modality_dropout makes samples lack modalities"),
        (["--modality_dropout", "0.5", "--methods", "uniform,uniform:fusion=film"],
         "--fusion film: --modality_dropout makes samples lack modalities"),
        (["--collect", "--print_commands"], "not allowed with argument"),
        (["--sbatch", "x"], "--sbatch acts only with --print_commands: give both flags"),
        (["--print_commands", "--sbatch_header", "x"], "--sbatch_header acts only with --sbatch"),
        (["--tune", "learning_rate"], "--tune learning_rate: give FLAG=VALUE,VALUE"),
        (["--tune", "learning_rate=0.1,"], "give FLAG=VALUE,VALUE"),
        (["--tune", "learning_rate=0.1,0.10"], "both name the same run"),
        (["--tune", "workers=0,1"], "both name the same run"),
        (["--tune", "gamma=1,2", "--methods", "mmpareto,joint"],
         "--tune with joint gamma=1: --gamma acts only with --method uniform or --method mmpareto"),
        (["--tune", "learning_rate=1,x"], "--tune with joint learning_rate=x: "),
        (["--tune", "learning_rate=1,2", "learning_rate=3"], "--tune learning_rate: given twice"),
        (["--tune", "learning_rate=1,2", "--learning_rate", "3"],
         "--tune learning_rate: --learning_rate is given, too"),
        (["--tune", "scale=1,2", "--methods", "pareto:scale=1"], "--scale is given, too"),
        (["--tune", "split=a,b"], "--tune: --split must be equal for all methods"),
        (["--tune", "learning_rate=1,2", "--select", "best-test"], "--tune chooses by validation"),
        (["--tune", "learning_rate=1,2", "--dataset", "toy_without_val"],
         "--tune: toy_without_val has no validation split to choose by"),
        (["--folds", "1"], "--folds 1: give a number from 2 to 100"),
        (["--folds", "5"], "--folds: toy has one fixed division of its data: drop --folds"),
        (["--tune_seeds", "5"], "--tune_seeds acts only with --tune"),
        (["--tune", "learning_rate=1,2", "--tune_seeds", "5,01"],
         "--tune_seeds 5,01: seed 1 is also in --seeds"),
        (["--tune", "learning_rate=1,2", "--tune_seeds", "5,five"],
         "--tune_seeds: 'five' is not a whole number"),
    ],
)  # fmt: skip
def test_bad_input_starts_nothing(tmp_path, calls, flags, message):
    with pytest.raises(UserError, match=re.escape(message)) as error:
        compared(tmp_path / "out", *flags)
    assert "\n" not in str(error.value)
    assert not calls and not (tmp_path / "out").exists()


def test_lists_are_written_in_any_way():
    seeds = find_seeds("--seeds", ["0-2,", "7", "10,12-12"])
    assert seeds == ["0", "1", "2", "7", "10", "12"]
    for wrong in ("2-0", "0-9999", "-3", "1.5", "3-", "0-1-2", "0-2 1", "4294967296"):
        with pytest.raises(UserError, match=f"--seeds: '{wrong}' is not a whole number"):
            find_seeds("--seeds", ["0", wrong])
    words = ["--methods", "joint,", "uniform", "--seeds", "1", "3-4"]
    asked = compare.parser().parse_args(words)
    compared = plans.plan_comparison(asked, FLAGS)
    assert compared.names == ["joint", "uniform"] and compared.seeds == [1, 3, 4]


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
    compare.main([*FLAGS, "--out", "out", *flags, "--jobs", "2", "--print_commands"])
    printed = capsys.readouterr()
    assert printed.err == "Not used, since nothing is trained: --jobs\n"
    commands = [shlex.split(line) for line in printed.out.splitlines()]
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
    for name in ("set", "toy", "last", "a-b=1.pt"):
        Path(name).touch()
    for name in ("net", "other"):
        Path(name).mkdir()
    Path("net/config.json").touch()
    words = "--dataset {0}set --pretrained={0}last a={0}net b=published --select last "
    words += "--data_root no --encoder a=hf:{0}net b=timm:other "
    words += "--init_encoder a={0}last b={0}toy {0}set c=no --init_encoder={0}a-b=1.pt"
    moved = from_anywhere(words.format("").split())
    assert moved == words.format(f"{tmp_path}/").split()
    assert from_anywhere(["--dataset=toy"]) == ["--dataset=toy"]  # a registered name


def test_collect(tmp_path, calls, capsys):
    compare.main([*FLAGS, "--out", str(tmp_path / "out"), "--seeds", "0,1", "--collect"])
    told = capsys.readouterr().out
    assert told.startswith("Not finished, 10 of 10 runs: ")
    assert told.endswith("; joint, seed 1; and 4 more\n")
    assert not (tmp_path / "out").exists()
    compared(tmp_path, "--methods", "joint", "--seeds", "0")
    rows = compared(tmp_path, "--methods", "joint,uniform", "--seeds", "0,1", "--collect")
    assert len(calls) == 1 and len(rows) == 2
    out = capsys.readouterr().out
    assert re.search(r"joint +1 ", out)
    missing = "Not finished, 3 of 4 runs: uniform, seed 0; joint, seed 1; uniform, seed 1\n"
    assert out.endswith(missing)


def test_teachers_for_each_seed(tmp_path, calls):
    """What lies in the folder of a run is no run of the table."""
    flags = ["--methods", "joint", "umt", "--seeds", "0,1", "--limit_batches", "2"]
    rows = [(row["method"], row["seed"]) for row in compared(tmp_path, *flags)]
    assert len(calls) == 4 and len(rows) == 8
    assert {*rows} == {(method, seed) for method in ("joint", "umt") for seed in "01"}
    files = (tmp_path / f"umt-s{seed}/teacher/last.pt" for seed in "01")
    first, second = (tensors.read(file)["model"]["unimodal_heads.a.weight"] for file in files)
    assert not torch.equal(first, second)
    compared(tmp_path, *flags)
    assert len(calls) == 4
