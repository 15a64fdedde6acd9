"""What is analysed: one run, or all runs of a table."""

from math import isfinite
from pathlib import Path
from typing import NamedTuple

from ...methods import METHODS
from ...methods.base import ProbedMethod
from ...system.errors import UserError
from .. import saved, table
from ..choice import of_rule, pick_settings
from ..plans import folder_name, label
from . import logs
from .logs import Logs
from .panels import Series


class Subject(NamedTuple):
    """A folder of results."""

    title: str
    rule: str | None  # that chose the scored epoch; None as long as nothing is scored
    runs: dict[str, list[Logs]]  # {method: its seeds}
    series: dict[str, Series]
    scores: list[dict[str, str]]  # the rows of a table
    notes: list[str]

    @property
    def first(self) -> list[Logs]:
        """Of every method the first seed."""
        return [seeds[0] for seeds in self.runs.values()]

    def settings(self) -> dict[str, str]:
        """The flags that all runs have in common; of a run of its own all."""
        every = [run.flags for seeds in self.runs.values() for run in seeds]
        common = {
            name: value
            for name, value in every[0].items()
            if all(flags.get(name) == value for flags in every)
        }
        given = {k: v for k, v in common.items() if v not in (None, []) and v is not False}
        return {name: str(value) for name, value in given.items()}


def find(folder: Path) -> Subject:
    """What lies in folder."""
    if (folder / saved.FILE).exists():
        return _compared(folder)
    if (folder / "config.json").exists():
        return _run(folder)
    raise UserError(
        f"{folder}: neither a run's folder (with config.json) nor a comparison's (with "
        f"{saved.FILE}, which compare.py writes, with --collect at once): give one of them"
    )


def _run(folder: Path) -> Subject:
    run = logs.read(folder)
    results = run.result.results if run.result else {}
    scores = [
        {"epoch chosen by": rule, "epoch": str(row["epoch"])}
        | {name: f"{100 * row[name]:.1f}" for name in table.accuracies([row])}
        for rule, row in results.items()
    ]
    return Subject(
        title=f"{run.flags['dataset']}: {run.label}",
        rule=run.result.selected if run.result else None,
        runs={run.label: [run]},
        series={run.label: Series({}, _curves([run]))},
        scores=scores,
        notes=_probes([run.flags["method"]])
        + ([] if run.result else ["The run is not finished: nothing is scored yet."]),
    )


def _compared(folder: Path) -> Subject:
    made, rows = saved.reopen(folder)
    rows, notes = of_rule(rows, made.select), []
    if made.settings[0]:
        rows, notes = pick_settings(made, rows)
    if not rows:
        raise UserError(f"{folder}: no run is in its table yet: finish some first")
    percents = table.points(made, rows)
    runs, series = {}, {}
    for row in rows:
        setting = {flag: row[flag] for flag in made.settings[0]}
        name = label(row["method"], setting)
        path = folder / folder_name(row["method"], setting, row["seed"])
        runs.setdefault(name, []).append(logs.read(path, f"{name}, seed {row['seed']}"))
    runs = {name: runs[name] for name in next(iter(percents.values()))}
    for name, seeds in runs.items():
        points = {accuracy: values[name] for accuracy, values in percents.items()}
        method = METHODS[seeds[0].flags["method"]]
        series[name] = Series(points, _curves(seeds), method.single_loss)
    scores = [
        {column: cell.replace(" +- ", " \N{PLUS-MINUS SIGN} ") for column, cell in row.items()}
        for row in table.cells(made, table.summarise(made, rows))
    ]
    return Subject(
        title=f"{next(iter(runs.values()))[0].flags['dataset']}: {', '.join(made.names)}",
        rule=rows[0]["rule"],
        runs=runs,
        series=series,
        scores=scores,
        notes=[table.title(rows), *notes, *_probes(made.names)],
    )


def _probes(names: list[str]) -> list[str]:
    """Whose unimodal (or joint) heads the method itself does not train."""
    probed = [name for name in names if issubclass(METHODS[name.split(":")[0]], ProbedMethod)]
    if not probed:
        return []
    note = (
        f"Heads that are not trained by {' or '.join(probed)} itself are probes: trained on "
        "detached features (with no_probes they stay as they were initialised)."
    )
    return [note]


def _curves(seeds: list[Logs]) -> dict[str, list[list[float | None]]]:
    first = seeds[0].epochs[0]
    names = table.accuracies([first])
    for run in seeds:
        for name in names:
            values = [epoch.get(name) for epoch in run.epochs]
            if not all(isinstance(value, float) and isfinite(value) for value in values):
                raise UserError(
                    f"{run.folder / 'epochs.jsonl'}: an epoch has no {name}: restore it, or delete "
                    "the run's folder and run it again"
                )
    found = {"training loss": [[epoch["loss"] for epoch in run.epochs] for run in seeds]}
    for name in names:
        found[f"{first['split']} {name} (%)"] = [
            [100 * epoch[name] for epoch in run.epochs] for run in seeds
        ]
    return found
