"""Files of tensors: written atomically, read without pickle."""

import pickle
import zipfile
from itertools import islice
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from .errors import UserError, reason
from .paths import clear_errors
from .writing import write_atomically


def write(path: Path, state: dict[str, Any]) -> None:
    """Save state; whatever happens, path holds either the old or the whole new file."""
    write_atomically(path, lambda file: torch.save(state, file))


def read(path: Path, what: str = "checkpoint") -> Any:
    """Load tensors and plain containers from path, and nothing that needs pickle."""
    if not path.is_file():
        folder, found = (path, "is a folder") if path.is_dir() else (path.parent, "no such file")
        with clear_errors(f"{what} {path}"):
            near = [*folder.glob("*.pt"), *islice(folder.glob("*/*.pt"), 1)]
        example = min(near, default="a run's best.pt")
        raise UserError(f"{what} {path}: {found}: give a file that is there, such as {example}")
    try:
        if zipfile.is_zipfile(path):  # a few bytes could unpack into many; torch itself packs none
            with zipfile.ZipFile(path) as archive:
                size = sum(member.file_size for member in archive.infolist())
            if size > path.stat().st_size:
                raise ValueError(f"its parts claim {size} bytes")
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{what} {path}: holds objects that only pickle can load, which can run any code, or "
            "is no checkpoint: give a file of tensors, such as a run's best.pt"
        ) from None
    except Exception as error:  # random bytes make torch.load fail in many ways
        raise UserError(
            f"{what} {path}: damaged, cut off or no checkpoint ({path.stat().st_size} bytes; "
            f"{reason(error)}): restore it from a copy or train again"
        ) from None


def is_plain(value: object) -> TypeGuard[Tensor]:
    """Return whether it is a tensor whose numbers lie in memory, so not a sparse one."""
    if not isinstance(value, Tensor) or value.layout != torch.strided:
        return False
    return not (value.is_meta or value.is_nested or value.is_quantized)
