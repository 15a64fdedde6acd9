"""Turn finished runs into a table of methods: means over seeds, paired differences, files."""

import re
import statistics
from math import sqrt
from typing import Any, NamedTuple

from ..run.report import mean
from ..system.writing import write_text
from .plans import MEASURED, Comparison, label
from .saved import write_numbers

FEWEST = 3  # seeds, or folds, for an interval: two that happen to agree would have width zero


class Difference(NamedTuple):
    """The difference between two methods' scores, over the seeds, or folds, that both have."""

    count: int
    mean: float
    low: float | None  # the ends of the mean's 95 % confidence interval; None below FEWEST
    high: float | None


def paired_difference(
    scores: dict, baseline: dict, samples: int | None = None, folds: int = 0
) -> Difference | None:
    """Mean of scores - baseline, both {run: score}; None without a common run.

    A run is a seed or, with folds, a pair of fold and seed. Accuracies over so many samples are
    multiples of 1 / samples: no interval is narrower than that.

    The models of two folds learn from common samples, so that their scores vary together: the
    spread between K folds is too small by far to be that of independent repetitions. The interval
    is the corrected resampled t of Nadeau and Bengio (Inference for the generalization error,
    Machine Learning 52, 2003): with J differences, each a fold's mean over seeds, of variance s^2,
    the variance of their mean is (1 / J + test / rest) s^2, and test / rest is 1 / (K - 1).
    """
    units: dict[Any, list[float]] = {}
    for run in scores:
        if run in baseline:
            unit = run[0] if folds else run
            units.setdefault(unit, []).append(scores[run] - baseline[run])
    if not units:
        return None
    differences = [statistics.mean(values) for values in units.values()]
    count, middle = len(differences), statistics.mean(differences)
    if count < FEWEST:
        return Difference(count, middle, None, None)
    from scipy.special import stdtrit  # Student's t, as scipy.stats computes it, in less time

    shared = 1 / (folds - 1) if folds else 0.0
    error = statistics.stdev(differences) * sqrt(1 / count + shared)
    half = float(stdtrit(count - 1, 0.975) * error)
    half = max(half, 0.5 / samples if samples else 0.0)
    return Difference(count, middle, middle - half, middle + half)


def deviation(values: list[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def accuracies(scores: dict[str, Any]) -> list[str]:
    """The names of the accuracies among scores: Acc and every Acc_MODALITY."""
    return [name for name in scores if name.split("_")[0] == "Acc"]


def samples_of(rows: list[dict]) -> int | None:
    """The number of test samples of each run, the fewest if they differ; None if unknown."""
    return min((run["test_samples"] for run in rows if run.get("test_samples")), default=None)


def summarise(comparison: Comparison, rows: list[dict]) -> list[dict]:
    """Return a row of plain numbers for each method: means and standard deviations.

    Accuracies, F1, conflict and differences are shares (0 to 1); None if unknown.
    """
    columns = accuracies(rows[0])
    columns += [f"F1{column[3:]}" for column in columns]
    by_method = comparison.by_method(rows)
    score = comparison.measure
    scores = {
        name: {comparison.run_of(row): row[score] for row in mine}
        for name, mine in by_method.items()
    }
    summary = []
    for name, mine in by_method.items():
        row = {"method": name, **comparison.setting_of(*mine)}
        row |= {"folds": len({run["fold"] for run in mine})} if comparison.folds else {}
        row["runs" if comparison.folds else "seeds"] = len(mine)
        for column in (*columns, *MEASURED):
            known = comparison.by_unit(mine, column)
            row[f"{column}_mean"] = mean(known)
            row[f"{column}_std"] = deviation(known)
        if baseline := comparison.baseline:
            others = {} if name == baseline else scores.get(baseline, {})
            found = paired_difference(scores[name], others, samples_of(rows), comparison.folds)
            for field in Difference._fields:
                column = comparison.units if field == "count" else field
                row[f"difference_{column}"] = getattr(found, field, None)
        summary.append(row)
    return summary


def cells(comparison: Comparison, summary: list[dict]) -> list[dict[str, str]]:
    """The summary as it is read: percent, one decimal."""
    scores = [column[:-5] for column in summary[0] if re.match("Acc.*_mean$", column)] + ["F1"]
    table = []
    for row in summary:
        shown = {"method": row["method"], **comparison.setting_of(row)}
        shown |= {name: str(row[name]) for name in ("folds", "runs", "seeds") if name in row}
        for name in scores:
            shown[name] = spread(row[f"{name}_mean"], row[f"{name}_std"])
        conflict = row["conflict_mean"]
        shown["conflict"] = "-" if conflict is None else f"{conflict:.1%}"
        if comparison.baseline:
            difference = (row[f"difference_{end}"] for end in ("mean", "low", "high"))
            shown[f"{comparison.measure} vs {comparison.baseline} [95% CI]"] = points(*difference)
        table.append(shown)
    return table


def spread(middle: float, deviation: float | None) -> str:
    """Mean and standard deviation in percent."""
    return f"{100 * middle:.1f}" + ("" if deviation is None else f" +- {100 * deviation:.1f}")


def points(difference: float | None, low: float | None, high: float | None) -> str:
    """A difference in percentage points with its interval; a dash where there is none."""
    if difference is None:
        return "-"
    interval = "" if low is None or high is None else f" [{100 * low:+.1f}, {100 * high:+.1f}]"
    return f"{100 * difference:+.1f}{interval}"


def title(comparison: Comparison, rows: list[dict]) -> str:
    return (
        f"Test accuracy and macro-F1 (%), {rows[0]['rule']} epoch, "
        f"mean and standard deviation over {comparison.units}"
    )


def as_text(table: list[dict[str, str]], form: str) -> str:
    """The cells in one of tabulate's forms."""
    from tabulate import tabulate

    sides = ["left", *["right"] * (len(table[0]) - 1)]
    return tabulate(table, "keys", form, disable_numparse=True, colalign=sides)


def write_table_files(
    comparison: Comparison, rows: list[dict], summary: list[dict], notes: list[str]
) -> None:
    """table.csv in plain numbers, and the table to read as .md and, for booktabs, as .tex."""
    table, heading, folder = cells(comparison, summary), title(comparison, rows), comparison.folder
    write_numbers(folder / "table.csv", summary)
    markdown = as_text(table, "pipe").replace(" +- ", " \u00b1 ")
    write_text(folder / "table.md", "\n\n".join([heading, markdown, *notes]) + "\n")
    latex = as_text(table, "latex_booktabs").replace(" +- ", r" $\pm$ ")
    latex = re.sub(r"(?<=[ \[])([+-])(?=\d)", r"$\1$", latex)
    comments = [f"% {line}" for line in (heading, *notes)]
    write_text(folder / "table.tex", "\n".join([*comments, latex]) + "\n")


def percents(comparison: Comparison, rows: list[dict]) -> dict[str, dict[str, list[float]]]:
    """{accuracy: {method with its setting: percent of each seed, or fold}}, methods in order."""
    methods = {
        label(name, comparison.setting_of(*mine)): mine
        for name, mine in comparison.by_method(rows).items()
    }
    return {
        column: {
            name: [100 * value for value in comparison.by_unit(mine, column)]
            for name, mine in methods.items()
        }
        for column in accuracies(rows[0])
    }
