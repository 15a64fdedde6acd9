"""Files of tensors: written atomically, read without pickle."""

import os
import pickle
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import torch

from .errors import UserError, reason


def write(path: Path, state: dict[str, Any]) -> None:
    """Save state so that path holds either the old or the whole new file, whatever happens."""
    write_atomically(path, lambda file: torch.save(state, file))


def write_atomically(path: Path, fill: Callable[[BinaryIO], None]) -> None:
    unfinished = path.with_name(path.name + ".tmp")
    try:
        with open(unfinished, "wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except (OSError, RuntimeError) as error:  # torch.save hides the system's error behind its own
        reasons = (getattr(e, "strerror", None) for e in (error, error.__context__))
        what = next(filter(None, reasons), reason(error))
        raise UserError(f"{path}: cannot be written ({what})") from None
    finally:
        with suppress(OSError):  # as where nothing can be written
            unfinished.unlink(missing_ok=True)


def read(path: Path, what: str = "checkpoint") -> Any:
    """Load tensors and plain containers from path; nothing that needs pickle."""
    if not path.is_file():
        raise UserError(f"{what} {path}: no such file")
    try:
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


def read_state(path: Path, *, for_resuming: bool = False) -> dict[str, Any]:
    """Load a run's best.pt or last.pt; only the latter holds what resuming needs."""
    needed = {"model", "config", "epoch", "recipe"}
    if for_resuming:
        needed |= {"optimizer", "scheduler", "method", "rng", "best", "skipped_in_a_row", "logs"}
    state = read(path)
    missing = needed - (state.keys() if isinstance(state, dict) else set())
    if missing:
        raise UserError(
            f"checkpoint {path}: without {', '.join(sorted(missing))}: "
            f"give a run's {'' if for_resuming else 'best.pt or '}last.pt, written by train.py"
        )
    return state
