"""From finished runs to a table of methods: means over seeds, paired differences, files."""

import re
import statistics
from math import sqrt
from typing import NamedTuple

from ..run.report import mean
from ..system.writing import write_text
from .plans import MEASURED, Comparison, label
from .saved import write_numbers


class Difference(NamedTuple):
    """Of one method's scores from another's, over the seeds that both have."""

    seeds: int
    mean: float
    low: float | None  # the ends of the mean's 95 % confidence interval; None with one seed
    high: float | None


def interval(values: list[float]) -> tuple[float, float] | None:
    """95 % confidence interval of the mean, by Student's t; None for a single value."""
    if len(values) < 2:
        return None
    from scipy.stats import t

    half = t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / sqrt(len(values))
    middle = statistics.mean(values)
    return float(middle - half), float(middle + half)


def paired_difference(scores: dict[int, float], baseline: dict[int, float]) -> Difference | None:
    """Mean of scores - baseline, both {seed: score}; None without a common seed."""
    differences = [scores[seed] - baseline[seed] for seed in scores if seed in baseline]
    if not differences:
        return None
    low, high = interval(differences) or (None, None)
    return Difference(len(differences), statistics.mean(differences), low, high)


def accuracies(rows: list[dict]) -> list[str]:
    """Acc and every Acc_MODALITY."""
    return [column for column in rows[0] if column.split("_")[0] == "Acc"]


def summarise(comparison: Comparison, rows: list[dict]) -> list[dict]:
    """A row of plain numbers for every method: mean and standard deviation of all that rows hold.

    Accuracies, F1, conflict and differences are shares (0 to 1); None is what cannot be known.
    """
    columns = accuracies(rows)
    columns += [f"F1{column[3:]}" for column in columns]
    columns += MEASURED
    by_method = {name: [r for r in rows if r["method"] == name] for name in comparison.names}
    baseline = by_method.get(comparison.baseline, [])
    summary = []
    for name, mine in by_method.items():
        if not mine:
            continue
        row = {"method": name, **{flag: mine[0][flag] for flag in comparison.settings[0]}}
        row["seeds"] = len(mine)
        for column in columns:
            known = [run[column] for run in mine if run[column] is not None]
            row[f"{column}_mean"] = mean(known)
            row[f"{column}_std"] = statistics.stdev(known) if len(known) > 1 else None
        if comparison.baseline:
            difference = None
            if name != comparison.baseline:
                difference = paired_difference(_by_seed(mine), _by_seed(baseline))
            for field in Difference._fields:
                row[f"difference_{field}"] = getattr(difference, field, None)
        summary.append(row)
    return summary


def _by_seed(rows: list[dict]) -> dict[int, float]:
    return {row["seed"]: row["Acc"] for row in rows}


def cells(comparison: Comparison, summary: list[dict]) -> list[dict[str, str]]:
    """The summary as it is read: percent, one decimal."""
    columns = [column[: -len("_mean")] for column in summary[0] if re.match("Acc.*_mean$", column)]
    table = []
    for row in summary:
        shown = {"method": row["method"], **{flag: row[flag] for flag in comparison.settings[0]}}
        shown["seeds"] = str(row["seeds"])
        for column in [*columns, "F1"]:
            shown[column] = _spread(row[f"{column}_mean"], row[f"{column}_std"])
        conflict = row["conflict_mean"]
        shown["conflict"] = "-" if conflict is None else f"{conflict:.1%}"
        shown["s/epoch"] = f"{row['seconds_per_epoch_mean']:.1f}"
        if comparison.baseline:
            shown[f"Acc vs {comparison.baseline} [95% CI]"] = _difference(row)
        table.append(shown)
    return table


def _spread(middle: float, deviation: float | None) -> str:
    after = "" if deviation is None else f" +- {100 * deviation:.1f}"
    return f"{100 * middle:.1f}{after}"


def _difference(row: dict) -> str:
    if row["difference_mean"] is None:
        return "-"
    low, high = row["difference_low"], row["difference_high"]
    after = "" if low is None else f" [{100 * low:+.1f}, {100 * high:+.1f}]"
    return f"{100 * row['difference_mean']:+.1f}{after}"


def title(rows: list[dict]) -> str:
    return (
        f"Test accuracy and macro-F1 (%), {rows[0]['rule']} epoch, "
        "mean and standard deviation over seeds"
    )


def as_text(table: list[dict[str, str]], form: str) -> str:
    """The cells in one of tabulate's forms."""
    from tabulate import tabulate

    sides = ["left", *["right"] * (len(table[0]) - 1)]
    return tabulate(table, "keys", form, disable_numparse=True, colalign=sides)


def as_markdown(heading: str, table: list[dict[str, str]], notes: list[str]) -> str:
    text = as_text(table, "pipe").replace(" +- ", " \u00b1 ")
    return "\n\n".join([heading, text, *notes]) + "\n"


def as_latex(heading: str, table: list[dict[str, str]], notes: list[str]) -> str:
    """A tabular for booktabs; heading and notes are comments."""
    text = as_text(table, "latex_booktabs").replace(" +- ", r" $\pm$ ")
    text = re.sub(r"(?<=[ \[])([+-])(?=\d)", r"$\1$", text)
    return "\n".join([*(f"% {line}" for line in [heading, *notes]), text]) + "\n"


def write_table_files(
    comparison: Comparison, rows: list[dict], summary: list[dict], notes: list[str]
) -> None:
    """table.csv in plain numbers, and the table to read as .md and .tex."""
    table, heading, folder = cells(comparison, summary), title(rows), comparison.folder
    write_numbers(folder / "table.csv", summary)
    write_text(folder / "table.md", as_markdown(heading, table, notes))
    write_text(folder / "table.tex", as_latex(heading, table, notes))


def points(comparison: Comparison, rows: list[dict]) -> dict[str, dict[str, list[float]]]:
    """{accuracy: {method: percent of each seed}}, methods in their order."""
    methods: dict[str, list[dict]] = {}
    for name in comparison.names:
        for row in (row for row in rows if row["method"] == name):
            setting = {flag: row[flag] for flag in comparison.settings[0]}
            methods.setdefault(label(name, setting), []).append(row)
    return {
        column: {name: [100 * row[column] for row in mine] for name, mine in methods.items()}
        for column in accuracies(rows)
    }
