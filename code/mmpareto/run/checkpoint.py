"""A run's best.pt and last.pt: what they hold, and whether it fits into the parts of a run."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from ..system import fields
from ..system.errors import UserError, reason
from ..system.tensors import read


def _are_tensors(value: dict) -> bool:
    return all(fields.is_text(k) and isinstance(v, Tensor) for k, v in value.items())


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)


def check_alike(found: Any, expected: Any, what: str, path: Path) -> None:
    """UserError unless found has the keys, lengths, shapes and types of expected."""
    if not _are_alike(found, expected):
        raise UserError(_unfit(path, f"{what} has another form"))


def _are_alike(a: Any, b: Any) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_are_alike(a[key], b[key]) for key in b)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_are_alike, a, b))
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return (a.shape, a.dtype) == (b.shape, b.dtype)
    return type(a) is type(b) or (fields.is_number(a) and fields.is_number(b))


@contextmanager
def fitting(path: Path) -> Iterator[None]:
    """UserError where what path holds cannot be loaded into the parts of a run."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # torch's parts refuse what does not fit in many ways
        raise UserError(_unfit(path, reason(error))) from None


def _unfit(path: Path, why: str) -> str:
    return (
        f"checkpoint {path}: damaged, or of another version ({why}): restore it from a copy, or "
        "train again in another --out"
    )


_EVALUATED = {
    "model": _are_tensors,
    "config": lambda value: all(map(fields.is_text, value.keys())),
    "epoch": fields.is_count,
    "data": lambda value: (
        fields.is_text(value["recipe"])
        and fields.is_text(value["identity"])
        and fields.are(fields.is_text)(value["classes"])
    ),
}
_RESUMED = {
    "optimizer": _is_dict,
    "scheduler": _is_dict,
    "method": _are_tensors,
    "rng": lambda value: value and fields.are(lambda state: isinstance(state, Tensor))(value),
    "best": lambda value: fields.is_count(value["epoch"]) and fields.is_number(value["Acc"]),
    "skipped_in_a_row": fields.is_count,
    "logs": lambda value: all(map(fields.is_count, value.values())),
}


def read_state(path: Path, *, for_resuming: bool = False) -> dict[str, Any]:
    """Load a run's best.pt or last.pt; only the latter holds what resuming needs."""
    needed = _EVALUATED | _RESUMED if for_resuming else _EVALUATED
    state = read(path)
    if wrong := fields.wrong(state, needed):
        raise UserError(
            f"checkpoint {path}: missing or damaged in it: {', '.join(sorted(wrong))}: "
            f"give a run's {'' if for_resuming else 'best.pt or '}last.pt, written by this version "
            "of train.py"
        )
    return state
