"""What a run has written, read back: its settings, epochs, steps and result."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from ...run.records import Config, Result, read_config, read_epochs, read_result, read_steps
from ...run.report import mean
from ...system.errors import UserError

BEST = "best.pt"
LAST = "last.pt"


class Logs(NamedTuple):
    """One run, finished or not."""

    label: str
    folder: Path
    config: Config
    epochs: list[dict]
    steps: list[dict]
    result: Result | None  # None of a run that is not finished

    @property
    def flags(self) -> dict[str, Any]:
        return self.config.flags

    @property
    def encoders(self) -> list[str]:
        """Those whose two gradients were recorded."""
        return list(dict.fromkeys(name for step in self.steps for name in step.get("encoders", {})))

    @property
    def objectives(self) -> tuple[str, str]:
        """What an encoder's two losses are called; in multi-task learning as the tasks are."""
        names = list(self.steps[0]["losses"]) if self.steps else []
        return ("joint", "unimodal") if "joint" in names or len(names) != 2 else tuple(names)

    @property
    def checkpoint(self) -> Path:
        """The model whose scores are the run's result; of an unfinished one the last."""
        chosen = self.result.selected if self.result else "last"
        return self.folder / (LAST if chosen == "last" else BEST)


class Step(NamedTuple):
    """One optimizer step of one encoder."""

    number: int  # from 1, over the whole run
    epoch: int
    stats: dict[str, Any]  # as `integrate.Stats`; None where a number is not defined


def read(folder: Path, label: str | None = None) -> Logs:
    """The run in folder; UserError where there is none, or a damaged one."""
    config = read_config(folder)
    try:
        name = f"{config.flags['method']}, seed {config.flags['random_seed']}"
        epochs = [{**vars(epoch), **epoch.further} for epoch in read_epochs(folder)]
        steps = [{**asdict(s), **s.further} for s in read_steps(folder) if s.epoch <= len(epochs)]
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"{folder}: is no run's folder, or damaged ({type(error).__name__}: {error}): give one "
            "that train.py has written"
        ) from None
    if not epochs:
        raise UserError(f"{folder}: no epoch is finished yet: wait for the first")
    done = read_result(folder) if (folder / "result.json").exists() else None
    return Logs(label or name, folder, config, epochs, steps, done)


def trace(logs: Logs, encoder: str) -> list[Step]:
    """The steps that were taken and recorded; skipped ones keep their number to themselves."""
    return [
        Step(number, step["epoch"], step["encoders"][encoder])
        for number, step in enumerate(logs.steps, start=1)
        if not step["skipped"] and encoder in step.get("encoders", {})
    ]


def varies(logs: Logs) -> bool:
    """Whether weights or scale were not always the same."""
    fields = ("joint_weight", "unimodal_weight", "scale")
    steps = [step for name in logs.encoders for step in trace(logs, name)]
    return any(len({_rounded(step.stats[field]) for step in steps}) > 1 for field in fields)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def windows(steps: list[Step], size: int) -> list[dict]:
    """Conflict rate and mean cosine of every size steps that follow each other, the rest last."""
    rows = []
    for start in range(0, len(steps), size):
        part = steps[start : start + size]
        rows.append({"first": part[0].number, "last": part[-1].number, **_rates(part)})
    return rows


def by_epoch(steps: list[Step], most: int) -> list[dict]:
    """The same of every epoch, or of as many equal groups of epochs, at most `most`."""
    epochs = sorted({step.epoch for step in steps})
    size = -(-len(epochs) // most) if epochs else 1
    rows = []
    for start in range(0, len(epochs), size):
        group = epochs[start : start + size]
        part = [step for step in steps if step.epoch in group]
        rows.append({"first": group[0], "last": group[-1], **_rates(part)})
    return rows


def _rates(steps: Iterable[Step]) -> dict[str, Any]:
    stats = [step.stats for step in steps]
    return {
        "steps": len(stats),
        "conflict": mean(s["conflict"] for s in stats),
        "cos": mean(s["cos"] for s in stats),
    }
