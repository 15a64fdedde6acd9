"""What a run has written, read back: its settings, epochs, steps and result."""

from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from ...run import records
from ...run.records import Config, EncoderStats, Result
from ...run.report import mean
from ...system.errors import UserError
from ..table import accuracies

LAST = "last.pt"


class Logs(NamedTuple):
    """One run, finished or not."""

    label: str
    folder: Path
    config: Config
    epochs: list[dict[str, Any]]  # loss, joint_loss, split and scores by name
    steps: list[records.Step]
    result: Result | None  # None of a run that is not finished

    @property
    def flags(self) -> dict[str, Any]:
        return self.config.flags

    @property
    def encoders(self) -> list[str]:
        """The encoders whose two gradients were recorded."""
        return list(dict.fromkeys(name for step in self.steps for name in step.encoders))

    @property
    def objectives(self) -> tuple[str, ...]:
        """What an encoder's two losses are called; in multi-task learning as the tasks are."""
        names = tuple(self.steps[0].losses) if self.steps else ()
        return ("joint", "unimodal") if "joint" in names or len(names) != 2 else names

    @property
    def checkpoint(self) -> Path:
        """The model whose scores are the run's result; of an unfinished one the last."""
        chosen = self.result.selected if self.result else "last"
        return self.folder / (LAST if chosen == "last" else "best.pt")


class Step(NamedTuple):
    """One optimizer step of one encoder."""

    number: int  # from 1, over the whole run
    epoch: int
    stats: EncoderStats


def read(folder: Path, label: str | None = None) -> Logs:
    """Read the run in folder; UserError if there is none or it is damaged."""
    config = records.read_config(folder)
    try:
        name = f"{config.flags['method']}, seed {config.flags['random_seed']}"
    except LookupError as error:
        raise UserError(
            f"{folder}: is no run's folder, or damaged ({type(error).__name__}: {error}): give one "
            "that train.py has written"
        ) from None
    finished = records.read_epochs(folder)
    steps = [step for step in records.read_steps(folder) if step.epoch <= len(finished)]
    joint: dict[int, list[float | None]] = {epoch.epoch: [] for epoch in finished}
    for step in steps:
        if not step.skipped and step.epoch in joint:
            joint[step.epoch].append(step.losses.get("joint"))
    epochs = [
        {**vars(epoch), **epoch.further, "joint_loss": mean(joint[epoch.epoch])}
        for epoch in finished
    ]
    if not epochs:
        raise UserError(f"{folder}: no epoch is finished yet: wait for the first")
    for score in dict.fromkeys(name for epoch in epochs for name in accuracies(epoch)):
        values = [epoch.get(score) for epoch in epochs]
        if not all(isinstance(value, float) and isfinite(value) for value in values):
            raise UserError(
                f"{folder / 'epochs.jsonl'}: an epoch has no {score}: restore it, or delete the "
                "run's folder and run it again"
            )
    done = records.read_result(folder) if (folder / "result.json").exists() else None
    return Logs(label or name, folder, config, epochs, steps, done)


def trace(logs: Logs, encoder: str) -> list[Step]:
    """The steps that were taken and recorded; skipped steps are left out but counted."""
    return [
        Step(number, step.epoch, step.encoders[encoder])
        for number, step in enumerate(logs.steps, start=1)
        if not step.skipped and encoder in step.encoders
    ]


def varies(logs: Logs) -> bool:
    """Whether weights or scale were not always the same, to 6 decimals."""
    known = [vars(step.stats) for name in logs.encoders for step in trace(logs, name)]
    columns = ([s[name] for s in known] for name in ("joint_weight", "unimodal_weight", "scale"))
    return any(len({None if v is None else round(v, 6) for v in column}) > 1 for column in columns)


def windows(steps: list[Step], size: int) -> list[dict]:
    """Conflict rate and mean cosine of every size steps that follow each other, the rest last."""
    parts = [steps[start : start + size] for start in range(0, len(steps), size)]
    return [_rates(part, part[0].number, part[-1].number) for part in parts]


def by_epoch(steps: list[Step], most: int) -> list[dict]:
    """Conflict rates of every epoch, or of equal groups of epochs: at most `most` rows."""
    epochs = sorted({step.epoch for step in steps})
    size = -(-len(epochs) // most) or 1
    groups = [epochs[start : start + size] for start in range(0, len(epochs), size)]
    return [_rates([s for s in steps if s.epoch in group], group[0], group[-1]) for group in groups]


def _rates(steps: list[Step], first: int, last: int) -> dict[str, Any]:
    conflict = mean(step.stats.conflict for step in steps)
    cos = mean(step.stats.cos for step in steps)
    return {"first": first, "last": last, "steps": len(steps), "conflict": conflict, "cos": cos}
