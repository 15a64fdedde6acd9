"""What the files of a run hold: config.json, epochs.jsonl, steps.jsonl, result.json."""

import re
from pathlib import Path
from typing import Any

from ..core.integrate import Stats
from ..system import fields
from ..system.errors import CONTROL, UserError
from ..system.paths import clear_errors, expect_regular


def read_result(folder: Path) -> dict[str, Any]:
    """The result of a finished run."""
    result = read_json(folder / "result.json", RESULT)
    if result.get("selected") not in (*result["results"],):
        raise UserError(f"{folder / 'result.json'}: selected is none of its results: restore it")
    return result


def read_json(path: Path, expected: dict) -> dict[str, Any]:
    """A run's config.json (CONFIG) or result.json (RESULT)."""
    try:
        expect_regular(path)
        content = fields.parse(path.read_text(encoding="utf-8"))
        wrong = fields.wrong(content, expected)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}): is this the folder of a run?") from None
    if wrong:
        raise UserError(
            f"{path}: missing or damaged in it: {', '.join(wrong)}: restore it, or delete the "
            "run's folder and run it again"
        )
    return content


def read_lines(path: Path, expected: dict, size: int | None = None) -> list[dict[str, Any]]:
    """A run's epochs.jsonl (EPOCH) or steps.jsonl (STEP), or its first size bytes."""
    try:
        with clear_errors(path):
            expect_regular(path)
            with open(path, "rb") as file:
                lines = file.read(size).decode().splitlines()
        entries = [fields.parse(line) for line in lines]
        found = (fields.wrong(entry, expected, OPTIONAL) for entry in entries)
        if wrong := next(filter(None, found), None):
            raise ValueError(", ".join(wrong))
    except ValueError as error:
        raise UserError(
            f"{path}: is damaged ({error}): restore it, or delete the run's folder and run it again"
        ) from None
    return entries


def _are_scores(scores: dict) -> bool:
    """Of one epoch: a number, and accuracies and F1 in pairs."""
    names = scores.keys() - {"epoch"}
    return (
        fields.is_count(scores["epoch"])
        and "Acc" in names
        and all(name.startswith(("Acc", "F1")) and not CONTROL.search(name) for name in names)
        and all(fields.is_number(scores[name]) and 0 <= scores[name] <= 1 for name in names)
        and {name[3:] for name in names if name.startswith("Acc")}
        == {name[2:] for name in names if name.startswith("F1")}
    )


def is_known(value: Any) -> bool:
    return value is None or fields.is_number(value)


def _are_stats(stats: dict) -> bool:
    """Of one encoder, as `integrate.Stats`; None stands for what is not finite."""
    flags = ("conflict", "stationary")
    norms = (stats["joint_norm"], stats["unimodal_norm"])
    return (
        set(Stats._fields) <= stats.keys()
        and all(isinstance(stats[name], bool) for name in flags)
        and all(is_known(value) for name, value in stats.items() if name not in flags)
        and (stats["cos"] is None or abs(stats["cos"]) < 1 + 1e-6)
        and all(norm is None or norm >= 0 for norm in norms)
    )


PACKAGE = re.compile("[A-Za-z][A-Za-z0-9._-]*")  # these names become columns of tables

CONFIG = {
    "flags": lambda value: isinstance(value, dict),
    "versions": lambda value: (
        all(map(fields.is_text, value.values())) and all(map(PACKAGE.fullmatch, value))
    ),
    "commit": fields.is_text,
    "threads": fields.is_count,
    "command": fields.is_text,
    "earlier": fields.are(lambda past: fields.is_text(past["command"])),
}
EPOCH = {
    "epoch": fields.is_count,
    "loss": is_known,
    "split": fields.is_text,
    "Acc": fields.is_number,
    "conflict": is_known,
    "seconds": fields.is_number,
}
STEP = {
    "epoch": fields.is_count,
    "skipped": lambda value: isinstance(value, bool),
    "loss": is_known,
    "losses": lambda value: all(map(is_known, value.values())),
    "encoders": lambda value: all(map(_are_stats, value.values())),
}
OPTIONAL = ("encoders",)  # of methods that do not see both gradients apart
RESULT = {
    "results": lambda value: (
        "last" in value
        and not any(map(CONTROL.search, value))
        and all(map(_are_scores, value.values()))
    ),
    "conflict": is_known,
    "seconds_per_epoch": fields.is_number,
}
