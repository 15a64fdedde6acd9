"""Atomic writing: a path holds either the old or the whole new file."""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from .errors import UserError, reason


def write_atomically(path: Path, fill: Callable[[BinaryIO], None]) -> None:
    unfinished = path.with_name(path.name + ".tmp")
    try:
        unfinished.unlink(missing_ok=True)  # a link would be followed
        with open(unfinished, "xb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except (OSError, RuntimeError) as error:  # torch.save hides the cause behind its own error
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        system = [getattr(e, "strerror", None) for e in (error, error.__context__)]
        what = system[0] or system[1] or reason(error)
        raise UserError(f"{path}: cannot be written ({what})") from None
    finally:
        with suppress(OSError):  # nothing may be writable
            unfinished.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    content = text.encode(errors="backslashreplace")  # file names in it may not be valid text
    write_atomically(path, lambda file: file.write(content))


def write_json(path: Path, content: dict) -> None:
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
