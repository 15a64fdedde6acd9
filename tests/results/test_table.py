"""From rows to means, differences and files."""

import csv
from math import sqrt
from pathlib import Path

import pytest

from mmpareto.results import figures, table
from mmpareto.results.plans import Comparison


def row(method, seed, acc, **more):
    """Of a finished run, as Plan.rows gives it."""
    scores = {"Acc": acc, "Acc_a": acc / 2, "F1": acc - 0.01, "F1_a": acc / 4}
    kept = {"rule": "last", "val_Acc": None, "conflict": None, "seconds_per_epoch": 2.0}
    return {"method": method, "seed": seed, **scores, **kept, **more}


def made(names, settings=({},), seeds=(0, 1, 2), baseline=None, folder=Path()):
    return Comparison("last", names, seeds, seeds, list(settings), baseline, folder, [])


class TestStatistics:
    def test_difference_over_common_seeds(self):
        """Seed 3 and seed 9 have no partner; 0.1 and 0.3 are left: 0.2 +- 12.706 * 0.1."""
        found = table.paired_difference({0: 0.5, 3: 0.9, 1: 0.7}, {1: 0.4, 0: 0.4, 9: 0.0})
        assert found == pytest.approx((2, 0.2, 0.2 - 1.2706, 0.2 + 1.2706), rel=1e-4)
        three = table.paired_difference({0: 1.0, 1: 2.0, 2: 3.0}, {0: 0.0, 1: 0.0, 2: 0.0})
        half = 4.303 / sqrt(3)
        assert three == pytest.approx((3, 2, 2 - half, 2 + half), abs=1e-3)
        assert table.paired_difference({0: 0.5}, {0: 0.25}) == (1, 0.25, None, None)
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
        (alone,) = table.summarise(asked, [row("pareto", 0, 0.5)])
        assert alone["difference_mean"] is None  # the baseline has no runs


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
        points = table.percents(asked, self.ROWS)
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
        points = table.percents(made(["joint"]), [row("joint", 0, 0.5)])
        paths = [tmp_path / "table.png", tmp_path / "table.svg"]
        figures.write(paths, figures.table, points, "last")
        contents = [path.read_bytes() for path in paths]
        assert contents[0].startswith(b"\x89PNG") and b">joint<" in contents[1]
        figures.write(paths, figures.table, points, "last")
        assert [path.read_bytes() for path in paths] == contents
