"""compare.py: cross-validation, and macro-F1 that chooses."""

import json
import re
from collections import Counter

import pytest
from sets import write_arrays
from test_compare import compared

import compare
from mmpareto.results import choice, saved
from mmpareto.results.analysis.subject import find
from mmpareto.system.errors import UserError

pytestmark = pytest.mark.usefixtures("once", "quick")


def test_macro_f1_chooses(tmp_path, calls, capsys):
    """Of rows, table and note; its numbers are those of the epochs."""
    flags = ["--methods", "joint,uniform", "--seeds", "0", "--select_by", "macro_f1"]
    found = compared(tmp_path, *flags, "--tune", "learning_rate=0.05,0.01")
    assert {row["rule"] for row in found} == {"best-val-F1", "last"}
    lines = (tmp_path / "joint-learning_rate=0.05-s0/epochs.jsonl").read_text().splitlines()
    assert float(found[0]["val_F1"]) == pytest.approx(json.loads(lines[0])["F1"], abs=1e-5)
    out = capsys.readouterr().out
    assert "best-val-F1 epoch, mean" in out and "F1 vs uniform [95% CI]" in out
    assert "by the mean validation macro_f1" in out
    assert saved.reopen(tmp_path)[0].measure == "F1"


def test_folds(tmp_path, calls, capsys):
    """Every method on the same folds; what is saved can be read back, and looked into."""
    root = write_arrays(tmp_path / "set", (0, 1) * 20, values=[i % 7 for i in range(40)])
    words = ["--dataset", str(root), "--encoder", "mlp", "--epochs", "1", "--batch_size", "4"]
    words += ["--out", str(tmp_path / "out"), "--methods", "joint,uniform", "--seeds", "0,1"]
    words += ["--folds", "2"]
    compare.main(words)
    assert len(calls) == 8
    splits = Counter(command[command.index("--split") + 1] for command in calls)
    assert splits == {"fold1of2": 4, "fold2of2": 4}
    again, rows = saved.reopen(tmp_path / "out")
    assert again.folds == 2 and len(rows) == 16
    of = {(row["fold"], row["identity"]) for row in rows}
    assert len(of) == 2
    assert {row["test_samples"] for row in rows} == {20}
    out = capsys.readouterr().out
    assert "mean and standard deviation over folds" in out
    assert re.search(r"^joint +2 +4 ", out, re.MULTILINE)
    assert "Epochs by best-val, run by run: joint 1, 1, 1, 1;" in out
    chosen, _ = choice.table_rows(again, rows)
    subject = find(tmp_path / "out")
    assert [run.label for run in subject.runs["joint"]] == [
        f"joint, {fold}, seed {seed}" for fold in ("fold1of2", "fold2of2") for seed in (0, 1)
    ]
    assert "split" not in subject.settings() and len(chosen) == 8
    compare.main(words)
    assert len(calls) == 8
    with pytest.raises(UserError, match="--folds divides the data itself: drop --split"):
        compare.main([*words, "--split", "given"])
    with pytest.raises(UserError, match="fold1of40: 40 clips cannot be divided into 40 parts"):
        compare.main([*words, "--folds", "40"])
