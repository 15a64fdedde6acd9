"""JSON files, which others may have written, are read into typed records before they are trusted.

A record is a dataclass: writing one needs no package, reading needs msgspec, which checks types.
A record's __post_init__ checks what types cannot say. A field `further` holds unknown fields.
"""

import json
from dataclasses import MISSING, fields
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from .errors import UserError
from .paths import clear_errors, expect_regular

Record = TypeVar("Record")
ANEW = "restore it, or delete the run's folder and run it again"


def read(path: Path, kind: type[Record], advice: str = ANEW) -> Record:
    """Return the record in a JSON file; raise UserError, which ends in advice, if it has none."""
    try:
        return as_record(load(path), kind)
    except ValueError as error:
        raise UserError(f"{path}: missing or damaged fields: {error}: {advice}") from None


def load(path: Path) -> Any:
    """Read the plain values of a JSON file; raise UserError if it cannot be read."""
    try:
        expect_regular(path)
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}): is this the folder of a run?") from None


def read_lines(
    path: Path, kind: type[Record], size: int | None = None, advice: str = ANEW
) -> list[Record]:
    """Read the records in a file of JSON lines, or in its first size bytes."""
    try:
        with clear_errors(path):
            expect_regular(path)
            with open(path, "rb") as file:
                lines = file.read(size).decode().splitlines()
        return [as_record(parse(line), kind) for line in lines]
    except ValueError as error:
        raise UserError(f"{path}: is damaged ({error}): {advice}") from None


def parse(text: str) -> Any:
    """Parse JSON text; raise ValueError also if it is nested too deeply."""
    try:
        return json.loads(text)  # msgspec's own parser refuses file names that are not valid text
    except RecursionError:
        raise ValueError("nested too deeply") from None


def as_record(content: Any, kind: type[Record]) -> Record:
    """Convert plain values to a record; raise ValueError with the names of all bad fields."""
    try:
        import msgspec
    except ImportError:
        raise UserError("reading a run's files needs a package: run pip install msgspec") from None
    if not isinstance(content, dict):
        raise ValueError(f"a {type(content).__name__} instead of fields")
    known = {field.name: field for field in fields(kind)}  # pyrefly: ignore
    if known.pop("further", None):
        rest = {name: value for name, value in content.items() if name not in known}
        content = {**{name: content[name] for name in known if name in content}, "further": rest}
    try:
        return msgspec.convert(content, kind)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except msgspec.ValidationError as error:
        first = error
    hints, wrong = get_type_hints(kind), []
    for name, field in known.items():
        try:
            if name in content:
                msgspec.convert(content[name], hints[name])
            elif field.default is MISSING and field.default_factory is MISSING:
                wrong.append(name)
        except (msgspec.ValidationError, RecursionError):
            wrong.append(name)
    raise ValueError(", ".join(wrong) or str(first))


def check(**fields: bool) -> None:
    """Raise ValueError with the names of the fields whose condition is false."""
    if wrong := [name for name, holds in fields.items() if not holds]:
        raise ValueError(", ".join(wrong))


def is_count(value: int) -> bool:
    """Return whether it is a whole number from 0 to the largest that memory can address."""
    return 0 <= value < 2**63


def is_known(value: float | None) -> bool:
    """Return whether it is a finite number, or None, which stands for one that is not finite."""
    return value is None or isfinite(value)
