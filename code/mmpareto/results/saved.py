"""The files of a comparison: every run in runs.csv, what is compared in comparison.json."""

from collections.abc import Iterable
from math import isfinite
from pathlib import Path
from typing import Any

from ..system import records
from ..system.errors import UserError
from ..system.lock import Lock
from ..system.paths import clear_errors
from ..system.tables import quote_formula, read_csv, unquote_formula, write_table
from ..system.writing import write_json
from .plans import MEASURED, Asked, Comparison

FILE = "comparison.json"  # of a comparison's folder


def table_lock(folder: Path) -> Lock:
    """Wait until no other process writes tables into folder; runs there may go on."""
    with clear_errors(f"--out {folder}"):
        return Lock(folder, tables=True)


def write_runs(comparison: Comparison, rows: list[dict]) -> Path:
    """Write every run, seed and rule, and what is compared: `reopen` reads both."""
    path = comparison.folder / "runs.csv"
    write_numbers(path, rows)
    asked = {k: v for k, v in vars(comparison).items() if k not in ("folder", "plans")}
    write_json(comparison.folder / FILE, asked)
    return path


def reopen(folder: Path) -> tuple[Comparison, list[dict]]:
    """Read the comparison saved in folder, without its plans, and its rows.

    Numbers have the digits of runs.csv.
    """
    try:
        asked = records.as_record(records.load(folder / FILE), Asked)
        (_, columns), *lines = read_csv(folder / "runs.csv")
        texts = {"method", "rule", *asked.settings[0]} | ({"fold"} if asked.folds else set())
        scores = [name for name in columns if name.split("_")[0] == "Acc"]
        scores += [f"F1{name[3:]}" for name in scores]
        needed = {*texts, *scores, "seed", "epoch", "Acc", "val_Acc", *MEASURED}
        if lacking := needed - set(columns):
            raise ValueError(f"no column {', '.join(sorted(lacking))}")
        rows = [
            {name: _value(name, cell, texts) for name, cell in zip(columns, line, strict=True)}
            for _, line in lines
        ]
        if any(row[name] is None for row in rows for name in (*scores, "seconds_per_epoch")):
            raise ValueError("a cell is empty")
        if others := {row["method"] for row in rows} - set(asked.names):
            raise ValueError(f"methods {', '.join(sorted(others))}, which were not compared")
        return Comparison(**vars(asked), folder=folder, plans=[]), rows
    except (TypeError, ValueError, LookupError) as error:
        raise UserError(
            f"{folder}: its {FILE} or runs.csv is damaged ({error}): make them again, by the same "
            "compare.py command with --collect"
        ) from None


def _value(column: str, cell: str, texts: set[str]) -> Any:
    text = unquote_formula(cell)
    if column in texts:
        return text
    if column in ("seed", "epoch", "test_samples"):
        return int(text) if text or column != "test_samples" else None
    if column.startswith(("Acc", "F1", "val_")) or column in MEASURED:
        if text and not isfinite(float(text)):
            raise ValueError(f"{column} {text}")
        return float(text) if text else None
    return text


def write_numbers(path: Path, rows: Iterable[dict]) -> None:
    """Write rows; they need not have the same columns, as the versions that runs note differ."""
    short = [{k: _cell(v) for k, v in row.items()} for row in rows]
    write_table(path, list(dict.fromkeys(key for row in short for key in row)), short)


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return quote_formula(value)  # a run's folder may come from others
    return f"{value:.6g}" if isinstance(value, float) else value
