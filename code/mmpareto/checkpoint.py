"""Files of tensors: written atomically, read without pickle."""

import os
import pickle
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from . import fields
from .errors import UserError, reason


def write(path: Path, state: dict[str, Any]) -> None:
    """Save state so that path holds either the old or the whole new file, whatever happens."""
    write_atomically(path, lambda file: torch.save(state, file))


def write_atomically(path: Path, fill: Callable[[BinaryIO], None]) -> None:
    unfinished = path.with_name(path.name + ".tmp")
    try:
        unfinished.unlink(missing_ok=True)  # a link would be followed
        with open(unfinished, "xb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except (OSError, RuntimeError) as error:  # torch.save hides what has ended it behind its own
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        reasons = (getattr(e, "strerror", None) for e in (error, error.__context__))
        what = next(filter(None, reasons), reason(error))
        raise UserError(f"{path}: cannot be written ({what})") from None
    finally:
        with suppress(OSError):  # as where nothing can be written
            unfinished.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    content = text.encode(errors="backslashreplace")  # names of files in it need not be text
    write_atomically(path, lambda file: file.write(content))


def read(path: Path, what: str = "checkpoint") -> Any:
    """Load tensors and plain containers from path; nothing that needs pickle."""
    if path.is_dir():
        raise UserError(f"{what} {path}: it is a folder: give a file in it, as best.pt of a run")
    if not path.is_file():
        raise UserError(f"{what} {path}: no such file")
    try:
        _check_sizes(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{what} {path}: holds objects that only pickle can load, which can run any code, or "
            "is no checkpoint: save tensors, numbers, strings, lists and dicts only"
        ) from None
    except Exception as error:  # random bytes make torch.load fail in many ways
        raise UserError(
            f"{what} {path}: damaged, cut off or no checkpoint ({path.stat().st_size} bytes; "
            f"{reason(error)}): restore it from a copy or train again"
        ) from None


def _check_sizes(path: Path) -> None:
    """ValueError where a few bytes would be unpacked into many; torch itself packs nothing."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > path.stat().st_size:
            raise ValueError(f"its parts claim {size} bytes")


def is_plain(value: Any) -> bool:
    """Whether it is a tensor whose numbers lie in memory; not a sparse one, say."""
    is_dense = isinstance(value, Tensor) and value.layout == torch.strided
    return is_dense and not (value.is_meta or value.is_nested or value.is_quantized)


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
