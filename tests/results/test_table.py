"""From rows to means, differences and files."""

import csv
from math import sqrt
from pathlib import Path

import numpy as np
import pytest

from mmpareto.results import choice, figures, table
from mmpareto.results.plans import Comparison


def row(method, seed, acc, **more):
    """Of a finished run, as Plan.rows gives it."""
    scores = {"Acc": acc, "Acc_a": acc / 2, "F1": acc - 0.01, "F1_a": acc / 4}
    kept = {"rule": "last", "val_Acc": None, "conflict": None, "seconds_per_epoch": 2.0}
    return {"method": method, "seed": seed, **scores, **kept, **more}


def made(names, settings=({},), seeds=(0, 1, 2), baseline=None, folder=Path(), **asked):
    asked = {"select": "last", "seeds": seeds, "tune_seeds": seeds, "plans": []} | asked
    return Comparison(
        names=names, settings=list(settings), baseline=baseline, folder=folder, **asked
    )


class TestStatistics:
    def test_difference_over_common_seeds(self):
        """Seed 3 and seed 9 have no partner; 0.1 and 0.3 are left, too few for an interval."""
        found = table.paired_difference({0: 0.5, 3: 0.9, 1: 0.7}, {1: 0.4, 0: 0.4, 9: 0.0})
        assert found == (2, pytest.approx(0.2), None, None)
        three = table.paired_difference({0: 1.0, 1: 2.0, 2: 3.0}, {0: 0.0, 1: 0.0, 2: 0.0})
        half = 4.303 / sqrt(3)
        assert three == pytest.approx((3, 2, 2 - half, 2 + half), abs=1e-3)
        assert table.paired_difference({0: 0.5}, {0: 0.25}) == (1, 0.25, None, None)
        assert table.paired_difference({0: 0.5}, {1: 0.5}) is None

    def test_no_interval_is_narrower_than_a_sample(self):
        """Three seeds that happen to agree on one sample of 50, and three that do not."""
        one, other = {0: 0.5, 1: 0.6, 2: 0.7}, {0: 0.48, 1: 0.58, 2: 0.68}
        assert table.paired_difference(one, other, 50)[1:] == pytest.approx((0.02, 0.01, 0.03))
        wide = table.paired_difference({**one, 0: 0.9}, other)
        assert table.paired_difference({**one, 0: 0.9}, other, 50) == wide
        rows = [row("uniform", s, a, test_samples=n) for s, a, n in
                [(0, 0.48, 50), (1, 0.58, 50), (2, 0.68, 40)]]  # fmt: skip
        rows += [row("pareto", s, a) for s, a in one.items()]
        asked = made(["uniform", "pareto"], baseline="uniform")
        found = table.summarise(asked, rows)[1]
        assert found["difference_high"] - found["difference_low"] == pytest.approx(1 / 40)
        assert "no narrower than 2.5, one of 40 samples" in choice.table_rows(asked, rows)[1][0]

    def test_folds_are_not_independent(self):
        """Nadeau and Bengio's variance, literally; one fold has a single common seed."""
        own = {("f1", 0): 0.70, ("f1", 1): 0.74, ("f2", 0): 0.60, ("f3", 0): 0.66, ("f3", 7): 0.9}
        base = {("f1", 0): 0.60, ("f1", 1): 0.60, ("f2", 0): 0.58, ("f3", 0): 0.60, ("f2", 1): 0}
        d = [(0.10 + 0.14) / 2, 0.02, 0.06]
        m = sum(d) / 3
        s2 = sum((x - m) ** 2 for x in d) / 2
        half = 4.302653 * sqrt((1 / 3 + 1 / 4) * s2)  # of 5 folds, test / rest is 1 / 4
        found = table.paired_difference(own, base, folds=5)
        assert found == pytest.approx((3, m, m - half, m + half), abs=1e-6)

    @pytest.mark.slow  # thousands of trainings, of a small kind
    def test_coverage(self):
        """Of 95 % intervals of a true difference between two learners, by cross-validation.

        Two nearest-centroid classifiers, one of which sees half of the features; a seed leaves a
        fifth of the features out. Taken for independent, 15 runs give intervals that are too short.
        """
        random, n, size, folds, seeds = np.random.default_rng(0), 60, 10, 5, 3

        def drawn(n):
            labels = random.permutation(np.arange(n) % 2)
            return random.normal(0, 1, (n, size)) + 0.7 * labels[:, None] - 0.35, labels

        def accuracy(x, y, test_x, test_y, kept):
            one, two = (x[y == label][:, kept].mean(0) for label in (0, 1))
            nearer = ((test_x[:, kept] - one) ** 2).sum(1) > ((test_x[:, kept] - two) ** 2).sum(1)
            return float((nearer == test_y).mean())

        def difference(train, test):
            kept = np.sort(random.permutation(size)[:8])
            return accuracy(*train, *test, kept), accuracy(*train, *test, kept[kept < 5])

        many = drawn(2000)
        rest = n - n // folds
        truth = [difference(drawn(rest), many) for _ in range(2000)]
        truth = np.mean([one - other for one, other in truth])
        covered = {"folds": 0, "independent": 0}
        repeats = 600
        for _ in range(repeats):
            x, y = drawn(n)
            parts = np.array_split(np.arange(n), folds)
            one, other = {}, {}
            for fold, test in enumerate(parts):
                train = np.setdiff1d(np.arange(n), test)
                for seed in range(seeds):
                    run = fold, seed
                    one[run], other[run] = difference((x[train], y[train]), (x[test], y[test]))
            for name, count in (("folds", folds), ("independent", 0)):
                found = table.paired_difference(one, other, folds=count)
                covered[name] += found.low <= truth <= found.high
        shares = {name: count / repeats for name, count in covered.items()}
        assert shares["folds"] > 0.93 and shares["independent"] < 0.88, shares

    def test_summary_of_folds(self):
        """A fold's number is the mean of its seeds; deviations and differences are over folds."""
        scores = {"uniform": [0.1, 0.3, 0.2, 0.4, 0.6, 0.6], "joint": [0.5, 0.5, 0.3, 0.5, 0.6, 1]}
        rows = [
            row(name, i % 2, acc, fold=f"fold{i // 2 + 1}of3", test_samples=100)
            for name, mine in scores.items()
            for i, acc in enumerate(mine)
        ]
        asked = made(["joint", "uniform"], seeds=(0, 1), baseline="uniform", folds=3)
        joint, uniform = table.summarise(asked, rows)
        assert (joint["folds"], joint["runs"], joint["difference_folds"]) == (3, 6, 3)
        assert uniform["Acc_mean"] == pytest.approx((0.2 + 0.3 + 0.6) / 3)
        assert uniform["Acc_std"] == pytest.approx(0.2081666)
        d = [0.3, 0.1, 0.2]
        half = 4.302653 * 0.1 * sqrt(1 / 3 + 1 / 2)
        assert joint["difference_mean"] == pytest.approx(sum(d) / 3)
        assert joint["difference_low"] == pytest.approx(0.2 - half, abs=1e-6)
        assert table.percents(asked, rows)["Acc"]["uniform"] == pytest.approx([20, 30, 60])
        assert "over folds" in table.title(asked, rows)
        shown = table.cells(asked, [joint, uniform])[0]
        assert list(shown)[:4] == ["method", "folds", "runs", "Acc"]
        (note, *_) = choice.table_rows(asked, rows)[1]
        assert "corrected t (Nadeau and Bengio) over folds" in note and "from 3 folds on" in note

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
        (alone,) = table.summarise(asked, [row("pareto", 0, 0.5)])
        assert alone["difference_mean"] is None  # the baseline has no runs

    def test_differences_of_f1(self):
        rows = [row("uniform", 0, 0.5), row("pareto", 0, 0.7, F1=0.3)]
        asked = made(["uniform", "pareto"], baseline="uniform", select_by="macro_f1")
        summary = table.summarise(asked, rows)
        assert summary[1]["difference_mean"] == pytest.approx(0.3 - 0.49)
        assert table.cells(asked, summary)[1]["F1 vs uniform [95% CI]"] == "-19.0"


class TestNotes:
    def notes(self, scores, **more):
        """scores: {rule: [(Acc, Acc_a) of each seed]}; epoch 3 is best, 9 the last."""
        rows = [
            row("joint", s, acc, Acc_a=a, rule=rule, epoch=9 if rule == "last" else 3, **more)
            for rule, found in scores.items()
            for s, (acc, a) in enumerate(found)
        ]
        return choice.table_rows(made(["joint"], select="best-val"), rows)[1]

    def test_of_epochs(self):
        """Notes name the last epoch where it is outside the interval, or margin of n samples."""
        best = [(0.5, 0.5), (0.6, 0.5), (0.55, 0.5)]
        last = [(0.52, 0.7), (0.58, 0.72), (0.55, 0.71)]
        start = "Epochs by best-val, seed by seed: joint 3"
        first, second = self.notes({"best-val": best, "last": last}, test_samples=400)
        assert first == f"{start}, 3, 3"
        assert second.startswith("joint: the last epoch")
        assert "(Acc_a +21.0 [+18.5, +23.5] points)" in second
        one = {"best-val": best[:1], "last": last[:1]}
        assert self.notes(one) == [start]
        assert "(Acc_a +20.0 points)" in self.notes(one, test_samples=400)[1]
        assert self.notes(one, test_samples=24) == [start]
        assert self.notes({"last": last}) == []


class TestFiles:
    ROWS = [row("joint", s, acc) for s, acc in enumerate([0.25, 0.35, 0.3])] + [
        row("ogm_ge:without_ge", s, acc, conflict=0.5) for s, acc in enumerate([0.5, 0.4, 0.45])
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
        assert (first["Acc_mean"], first["seeds"]) == ("0.45", "3")
        assert float(second["Acc_std"]) == pytest.approx(0.05, rel=1e-4)
        assert (first["conflict_mean"], second["conflict_mean"]) == ("0.5", "")

    def test_markdown(self, folder):
        heading, table, note = (folder / "table.md").read_text(encoding="utf-8").split("\n\n")
        assert "last epoch" in heading and note == "a note\n"
        lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
        assert lines[0][:3] == ["method", "seeds", "Acc"]
        # differences 0.25, 0.05 and 0.15: 15 +- 4.303 * 10 / sqrt(3)
        assert lines[2] == [
            "ogm_ge:without_ge", "3", "45.0 \u00b1 5.0", "22.5 \u00b1 2.5", "44.0 \u00b1 5.0",
            "50.0%", "+15.0 [-9.8, +39.8]",
        ]  # fmt: skip
        assert lines[3][-2:] == ["-", "-"]

    def test_latex(self, folder):
        text = (folder / "table.tex").read_text(encoding="utf-8")
        lines = text.splitlines()
        assert lines[0].startswith("% Test accuracy") and lines[1] == "% a note"
        assert lines[2] == r"\begin{tabular}{lrrrrrr}" and lines[-1] == r"\end{tabular}"
        assert text.count("rule") == 3  # top, mid, bottom
        row = next(line for line in lines if "ogm" in line)
        assert row.startswith(r" ogm\_ge:without\_ge ") and r" 45.0 $\pm$ 5.0 " in row
        assert r"50.0\%" in row and r"$+$15.0 [$-$9.8, $+$39.8]" in row

    def test_picture(self, tmp_path):
        """A panel for each accuracy; methods from the top in their order; every seed is a dot."""
        asked = made(["ogm_ge:without_ge", "joint"])
        points = table.percents(asked, self.ROWS)
        assert points["Acc"] == {"ogm_ge:without_ge": [50, 40, 45], "joint": [25, 35, 30]}
        panels = figures.table(points, "last").axes
        assert [panel.get_title() for panel in panels] == ["Acc", "Acc_a"]
        names = [text.get_text() for text in panels[0].get_yticklabels()]
        assert names == ["ogm_ge:without_ge", "joint"]
        assert panels[0].get_ylim()[0] > panels[0].get_ylim()[1]
        dots = [list(line.get_xdata()) for line in panels[1].lines if line.get_marker() == "o"]
        assert dots == [[25, 20, 22.5], [12.5, 17.5, 15]]
        (bar,) = panels[0].collections[0].get_segments()
        assert bar[:, 0] == pytest.approx([40, 50])

    def test_picture_files(self, tmp_path):
        points = table.percents(made(["joint"]), [row("joint", 0, 0.5)])
        paths = [tmp_path / "table.png", tmp_path / "table.svg"]
        figures.write(paths, figures.table, points, "last")
        contents = [path.read_bytes() for path in paths]
        assert contents[0].startswith(b"\x89PNG") and b">joint<" in contents[1]
        figures.write(paths, figures.table, points, "last")
        assert [path.read_bytes() for path in paths] == contents


@pytest.mark.parametrize(
    ("count", "width", "heights", "shape"),
    [(8, 2.5, (1,), (2, 4)), (7, 2.5, (1,), (2, 4)), (6, 3.3, (3, 1), (4, 3)),
     (5, 2.5, (1, 1, 1), (6, 3)), (1, 12, (1,), (1, 1))],
)  # fmt: skip
def test_panels_go_on_below(count, width, heights, shape):
    """Every column keeps its panels together, and none is left without content."""
    figure, columns = figures.grid(count, width, 2, heights)
    assert len(columns) == count and len(figure.axes) == count * len(heights)
    places = [[panel.get_subplotspec() for panel in column] for column in columns]
    assert places[0][0].get_gridspec().get_geometry() == shape
    for number, column in enumerate(places):
        row, across = divmod(number, shape[1])
        found = [(place.rowspan.start, place.colspan.start) for place in column]
        assert found == [(row * len(heights) + k, across) for k in range(len(heights))]
