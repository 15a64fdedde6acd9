"""The tables of results in README.md and docs/results are those of the CSV files."""

import csv
import re
from pathlib import Path
from statistics import mean, stdev

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "README.md", *sorted(ROOT.glob("docs/results/*.md"))


def tables():
    """Return each table of methods as (columns, rows), with the runs of its section's CSV files."""
    for page in PAGES:
        for section in re.split(r"^##+ ", page.read_text(encoding="utf-8"), flags=re.MULTILINE):
            files = sorted(set(re.findall(r"\(([\w/]+\.csv)\)", section)))
            runs = [run for file in files for run in read(page.parent / file)]
            rule = "last" if "**last**" in section else "best-val"
            for table in re.findall(r"^\| method \|.*\n(?:\|.*\n)+", section, re.MULTILINE):
                columns, _, *rows = [cells(line) for line in table.splitlines()]
                if "data" not in columns:  # of several sets, whose runs are in several tables
                    yield pytest.param(
                        columns, rows, [run for run in runs if run["rule"] == rule],
                        id=section.splitlines()[0],
                    )  # fmt: skip


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def as_name(method):
    """Return a row's method as CSV files call it: "pareto --scale 2" is pareto:scale=2."""
    return re.sub(r" --(\w+) (\w+)", r":\1=\2", method)


@pytest.mark.parametrize(("columns", "rows", "runs"), list(tables()))
def test_numbers_are_those_of_the_runs(columns, rows, runs):
    assert len(rows) > 3
    for row in rows:
        method, row = as_name(row[0]), dict(zip(columns, row, strict=True))
        own = [run for run in runs if run["method"] == method]
        if "Acc" in row:  # of one set
            assert row.get("seeds", "3") == str(len(own)), method
        for column in columns:
            if column.startswith("Acc vs uniform"):
                check_difference(row[column], method, runs, column.partition(", ")[2])
            elif column.startswith(("Acc", "F1")) and " vs " not in column:
                values = [100 * float(run[column]) for run in own]
                shown = [float(number) for number in row[column].split(" \u00b1 ")]
                assert tuple(shown) == rounded(mean(values), stdev(values)), (method, column)
        if row.get("conflict", "-") != "-":
            share = 100 * mean(float(run["conflict"]) for run in own)
            assert float(row["conflict"].rstrip("%")) == rounded(share)


def check_difference(cell, method, runs, data):
    """Compare the mean over the seeds that both methods have; data: of this set, "" of any."""
    scores = {
        name: {r["seed"]: 100 * float(r["Acc"]) for r in runs
               if r["method"] == name and r.get("data", data) == (data or r.get("data", data))}
        for name in (method, "uniform")
    }  # fmt: skip
    gaps = [
        acc - scores["uniform"][s] for s, acc in scores[method].items() if s in scores["uniform"]
    ]
    if cell == "-":
        assert method == "uniform" or not gaps, method
    else:
        assert float(cell.split()[0]) == rounded(mean(gaps)), (method, data)


def rounded(*values):
    """They are equal with one decimal; a half may be rounded either way."""
    return pytest.approx(values if len(values) > 1 else values[0], abs=0.0501)


def test_every_table_is_looked_at():
    assert len(list(tables())) == 12
