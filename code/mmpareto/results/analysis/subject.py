"""The subject of an analysis: one run, or all runs of a table."""

from pathlib import Path
from typing import NamedTuple

from ...methods import METHODS
from ...methods.base import ProbedMethod
from ...system.errors import UserError
from .. import saved, table
from ..choice import table_rows
from ..plans import Comparison, folder_name, label
from . import logs
from .logs import Logs


class Subject(NamedTuple):
    """A folder of results."""

    title: str
    rule: str | None  # that chose the scored epoch; None as long as nothing is scored
    runs: dict[str, list[Logs]]  # {method: its seeds}
    percents: dict[str, dict[str, list[float]]]  # of a table: {accuracy: {method: of each unit}}
    scores: list[dict[str, str]]  # the rows of a table
    notes: list[str]
    units: str = "seeds"  # what a table's means and deviations are taken over: these, or folds

    @property
    def first(self) -> list[Logs]:
        """The first seed of every method."""
        return [seeds[0] for seeds in self.runs.values()]

    @property
    def single_losses(self) -> dict[str, str | None]:
        """{method: the loss, "joint" or "unimodal", that it is trained by alone}."""
        methods = {name: METHODS[runs[0].flags["method"]] for name, runs in self.runs.items()}
        return {name: method.single_loss for name, method in methods.items()}

    def settings(self) -> dict[str, str]:
        """The flags that all runs have in common; for a single run, all flags."""
        every = [run.flags for seeds in self.runs.values() for run in seeds]
        return {
            name: str(value)
            for name, value in every[0].items()
            if all(flags.get(name) == value for flags in every)
            and value not in (None, [])
            and value is not False
            and name != "resume"  # says how the run was started, and compare.py always gives it
        }


def find(folder: Path) -> Subject:
    """Find the run or the comparison in folder."""
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
        | {name: f"{100 * row[name]:.1f}" for name in table.accuracies(row)}
        for rule, row in results.items()
    ]
    unfinished = [] if run.result else ["The run is not finished: nothing is scored yet."]
    title, rule = f"{run.config.data_name}: {run.label}", run.result and run.result.selected
    notes = _probes([run.flags["method"]]) + unfinished
    return Subject(title, rule, {run.label: [run]}, {}, scores, notes)


def _compared(folder: Path) -> Subject:
    made, rows = saved.reopen(folder)
    rows, notes = table_rows(made, rows)
    if not rows:
        raise UserError(f"{folder}: no run is in its table yet: finish some first")
    runs = {}
    for method, mine in made.by_method(rows).items():
        name = label(method, made.setting_of(*mine))
        runs[name] = [_logs(made, row) for row in mine]
    scores = [
        {column: cell.replace(" +- ", " \N{PLUS-MINUS SIGN} ") for column, cell in row.items()}
        for row in table.cells(made, table.summarise(made, rows))
    ]
    title = f"{next(iter(runs.values()))[0].config.data_name}: {', '.join(made.names)}"
    notes = [table.title(made, rows), *notes, *_probes(made.names)]
    percents = table.percents(made, rows)
    return Subject(title, rows[0]["rule"], runs, percents, scores, notes, made.units)


def _logs(made: Comparison, row: dict) -> Logs:
    fold, setting = row.get("fold", ""), made.setting_of(row)
    name = f"{label(row['method'], setting)}{fold and f', {fold}'}, seed {row['seed']}"
    return logs.read(made.folder / folder_name(row["method"], setting, row["seed"], fold), name)


def _probes(names: list[str]) -> list[str]:
    """A note on the methods whose unimodal (or joint) heads are probes."""
    probed = [name for name in names if issubclass(METHODS[name.split(":")[0]], ProbedMethod)]
    note = (
        f"Heads that are not trained by {' or '.join(probed)} itself are probes: trained on "
        "detached features (with no_probes they stay as they were initialised)."
    )
    return [note] if probed else []
