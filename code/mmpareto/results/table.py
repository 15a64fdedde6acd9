"""From finished runs to a table of methods: means over seeds, paired differences, files."""

import json
import re
import statistics
from argparse import Namespace
from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite, sqrt
from pathlib import Path
from typing import Any, NamedTuple

from ..run.folder import Finished, finished
from ..run.options import as_config, data_flags
from ..run.records import Result, read_epochs
from ..run.report import mean
from ..system import records
from ..system.errors import UserError
from ..system.lock import TABLES, Lock
from ..system.paths import clear_errors
from ..system.tables import quote_formula, read_csv, unquote_formula, write_table
from ..system.writing import write_json, write_text

FILE = "comparison.json"  # of a comparison's folder
MEASURED = ("conflict", "seconds_per_epoch")  # of a run besides its scores


class Plan(NamedTuple):
    """One run to be made."""

    name: str  # the method with its flags, as given
    setting: dict[str, str]  # {flag: value} that --tune tries
    seed: int
    arguments: list[str]  # of train.py
    flags: Namespace

    @property
    def folder(self) -> Path:
        return self.flags.out

    @property
    def label(self) -> str:
        return f"{label(self.name, self.setting)}, seed {self.seed}"

    def finished(self) -> Finished | None:
        return finished(self.folder, as_config(self.flags))

    def result(self) -> Result | None:
        """What the finished run has written; None where it is not finished."""
        done = self.finished()
        return done and done.result

    def data(self) -> str | None:
        """The identity of its finished run's data; None where that is not known."""
        done = self.finished()
        return done and done.config.identity


class Comparison(NamedTuple):
    """What is compared."""

    folder: Path  # of all runs and of the table
    select: str
    names: list[str]
    seeds: list[int]  # of the table
    tune_seeds: list[int]  # that choose among settings: the table's, or --tune_seeds
    settings: list[dict[str, str]]  # that --tune tries; a single empty one without it
    baseline: str | None
    plans: list[Plan]  # of all settings with all seeds


class Difference(NamedTuple):
    """Of one method's scores from another's, over the seeds that both have."""

    seeds: int
    mean: float
    low: float | None  # the ends of the mean's 95 % confidence interval; None with one seed
    high: float | None


def label(name: str, setting: dict[str, str]) -> str:
    return " ".join([name, *(f"{flag}={value}" for flag, value in setting.items())])


def folder_name(name: str, setting: dict[str, str], seed: str | int) -> str:
    tried = [f"{flag}={value}" for flag, value in setting.items()]
    return re.sub(r"[^\w.,=+-]", "-", "-".join([*name.split(":"), *tried, f"s{seed}"]))


def read(plan: Plan) -> list[dict]:
    """A finished run as rows, one for each rule that chose an epoch; none where it is unfinished.

    val_Acc: validation accuracy of that epoch, None where validation was not looked at.
    """
    done = plan.finished()
    if done is None:
        return []
    config, result = done
    kept = {key: getattr(result, key) for key in MEASURED}
    kept |= {"commit": config.commit, "threads": config.threads, **config.versions}
    validation = _validation(plan.folder)
    return [
        {
            "method": plan.name,
            **plan.setting,
            "seed": plan.seed,
            "rule": rule,
            "epoch": scores["epoch"],
            "val_Acc": validation.get(scores["epoch"]),
            **scores,
            **kept,
        }
        for rule, scores in result.results.items()
    ]


def _validation(folder: Path) -> dict[int, float]:
    """{epoch: joint accuracy} of the epochs scored on the validation split."""
    return {epoch.epoch: epoch.Acc for epoch in read_epochs(folder) if epoch.split == "val"}


def check_data(trained_on: Iterable[tuple[Plan, str | None]]) -> None:
    """UserError where runs whose dataset has the same flags have seen different data."""
    first: dict[str, tuple[Plan, str]] = {}
    for plan, found in trained_on:
        if found is None:
            continue
        group = json.dumps(data_flags(plan.flags), sort_keys=True)
        other, before = first.setdefault(group, (plan, found))
        if found != before:
            raise UserError(
                f"{other.label} and {plan.label}: the data has changed between them (identity "
                f"{before}, then {found}), one table cannot hold both: restore the data, or give "
                "another --out"
            )


def of_rule(rows: list[dict], select: str) -> list[dict]:
    """The rows of the epoch that --select names; of the last one where no other was chosen."""
    return [row for row in rows if row["rule"] == select] or [
        row for row in rows if row["rule"] == "last"
    ]


def complete(rows: list[dict], settings: list[dict], seeds: list[int]) -> list[dict]:
    """The settings of which one method's rows hold every seed."""
    return [setting for setting in settings if len(_having(rows, setting)) == len(seeds)]


def choose(rows: list[dict], settings: list[dict]) -> dict[str, str]:
    """The setting with the highest mean validation accuracy, the first of equals."""
    if any(row["val_Acc"] is None for row in rows):
        raise UserError(
            f"--tune: {label(rows[0]['method'], settings[0])} was scored on the test split only, "
            "and validation has to choose: give a --split with a validation part, or drop --tune"
        )
    return max(
        settings,
        key=lambda setting: statistics.mean(row["val_Acc"] for row in _having(rows, setting)),
    )


def _having(rows: list[dict], setting: dict) -> list[dict]:
    return [row for row in rows if setting.items() <= row.items()]


def first_plans(comparison: Comparison) -> list[Plan]:
    """Those that do not depend on which setting is chosen: all without --tune_seeds."""
    return [plan for plan in comparison.plans if plan.seed in comparison.tune_seeds]


def plans_of_choice(comparison: Comparison) -> list[Plan]:
    """Those of the settings that --tune_seeds have chosen, with the table's seeds."""
    if comparison.seeds == comparison.tune_seeds:
        return []
    rows = [row for plan in first_plans(comparison) for row in read(plan)]
    chosen = choices(comparison, of_rule(rows, comparison.select))
    others = [plan for plan in comparison.plans if plan.seed in comparison.seeds]
    return [plan for plan in others if chosen.get(plan.name) == plan.setting]


def asked_plans(comparison: Comparison) -> list[Plan]:
    """Those that are asked for, as far as choices are known."""
    return [*first_plans(comparison), *plans_of_choice(comparison)]


def choices(comparison: Comparison, rows: list[dict]) -> dict[str, dict[str, str]]:
    """{method: the setting chosen among those that have all their runs}; others are left out."""
    chosen = {}
    for name in comparison.names:
        mine = _choosing(comparison, name, rows)
        if whole := complete(mine, comparison.settings, comparison.tune_seeds):
            mine = [row for setting in whole for row in _having(mine, setting)]
            chosen[name] = choose(mine, whole)
    return chosen


def _choosing(comparison: Comparison, name: str, rows: list[dict]) -> list[dict]:
    """One method's rows of the seeds that choose."""
    seeds = comparison.tune_seeds
    return [row for row in rows if row["method"] == name and row["seed"] in seeds]


def pick_settings(comparison: Comparison, rows: list[dict]) -> tuple[list[dict], list[str]]:
    """The table's rows of every method's choice, and what the reader has to know of the choice."""
    kept, notes = [], []
    seeds, total = comparison.tune_seeds, len(comparison.settings)
    chosen = choices(comparison, rows)
    for name in comparison.names:
        whole = complete(_choosing(comparison, name, rows), comparison.settings, seeds)
        if len(whole) < total:
            notes.append(
                f"{name}: only {len(whole)} of {total} settings have all their runs finished"
                + (", the choice is among them" if whole else ": not in the table")
            )
        if whole:
            mine = [row for row in rows if row["method"] == name]
            mine = [row for row in mine if row["seed"] in comparison.seeds]
            kept += _having(mine, chosen[name])
    flags = ", ".join(comparison.settings[0])
    which = "seeds"
    if seeds != comparison.seeds:
        which = f"seeds {', '.join(map(str, seeds))}, none of them in the table"
    notes.append(
        f"{flags}: chosen by the mean validation accuracy over {which}, never by the test split; "
        f"{total * len(seeds)} runs for each method ({total} settings x {len(seeds)} seeds)"
    )
    return kept, notes


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


def table_lock(folder: Path) -> Lock:
    """Waits for whoever writes tables into folder at this moment; runs there may go on."""
    with clear_errors(f"--out {folder}"):
        return Lock(folder, name=TABLES, waits=True)


def write_runs(comparison: Comparison, rows: list[dict]) -> Path:
    """Every run, seed and rule; and what is compared, for `reopen`."""
    path = comparison.folder / "runs.csv"
    write_numbers(path, rows)
    kept = {k: v for k, v in comparison._asdict().items() if k not in ("folder", "plans")}
    write_json(comparison.folder / FILE, kept)
    return path


@dataclass(frozen=True)
class Made:
    """comparison.json: a `Comparison` without its folder and plans."""

    select: str
    names: list[str]
    seeds: list[int]
    tune_seeds: list[int]
    settings: list[dict[str, str]]
    baseline: str | None

    def __post_init__(self) -> None:
        records.check(
            names=bool(self.names),
            seeds=all(map(records.is_count, self.seeds)),
            tune_seeds=all(map(records.is_count, self.tune_seeds)),
            settings=len({tuple(sorted(setting)) for setting in self.settings}) == 1,
        )


def reopen(folder: Path) -> tuple[Comparison, list[dict]]:
    """The comparison that has written folder, without its plans, and its rows as `read` has them.

    Numbers have the digits that runs.csv has.
    """
    try:
        made = records.as_record(records.load(folder / FILE), Made)
        comparison = Comparison(folder, **vars(made), plans=[])
        (_, columns), *lines = read_csv(folder / "runs.csv")
        texts = {"method", "rule", *comparison.settings[0]}
        scores = [name for name in columns if name.split("_")[0] == "Acc"]
        scores += [f"F1{name[3:]}" for name in scores]
        needed = {*texts, *scores, "seed", "epoch", "Acc", "val_Acc", *MEASURED}
        if lacking := needed - set(columns):
            raise ValueError(f"no column {', '.join(sorted(lacking))}")
        rows = [dict(zip(columns, map(unquote_formula, row), strict=True)) for _, row in lines]
        rows = [
            {name: text if name in texts else _number(name, text) for name, text in row.items()}
            for row in rows
        ]
        if any(row[name] is None for row in rows for name in (*scores, "seconds_per_epoch")):
            raise ValueError("a cell is empty")
        if others := {row["method"] for row in rows} - set(comparison.names):
            raise ValueError(f"methods {', '.join(sorted(others))}, which were not compared")
        return comparison, rows
    except (TypeError, ValueError, LookupError) as error:
        raise UserError(
            f"{folder}: its {FILE} or runs.csv is damaged ({error}): make them again, by the same "
            "compare.py command with --collect"
        ) from None


def _number(column: str, text: str) -> Any:
    if column in ("seed", "epoch"):
        return int(text)
    if column.startswith(("Acc", "F1", "val_")) or column in MEASURED:
        if text and not isfinite(float(text)):
            raise ValueError(f"{column} {text}")
        return float(text) if text else None
    return text


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


def write_numbers(path: Path, rows: Iterable[dict]) -> None:
    """Rows need not have the same columns: versions that a run has noted differ over time."""
    short = [{k: _cell(v) for k, v in row.items()} for row in rows]
    write_table(path, list(dict.fromkeys(key for row in short for key in row)), short)


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return quote_formula(value)  # a run's folder may come from others
    return f"{value:.6g}" if isinstance(value, float) else value
