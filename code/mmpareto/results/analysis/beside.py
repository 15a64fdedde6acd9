"""Several comparisons beside each other: which is which, their methods, and each one's figures."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ...system.errors import UserError
from ...system.paths import clear_errors
from .. import saved, table
from ..choice import table_rows
from ..notes import about_interval
from ..plans import Comparison
from . import sections
from .page import Section, Table
from .subject import Subject, find


class Side(NamedTuple):
    """One of the comparisons."""

    name: str  # of its folder, or the path where two have the same
    made: Comparison
    rows: list[dict]  # of its table
    subject: Subject

    def known(self, column: str) -> str:
        """Return the values of a column in words."""
        values = dict.fromkeys(str(row.get(column) or "unknown") for row in self.rows)
        return ", ".join(values) if len(values) < 4 else f"{len(values)} different ones"


def find_sides(folders: Sequence[Path]) -> list[Side]:
    """Read comparisons; UserError if they cannot stand beside each other."""
    names = [folder.resolve().name for folder in folders]
    sides: list[Side] = []
    for folder, name in zip(folders, names, strict=True):
        subject = find(folder)
        if any(folder.samefile(side.made.folder) for side in sides):
            raise UserError(f"{folder}: is given twice: give each comparison once")
        if not (folder / saved.FILE).exists():
            raise UserError(
                f"{folder}: is one run, but only comparisons stand beside each other: give folders "
                "that compare.py has written, or this one alone"
            )
        made, rows = saved.reopen(folder)
        name = name if names.count(name) == 1 else str(folder)
        sides.append(Side(name, made, table_rows(made, rows)[0], subject))
    first = sides[0]
    for side in sides[1:]:
        pair = f"{first.made.folder} and {side.made.folder}"
        one, other = (f"{a.subject.rule} epochs and {a.made.select_by}" for a in (first, side))
        if one != other:
            raise UserError(
                f"{pair}: the first table is of {one}, the other of {other}: make both with the "
                "same --select and --select_by"
            )
        if not {*first.made.by_method(first.rows)} & {*side.made.by_method(side.rows)}:
            raise UserError(
                f"{pair}: no method is in both ({', '.join(first.made.names)}; "
                f"{', '.join(side.made.names)}): compare one in both, or look at each alone"
            )
    return sides


def make(sides: list[Side], folder: Path) -> list[Section]:
    """All parts of the page. The figures of side N lie in the folder N."""
    parts = [which(sides), methods(sides, folder)]
    for number, side in enumerate(sides, start=1):
        own = folder / str(number)
        with clear_errors(own):
            own.mkdir(exist_ok=True)
        work = sections.Work(side.subject, own, window=0)  # conflicts are not shown
        for part in (sections.results(work), sections.training(work)):
            parts.append(part._replace(title=f"{side.name}: {part.title}"))
    return parts


def which(sides: list[Side]) -> Section:
    """Say what each comparison is of, and in which flags they differ."""
    rows = []
    for number, side in enumerate(sides, start=1):
        seeds = ", ".join(map(str, side.made.seeds))
        folds = f"{side.made.folds} folds, " if side.made.folds else ""
        rows.append({
            "comparison": side.name, "folder": str(side.made.folder), "figures in": str(number),
            "data": side.known("data"), "identity": side.known("identity"),
            "seeds": f"{folds}{seeds}", "commit": side.known("commit"),
        })  # fmt: skip
    flags = [side.subject.settings() for side in sides]
    names = dict.fromkeys(name for own in flags for name in own)
    differ = [
        {"flag of train.py": name}
        | {side.name: own.get(name, "-") for side, own in zip(sides, flags, strict=True)}
        for name in names
        if len({own.get(name) for own in flags}) > 1
    ]
    tables = [Table("The comparisons", rows)]
    if differ:
        tables.append(Table("Flags that differ (- is unset, or not the same in all runs)", differ))
    return Section("Which is which", tables=tables)


def methods(sides: list[Side], folder: Path) -> Section:
    """Put the methods' scores side by side; write all numbers to beside.csv.

    Differences from the first comparison are taken of runs with the same method, seed (and fold)
    and the same data, and shown only where all common runs have the same data.
    """
    first, measure = sides[0], sides[0].made.measure
    summaries = [
        {row["method"]: row for row in table.summarise(side.made, side.rows)} for side in sides
    ]
    same = all(is_same_data(first, side) for side in sides[1:])
    shown = []
    for name in dict.fromkeys(name for found in summaries for name in found):
        row = {"method": name}
        for side, found in zip(sides, summaries, strict=True):
            known = found.get(name)
            cell = table.spread(known[f"{measure}_mean"], known[f"{measure}_std"]) if known else "-"
            row[f"{measure}, {side.name}"] = cell.replace("+-", "\N{PLUS-MINUS SIGN}")
        for side in sides[1:] if same else ():
            found = table.paired_difference(
                scores(side, name), scores(first, name),
                table.samples_of([*first.rows, *side.rows]), first.made.folds,
            )  # fmt: skip
            cell = table.points(*found[1:]) if found else "-"
            row[f"{side.name} less {first.name} [95% CI]"] = cell
        shown.append(row)
    numbers = [
        {"comparison": side.name, **row}
        for side, found in zip(sides, summaries, strict=True)
        for row in found.values()
    ]
    saved.write_numbers(folder / "beside.csv", numbers)
    note = about_interval(first.made, first.rows)
    if not same:
        note = "The comparisons have no runs of the same data and seeds: no differences are shown."
    heading = f"Test {measure} (%), {first.subject.rule} epoch, mean and standard deviation"
    return Section("Methods side by side", [note], [Table(heading, shown)], on_console=True)


def scores(side: Side, method: str) -> dict:
    """Return {run: the joint score} of a method."""
    mine = side.made.by_method(side.rows).get(method, [])
    return {side.made.run_of(row): row[side.made.measure] for row in mine}


def is_same_data(first: Side, other: Side) -> bool:
    """Return whether there are runs of the same method, seed and fold, all of the same data."""
    one, two = (
        {
            (row["method"], side.made.run_of(row)): (row.get("data"), row.get("identity"))
            for row in side.rows
        }
        for side in (first, other)
    )
    common = one.keys() & two.keys()
    return bool(common) and all(one[run] == two[run] and all(one[run]) for run in common)
