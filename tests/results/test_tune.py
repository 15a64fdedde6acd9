"""compare.py --tune: validation chooses every method's setting."""

import json
import re
import shlex
import shutil
import statistics
import sys
from collections import Counter
from pathlib import Path

import pytest
from test_compare import FLAGS, compared, fail_with
from test_table import made
from test_table import row as row_of

import compare
import train
from mmpareto.results import choice, table
from mmpareto.results.words import find_settings
from mmpareto.system.errors import UserError

pytestmark = pytest.mark.usefixtures("once", "quick")


def validation(folder, rule):
    """Accuracy and negative loss, both of validation, of the epoch that the rule takes."""
    lines = (folder / "epochs.jsonl").read_text().splitlines()
    epochs = [json.loads(line) for line in lines]
    assert {epoch["split"] for epoch in epochs} == {"val"}
    found = [(e["Acc"], -e["split_loss"]) for e in epochs]
    return max(found) if rule == "best-val" else found[-1]


def best_of(values, folder, seeds, rule):
    """The value whose runs are the best on validation."""
    means = []
    for value in values:
        found = [validation(Path(f"{folder}{value}-s{seed}"), rule) for seed in seeds]
        means.append([round(sum(column), 9) for column in zip(*found, strict=True)])
    return values[means.index(max(means))]


class TestTune:
    FLAGS = ["--methods", "joint,uniform", "--seeds", "0,1", "--epochs", "2"]

    def test_validation_chooses(self, tmp_path, calls, capsys):
        values = ["0.0001", "0.05", "0.003"]
        tune = ["--tune", f"learning_rate={','.join(values)}"]
        for rule, select in (("best-val", []), ("last", ["--select", "last"])):
            for row in compared(tmp_path, *self.FLAGS, *tune, *select, file="table.csv"):
                folder = f"{tmp_path}/{row['method']}-learning_rate="
                assert row["learning_rate"] == best_of(values, folder, (0, 1), rule)
            assert "6 runs for each method (3 settings x 2 seeds)" in capsys.readouterr().out
        rows = compared(tmp_path, *self.FLAGS, *tune)
        assert len(rows) == 24 and {row["learning_rate"] for row in rows} == set(values)
        assert len(calls) == 12  # 2 methods, 3 values, 2 seeds

    def test_only_whole_settings_are_chosen_among(self, tmp_path, calls, monkeypatch, capsys):
        fail_with(monkeypatch, "uniform-learning_rate=0.05-s1")
        tune = ["--tune", "learning_rate=0.05,0.0001"]
        with pytest.raises(UserError, match=r"1 of 8 runs failed: uniform learning_rate=0.05, s"):
            compared(tmp_path, *self.FLAGS, *tune)
        out = capsys.readouterr().out
        note = "uniform: only 1 of 2 settings have all their runs finished, the choice is among"
        assert note in out
        assert re.search(r"^uniform +0\.0001 +2 ", out, re.MULTILINE)

    def ranked(self, rows, values, seeds=(0,), **more):
        settings = [{"momentum": value} for value in values]
        asked = made(["joint"], settings=settings, seeds=seeds, **more)
        return [setting["momentum"] for setting in choice.ranked(asked, rows)["joint", ""]]

    def test_the_test_split_does_not_choose(self):
        """Validation does; of equals the one with the lowest loss, or, if unknown, the first."""
        scores = {"1": [(0.9, 0.2), (0.9, 0.4)], "2": [(0.1, 0.3), (0.1, 0.4)]}
        rows = [
            row_of("joint", seed, acc, val_Acc=val, momentum=value)
            for value, seeds in scores.items()
            for seed, (acc, val) in enumerate(seeds)
        ]
        assert self.ranked(rows, "12", (0, 1)) == ["2", "1"]
        for row in rows:
            row["val_F1"] = 1 - row["val_Acc"]
        assert self.ranked(rows, "12", (0, 1), select_by="macro_f1") == ["1", "2"]
        rows = [row_of("joint", 0, 0.5, val_Acc=0.5, momentum=value) for value in "312"]
        assert self.ranked(rows, "312") == [*"312"] and self.ranked(rows, "231") == [*"231"]
        for row, loss in zip(rows, (0.7, 0.2, 0.5), strict=True):
            row["val_loss"] = loss
        assert self.ranked(rows, "312") == ["1", "2", "3"]
        with pytest.raises(UserError, match="joint momentum=1 was scored on the test split only"):
            self.ranked([row_of("joint", 0, 0.5, momentum="1")], "1")

    def test_each_fold_chooses_for_itself(self):
        """Else the validation of a fold would choose for folds that test on its samples."""
        rows = [
            row_of("joint", 0, 0.5, val_Acc=val, momentum=value, fold=fold)
            for fold, both in {"fold1of2": (0.4, 0.6), "fold2of2": (0.9, 0.1)}.items()
            for value, val in zip("12", both, strict=True)
        ]
        settings = [{"momentum": value} for value in "12"]
        asked = made(["joint"], settings=settings, seeds=[0], folds=2)
        kept, (note,) = choice.table_rows(asked, rows)
        assert [(row["fold"], row["momentum"]) for row in kept] == [
            ("fold1of2", "2"), ("fold2of2", "1")
        ]  # fmt: skip
        assert note.startswith("momentum: chosen in each fold by the mean validation accuracy")
        assert "4 runs for each method (2 settings x 1 seeds x 2 folds)" in note
        assert table.summarise(asked, kept)[0]["momentum"] == "2/1"
        _, (first, _) = choice.table_rows(asked, rows[1:])
        assert first.startswith("joint, fold1of2: only 1 of 2 settings have all their runs")

    def test_no_setting_is_whole(self):
        settings = [{"momentum": "1"}, {"momentum": "2"}]
        rows = [row_of("joint", s, 0.5, val_Acc=0.5, momentum=m) for s, m in [(0, "1"), (1, "2")]]
        kept, notes = choice.table_rows(made(["joint"], settings=settings, seeds=[0, 1]), rows)
        assert kept == [] and "joint: only 0 of 2 settings" in notes[0]

    def test_own_seeds_choose(self, tmp_path, calls, capsys):
        """Then only the choice is trained with the table's seeds, none of which it has seen.

        A second call trains nothing, and reads each file of a run once.
        """
        values = ["0.0001", "0.05", "0.003"]
        flags = [*self.FLAGS, "--tune", f"learning_rate={','.join(values)}", "--tune_seeds", "8,9"]
        table = compared(tmp_path, *flags, file="table.csv")
        runs = len(calls)
        assert runs == 2 * (3 * 2 + 2)
        for row in table:
            folder = f"{tmp_path}/{row['method']}-learning_rate="
            best = best_of(values, folder, (8, 9), "best-val")
            assert row["learning_rate"] == best and row["seeds"] == "2"
            for value in values:
                assert Path(f"{folder}{value}-s0").exists() is (value == best)
            results = [
                json.loads(Path(f"{folder}{best}-s{s}/result.json").read_text()) for s in (0, 1)
            ]
            mean = statistics.mean(result["results"]["best-val"]["Acc"] for result in results)
            assert float(row["Acc_mean"]) == pytest.approx(mean, abs=1e-5)
        assert table[1]["difference_seeds"] == "" and table[0]["difference_seeds"] == "2"
        out = capsys.readouterr().out
        assert "over seeds 8, 9, none of them in the table" in out
        assert "6 runs for each method (3 settings x 2 seeds)" in out
        opened, watching = Counter(), [True]

        def note(event, arguments):
            if event == "open" and watching and str(tmp_path) in str(arguments[0]):
                opened[Path(arguments[0]).name] += 1

        sys.addaudithook(note)
        try:
            assert len(compared(tmp_path, *flags)) == 2 * runs == 2 * len(calls)
        finally:
            watching.clear()  # the hook itself stays as long as this process
        names = ("config.json", "result.json", "epochs.jsonl")
        assert [opened[name] for name in names] == [runs] * 3

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

    def test_a_failed_setting_is_not_the_choice_of_own_seeds(self, tmp_path, calls, monkeypatch):
        fail_with(monkeypatch, "joint-learning_rate=0.05-s8")
        flags = ["--methods", "joint", "--seeds", "0", "--tune", "learning_rate=0.05,0.0001"]
        with pytest.raises(UserError, match=r"1 of 3 runs failed: joint learning_rate=0.05, s"):
            compared(tmp_path, *flags, "--tune_seeds", "8")
        assert (tmp_path / "joint-learning_rate=0.0001-s0/result.json").exists()

    def test_a_setting_that_diverges_has_lost(self, tmp_path, calls, capsys):
        """It ends no comparison, and no second call trains it again."""
        flags = ["--methods", "joint", "--seeds", "0", "--tune", "learning_rate=1e30,0.05"]
        for _ in "first", "second":
            rows = compared(tmp_path, *flags, "--tune_seeds", "8", file="table.csv")
            assert [row["learning_rate"] for row in rows] == ["0.05"]
            out = capsys.readouterr().out
            note = "only 1 of 2 settings have all their runs finished (1 diverged), the choice"
            assert note in out and "Failed" not in out
        assert "== joint learning_rate=1e30, seed 8: diverged already" in out
        assert len(calls) == 3
        found = json.loads((tmp_path / "joint-learning_rate=1e30-s8/diverged.json").read_text())
        assert "not finite" in found["reason"]

    def test_what_a_divergence_holds_for(self, tmp_path, calls, capsys):
        """Neither for other data, nor for flags that may mend it."""
        flags = ["--methods", "joint", "--seeds", "0", "--tune", "learning_rate=1e30,0.05"]
        flags += ["--tune_seeds", "8"]
        compared(tmp_path, *flags)
        compared(tmp_path, *flags, "--max_skipped", "999")
        assert len(calls) == 4
        path = tmp_path / "joint-learning_rate=1e30-s8/config.json"
        config = json.loads(path.read_text())
        config["data"]["identity"] = "0" * 12
        path.write_text(json.dumps(config))
        with pytest.raises(UserError, match="the data has changed between them"):
            compared(tmp_path, *flags, "--max_skipped", "999")

    def test_a_setting_that_diverges_before_others_have_ended(self, tmp_path, calls, capsys):
        flags = ["--methods", "joint", "--seeds", "0,1"]
        with pytest.raises(UserError, match="2 of 2 runs failed"):
            compared(tmp_path, *flags, "--tune", "learning_rate=1e30")
        path = tmp_path / "joint-learning_rate=1e30-s0/diverged.json"
        path.write_text('{"reason": "one\\nline"}')
        flags = [*FLAGS, "--out", str(tmp_path), *flags, "--collect", "--tune"]
        told = "Failed: joint learning_rate=1e30, seed 0 (one\\nline)\n"
        capsys.readouterr()
        compare.main([*flags, "learning_rate=1e30,0.05"])
        out = capsys.readouterr().out
        assert "Not finished, 2 of 4 runs" in out and told not in out
        compare.main([*flags, "learning_rate=1e30"])
        assert told in capsys.readouterr().out

    def test_all_settings_diverge(self, tmp_path, calls, capsys):
        flags = ["--methods", "joint", "--seeds", "0,1", "--tune", "learning_rate=1e30,1e29"]
        with pytest.raises(UserError, match="4 of 4 runs failed: joint learning_rate=1e30, seed"):
            compared(tmp_path, *flags)
        out = capsys.readouterr().out
        assert out.count("Failed: joint learning_rate=1e") == 4 and "mean and standard" not in out

    def test_a_scored_run_that_diverges_has_failed(self, tmp_path, calls, capsys):
        flags = ["--methods", "joint", "--seeds", "0", "--learning_rate", "1e30"]
        for _ in "first", "second":
            with pytest.raises(
                UserError, match=r"1 of 1 runs failed: joint, seed 0: fix .* deleted"
            ):
                compared(tmp_path, *flags)
            assert "Failed: joint, seed 0 (e" in capsys.readouterr().out
        assert len(calls) == 1
        compare.main([*FLAGS, "--out", str(tmp_path), *flags, "--print_commands"])
        assert capsys.readouterr().out == ""
        compare.main([*FLAGS, "--out", str(tmp_path), *flags, "--collect"])
        assert "Failed: joint, seed 0 (e" in capsys.readouterr().out
        shutil.rmtree(tmp_path / "joint-s0")
        with pytest.raises(UserError, match="1 of 1 runs failed"):
            compared(tmp_path, *flags)
        assert len(calls) == 2

    def test_all_combinations(self):
        assert find_settings(["a=1,2", "b=x,y"]) == [
            {"a": "1", "b": "x"}, {"a": "1", "b": "y"}, {"a": "2", "b": "x"}, {"a": "2", "b": "y"},
        ]  # fmt: skip
