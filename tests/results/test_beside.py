"""analyze.py A B: several comparisons on one page."""

import csv
import shutil

import pytest
from test_compare import compared

import analyze
from mmpareto.results.analysis import beside
from mmpareto.results.table import paired_difference
from mmpareto.system.errors import UserError

pytestmark = pytest.mark.usefixtures("once", "quick", "calls")
FLAGS = ["--methods", "joint,uniform", "--seeds", "0-2"]


@pytest.fixture
def pair(tmp_path):
    """Two comparisons that differ in the fusion; their rows of the chosen epochs."""
    chosen = []
    for name, more in (("one", []), ("two", ["--fusion", "sum", "--methods", "uniform", "joint"])):
        found = compared(tmp_path / name, *FLAGS, *more)
        chosen.append([row for row in found if row["rule"] == "best-val"])
    return tmp_path / "one", tmp_path / "two", chosen


def analyzed(*words):
    analyze.main([str(word) for word in words])


def test_the_same_methods_on_the_same_data(pair, capsys):
    """Which is which, what differs, and differences seed by seed."""
    one, two, chosen = pair
    capsys.readouterr()
    analyzed(one, two)
    out = one / "analysis-one-two"
    said, text = capsys.readouterr().out, (out / "report.html").read_text()
    which, methods = (part.tables for part in beside.make(beside.find_sides([one, two]), out)[:2])
    assert [(row["comparison"], row["data"]) for row in which[0].rows] == [
        ("one", "toy"), ("two", "toy")
    ]  # fmt: skip
    assert which[1].rows == [{"flag of train.py": "fusion", "one": "concat", "two": "sum"}]
    scores = [
        {int(row["seed"]): float(row["Acc"]) for row in rows if row["method"] == "joint"}
        for rows in chosen
    ]
    found = paired_difference(scores[1], scores[0], 48)
    row = methods[0].rows[0]
    assert list(row) == ["method", "Acc, one", "Acc, two", "two less one [95% CI]"]
    assert row["method"] == "joint"
    assert row["Acc, two"].startswith(f"{100 * sum(scores[1].values()) / 3:.1f} ")
    assert row["two less one [95% CI]"].startswith(f"{100 * found.mean:+.1f} [")
    for part in ("Which is which", "Methods side by side", "one: Results", "two: Training"):
        assert f">{part}</h2>" in text
    assert said.startswith("one beside two\n") and f" {row['two less one [95% CI]']}\n" in said
    assert "Flags that differ" in text
    assert {path.stem for path in (out / "2").iterdir()} == {"plane", "curves"}
    with open(out / "beside.csv", newline="") as file:
        numbers = list(csv.DictReader(file))
    assert [(n["comparison"], n["method"]) for n in numbers] == [
        ("one", "joint"), ("one", "uniform"), ("two", "uniform"), ("two", "joint")
    ]  # fmt: skip
    assert float(numbers[3]["Acc_mean"]) == pytest.approx(sum(scores[1].values()) / 3, abs=1e-5)


def test_other_data(pair, tmp_path):
    """Then there are no differences; a method that one side lacks has a dash."""
    one, _, _ = pair
    compared(tmp_path / "x/one", "--dataset", "toy3", "--methods", "joint", "--seeds", "0")
    sides = beside.find_sides([one, tmp_path / "x/one"])
    section = beside.methods(sides, tmp_path)
    names = [str(one), str(tmp_path / "x/one")]
    assert list(section.tables[0].rows[0]) == ["method", *(f"Acc, {name}" for name in names)]
    assert section.tables[0].rows[1][f"Acc, {names[1]}"] == "-"
    assert "no differences are shown" in section.notes[0]


def test_what_cannot_stand_beside_each_other(pair, tmp_path):
    one, two, _ = pair

    def error_of(*words):
        with pytest.raises(UserError) as error:
            analyzed(*words)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "neither a run's folder" in error_of(one, tmp_path / "none")
    assert error_of(one, two / "joint-s0").startswith(f"{two / 'joint-s0'}: is one run, but only")
    assert "is given twice" in error_of(one, tmp_path / "two/../one")
    assert "--window acts only with one DIR" in error_of(one, two, "--window", "3")
    assert "--logs_only acts only with one DIR" in error_of(one, two, "--logs_only")
    compared(tmp_path / "alone", "--methods", "pareto", "--seeds", "0")
    assert "no method is in both (joint, uniform; pareto)" in error_of(one, tmp_path / "alone")
    shutil.copytree(two, tmp_path / "last")
    compared(tmp_path / "last", *FLAGS, "--fusion", "sum", "--select", "last")
    message = error_of(one, tmp_path / "last")
    assert "the first table is of best-val epochs and accuracy, the other of last epochs" in message
    assert not list(one.glob("analysis*"))
