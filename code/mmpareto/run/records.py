"""The content of the files of a run: config.json, epochs.jsonl, steps.jsonl, result.json.

None stands for a number that is not finite. `further` keeps the unknown fields that a reader may
ask for.
"""

import re
from dataclasses import dataclass, field, replace
from math import isclose, isfinite
from pathlib import Path
from typing import Any

from ..system import records
from ..system.errors import CONTROL, UserError, printable
from ..system.records import check, is_count, is_known

PACKAGE = re.compile("[A-Za-z][A-Za-z0-9._-]*")  # these names become columns of tables
MEASURES = {"accuracy": "Acc", "macro_f1": "F1"}  # {choice of --select_by: column of the score}


def rule_of(select: str, select_by: str) -> str:
    """Return the name of the rule that chooses an epoch: best-val, best-val-F1 or last."""
    return f"{select}-F1" if select_by == "macro_f1" and select != "last" else select


def measure_of(rule: str) -> str:
    """Return the column of the score that a rule chooses by."""
    return "F1" if rule.endswith("-F1") else "Acc"


class Record:
    """A record of a file; its whole numbers must be counts, and its other numbers finite."""

    def __post_init__(self) -> None:
        numbers = {k: v for k, v in vars(self).items() if isinstance(v, int | float)}
        check(**{k: is_count(v) if isinstance(v, int) else isfinite(v) for k, v in numbers.items()})


@dataclass(frozen=True)
class Config(Record):
    """config.json: flags, command and environment."""

    flags: dict[str, Any]
    versions: dict[str, str]
    commit: str
    threads: int
    command: str
    earlier: list[dict[str, Any]]  # what config.json said before each resume
    data: Any = None  # identity, classes and recipe; early versions wrote none
    further: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        check(
            versions=all(map(PACKAGE.fullmatch, self.versions)),
            earlier=all(isinstance(past.get("command"), str) for past in self.earlier),
        )

    @property
    def data_name(self) -> str:
        """The name of the data: the dataset, or the folder of one's own set."""
        known = self.data if isinstance(self.data, dict) else {}
        return str(known.get("name") or self.flags["dataset"])

    @property
    def identity(self) -> str | None:
        """The identity of the data; None if unknown."""
        return self.data.get("identity") if isinstance(self.data, dict) else None

    def past(self) -> list[dict[str, Any]]:
        """Return what `earlier` says after the next resume."""
        now = {**vars(self), **self.further}
        return [*now.pop("earlier"), {k: v for k, v in now.items() if k != "further"}]


@dataclass(frozen=True)
class Epoch(Record):
    """A line of epochs.jsonl."""

    epoch: int
    loss: float | None
    split: str  # the scored one
    Acc: float  # joint
    conflict: float | None  # share of all (step, encoder) pairs
    seconds: float
    split_loss: float | None = None  # of the joint prediction on split; unknown in early versions
    F1: float | None = None  # joint
    further: dict[str, Any] = field(default_factory=dict)  # the other scores, unchecked, and more


@dataclass(frozen=True)
class Divergence(Record):
    """diverged.json."""

    reason: str

    def __post_init__(self) -> None:
        check(reason=bool(self.reason))


@dataclass(frozen=True)
class Best(Record):
    """The epoch saved in best.pt; 0 before the first epoch."""

    epoch: int = 0
    Acc: float = -1.0
    loss: float | None = None  # of that epoch, on the same split; unknown in early versions
    equals: int = 1  # how many epochs have this score
    F1: float = -1.0  # unknown in early versions, which chose by Acc

    def after(self, epoch: int, Acc: float, F1: float, loss: float, by: str = "Acc") -> "Best":
        """Return what is best after one more epoch, by "Acc" or "F1": of equals, the lower loss."""
        known = loss if isfinite(loss) else None
        new = Best(epoch, Acc, known, F1=F1)
        score, before = getattr(new, by), getattr(self, by)
        if not isclose(score, before):  # rounding may separate equal means over tasks
            return new if score > before else self
        is_lower = known is not None and self.loss is not None and known < self.loss
        best = new if is_lower else self
        return replace(best, equals=self.equals + 1)


@dataclass(frozen=True)
class EncoderStats(Record):
    """What one step decided for one encoder: the fields of `integrate.Stats`, as numbers."""

    cos: float | None
    joint_norm: float | None
    unimodal_norm: float | None
    joint_weight: float | None
    unimodal_weight: float | None
    scale: float | None
    conflict: bool
    stationary: bool

    def __post_init__(self) -> None:
        super().__post_init__()
        check(
            cos=abs(self.cos or 0) < 1 + 1e-6,
            joint_norm=(self.joint_norm or 0) >= 0,
            unimodal_norm=(self.unimodal_norm or 0) >= 0,
        )


@dataclass(frozen=True)
class Step(Record):
    """A line of steps.jsonl."""

    epoch: int
    skipped: bool
    loss: float | None
    losses: dict[str, float | None]
    encoders: dict[str, EncoderStats] = field(default_factory=dict)  # those with two gradients
    further: dict[str, Any] = field(default_factory=dict)  # step, grad_norm, measures

    def __post_init__(self) -> None:
        super().__post_init__()
        check(losses=all(map(is_known, self.losses.values())))


@dataclass(frozen=True)
class Result(Record):
    """result.json: {rule that chose an epoch: that epoch's number and its test scores}."""

    results: dict[str, dict[str, int | float]]
    conflict: float | None
    seconds_per_epoch: float
    selected: Any = None  # the rule whose scores are the run's result
    # Unknown of runs of earlier versions:
    test_samples: int | None = None  # that were scored
    parameters: int | None = None  # of the model
    peak_bytes: int | None = None  # as `devices.peak_memory` measures it
    stopped: int | None = None  # the epoch after which --patience ended it before --epochs

    def __post_init__(self) -> None:
        super().__post_init__()
        has_control = any(map(CONTROL.search, self.results))
        are_scores = all(map(_are_scores, self.results.values()))
        check(results="last" in self.results and not has_control and are_scores)


def _are_scores(scores: dict[str, int | float]) -> bool:
    """Return whether these are one epoch's number, and pairs of accuracy and F1 in [0, 1]."""
    names = scores.keys() - {"epoch"}
    return (
        isinstance(epoch := scores.get("epoch"), int)
        and is_count(epoch)
        and "Acc" in names
        and all(name.startswith(("Acc", "F1")) and not CONTROL.search(name) for name in names)
        and all(0 <= scores[name] <= 1 for name in names)
        and {name[3:] for name in names if name.startswith("Acc")}
        == {name[2:] for name in names if name.startswith("F1")}
    )


def read_config(folder: Path) -> Config:
    """Read the run's config.json; UserError if it is missing or damaged."""
    return records.read(folder / "config.json", Config)


def read_epochs(folder: Path, size: int | None = None) -> list[Epoch]:
    """Read the run's finished epochs; with size, only those in the first size bytes of the file."""
    return records.read_lines(folder / "epochs.jsonl", Epoch, size)


def read_steps(folder: Path) -> list[Step]:
    return records.read_lines(folder / "steps.jsonl", Step)


def read_divergence(folder: Path) -> str | None:
    """Return why the run in folder diverged; None if it has not."""
    path = folder / "diverged.json"
    return printable(records.read(path, Divergence).reason) if path.exists() else None


def read_result(folder: Path) -> Result:
    """Read the result of a finished run."""
    result = records.read(folder / "result.json", Result)
    if result.selected not in (*result.results,):
        raise UserError(
            f"{folder / 'result.json'}: selected is no rule in results: restore it from a copy"
        )
    return result
