"""Files of JSON that others may have written, read into typed records before anything trusts them.

A record is a dataclass: writing one needs no package, reading needs msgspec, which checks types.
What types cannot say, the record's __post_init__ checks. A field `further` holds unknown fields.
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
    """The record that a JSON file holds; UserError, which ends in advice, where it holds none."""
    try:
        return as_record(load(path), kind)
    except ValueError as error:
        raise UserError(f"{path}: missing or damaged fields: {error}: {advice}") from None


def load(path: Path) -> Any:
    """Read the plain values of a JSON file; UserError if it cannot be read."""
    try:
        expect_regular(path)
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}): is this the folder of a run?") from None


def read_lines(
    path: Path, kind: type[Record], size: int | None = None, advice: str = ANEW
) -> list[Record]:
    """Read the records of a file of JSON lines, or of its first size bytes."""
    try:
        with clear_errors(path):
            expect_regular(path)
            with open(path, "rb") as file:
                lines = file.read(size).decode().splitlines()
        return [as_record(parse(line), kind) for line in lines]
    except ValueError as error:
        raise UserError(f"{path}: is damaged ({error}): {advice}") from None


def parse(text: str) -> Any:
    """Parse JSON text; ValueError also if it is nested too deeply."""
    try:
        return json.loads(text)  # msgspec's own parser refuses names of files that are no text
    except RecursionError:
        raise ValueError("nested too deeply") from None


def as_record(content: Any, kind: type[Record]) -> Record:
    """Plain values as a record; ValueError with the names of all fields missing or wrong."""
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
    """ValueError with the names of the fields that do not hold."""
    if wrong := [name for name, holds in fields.items() if not holds]:
        raise ValueError(", ".join(wrong))


def is_count(value: int) -> bool:
    """Whether it is a whole number from 0 that memory can address."""
    return 0 <= value < 2**63


def is_known(value: float | None) -> bool:
    """Whether it is a finite number, or None, which stands for one that is not finite."""
    return value is None or isfinite(value)
