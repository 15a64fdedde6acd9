"""Runs and epochs as rows of plain numbers, and their CSV files."""

import csv
import math
from collections import defaultdict
from collections.abc import Iterable
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from mmpareto.results.choice import of_rule
from mmpareto.results.plans import Comparison, Plan
from mmpareto.results.saved import write_numbers
from mmpareto.run.records import EncoderStats, read_steps
from mmpareto.run.report import mean
from mmpareto.system.errors import UserError
from mmpareto.system.tables import unquote_formula

from .design import Part


class Run(NamedTuple):
    """One training; accuracies and conflict are shares, of the epoch that validation chose."""

    part: str
    arm: str
    learning_rate: float
    seed: int
    is_choosing: bool  # whether it helped to choose the rate; the others are scored
    epoch: int
    val_Acc: float
    Acc: float  # on the test split
    conflict: float | None  # of all (step, encoder) pairs; None where it is not measured
    commit: str


class Epoch(NamedTuple):
    """The steps of one encoder in one epoch, over all scored seeds of an arm."""

    part: str
    arm: str
    encoder: str
    epoch: int
    steps: int
    conflicts: int
    turn: float  # mean angle between d and s on conflicting steps, degrees; 0 without any


def grouped(rows: Iterable, *columns: str) -> dict[Any, list]:
    """Group rows by their values in columns: {values: rows}, in their order."""
    found = defaultdict(list)
    for row in rows:
        found[attrgetter(*columns)(row)].append(row)
    return found


def scored(runs: list[Run], part: str, arm: str) -> list[Run]:
    return [run for run in runs if (run.part, run.arm, run.is_choosing) == (part, arm, False)]


def read_runs(name: str, part: Part, compared: Comparison, plans: list[Plan]) -> list[Run]:
    """Read the finished runs among plans."""
    arm_of, runs = part.arm_of, []
    for plan in plans:
        for row in of_rule(plan.rows, "best-val"):
            rate, chooses = float(plan.setting["learning_rate"]), is_choosing(compared, plan)
            rest = [row[column] for column in Run._fields[5:]]
            if row["val_Acc"] is None:
                raise UserError(f"{plan.folder / 'epochs.jsonl'}: val_Acc is missing: train again")
            runs.append(Run(name, arm_of[plan.name], rate, plan.seed, chooses, *rest))
    return runs


def read_epochs(name: str, part: Part, compared: Comparison, plans: list[Plan]) -> list[Epoch]:
    """The epochs of scored runs in which both gradients were recorded."""
    arm_of = part.arm_of
    turns = defaultdict(list)  # one for each step, None without conflict
    for plan in plans:
        if is_choosing(compared, plan) or plan.run is None:
            continue
        for step in read_steps(plan.folder):
            for encoder, stats in step.encoders.items():
                place = arm_of[plan.name], encoder, step.epoch
                turns[place].append(turn(stats) if stats.conflict else None)
    return [
        Epoch(name, *place, len(steps), len(steps) - steps.count(None), mean(steps) or 0.0)
        for place, steps in sorted(turns.items())
    ]


def is_choosing(compared: Comparison, plan: Plan) -> bool:
    return compared.tune_seeds != compared.seeds and plan.seed in compared.tune_seeds


def turn(stats: EncoderStats) -> float:
    """The angle between d and s of one step with conflict, in degrees.

    d is twice the shortest mean of j and g, and orthogonal to j - g: <d, s> = ||d||^2. Its length
    follows from the same triangle, as the distance of its long side from the origin.
    """
    j, g, cos = stats.joint_norm, stats.unimodal_norm, stats.cos
    s = math.sqrt(max(j * j + g * g + 2 * j * g * cos, 0))
    side = math.sqrt(j * j + g * g - 2 * j * g * cos)
    d = 2 * j * g * math.sqrt(max(1 - cos * cos, 0)) / side
    return math.degrees(math.acos(min(d / s, 1))) if s else 0.0


def kept(path: Path, rows: list[NamedTuple]) -> list[NamedTuple]:
    """Write rows to path and read them back: tables and file then have the same digits."""
    write_numbers(path, [row._asdict() for row in rows])
    return read_rows(path, type(rows[0]))


def read_rows(path: Path, kind: type[NamedTuple]) -> list[NamedTuple]:
    """Read the rows that `kept` wrote."""
    with open(path, encoding="utf-8", newline="") as file:
        lines = list(csv.reader(file))[1:]
    cells = [[unquote_formula(cell) or None for cell in line] for line in lines]
    return msgspec.convert(cells, list[kind], strict=False)  # numbers from text
