"""A prepared set on disk: its files, and what their names and cells may be.

metadata.json    dataset, classes, modalities, recipe and its hash, splits, counts, versions; it is
                 written last, so a folder without it is not finished
manifest.csv     a row for every clip: id, label (the class's name), group, and for each modality
                 the path of its file (FILE.npy#ROW for a row of a packed array) or folder of
                 stills; MODALITY.stills says how many stills that folder holds
splits/NAME.csv  id, split
problems.csv     id, modality, action (excluded, kept), reason, detail
files.csv        path, bytes and sha256 of every media file
journal.jsonl    what each clip became; a later call of prepare.py goes on from it
"""

import os
import re
from math import prod
from pathlib import Path, PurePosixPath

from ..system import fields
from ..system.errors import CONTROL, UserError
from ..system.paths import expect_regular
from .samples import is_modality_name

SCHEMA = 1
ID = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9_.-]{1,128}")
MANIFEST = ("id", "label", "group")
PROBLEMS = ("id", "modality", "action", "reason", "detail")
FILES = ("path", "bytes", "sha256")
SPLIT = ("id", "split")
STILLS = ".stills"  # no modality ends so: a dot is not part of its name
PARTS = ("train", "val", "test")
LARGEST = 2**27  # numbers, or pixels, in one file; more is a mistake, or meant to fill the memory
WORDS = 2**24  # in a vocabulary


def read_metadata(root: Path) -> dict:
    """metadata.json of the prepared set in root; UserError where there is none, or another."""
    path = root / "metadata.json"
    if not path.exists():
        unfinished = (root / "journal.jsonl").exists()
        raise UserError(
            f"{root} is no prepared set: "
            + (
                "its preparation has not finished: run the same prepare.py command again"
                if unfinished
                else "it has no metadata.json: make one with code/prepare.py"
            )
        )
    try:
        expect_regular(path)
        metadata = fields.parse(path.read_text(encoding="utf-8"))
        wrong = fields.wrong(metadata, _METADATA)
    except (OSError, ValueError) as error:
        wrong = [f"{type(error).__name__}: {error}"]
    if wrong:
        raise UserError(
            f"{path}: is no metadata of a prepared set ({', '.join(wrong)}): copy the set again, "
            "or prepare it anew"
        )
    return metadata


def _is_modality(name: str, spec: dict) -> bool:
    """Whether it is a plain folder's name, and a reader can be made of its spec."""
    kind, shape = spec["kind"], spec.get("shape")
    if not is_modality_name(name) or not fields.is_number(spec.get("scale", 1)):
        return False
    if spec.get("scale", 1) <= 0 or not (shape is None or _is_shape(shape)):
        return False
    if kind == "tokens":
        words = spec["vocabulary"]
        return len(shape) == 1 and fields.is_count(words) and 0 < words <= WORDS
    if kind == "frames" or (kind == "image" and shape is None):
        return True
    axes = {"spectrogram": 2, "image": 3, "flow": 4, "array": len(shape)}
    return len(shape) == axes[kind]


def _is_shape(value: list) -> bool:
    return (
        fields.are(fields.is_count)(value)
        and 1 <= len(value) <= 32  # numpy's limit is 64, and batches have more axes
        and 0 < prod(value) <= LARGEST
    )


def _are_names(value: list) -> bool:
    """Texts that differ, and that a terminal can show."""
    return (
        fields.are(fields.is_text)(value)
        and len(set(value)) == len(value)
        and not any(map(CONTROL.search, value))
    )


_METADATA = {
    "schema": lambda value: value == SCHEMA,
    "dataset": fields.is_text,
    "classes": lambda value: value and _are_names(value),
    "modalities": lambda value: value and all(_is_modality(*item) for item in value.items()),
    "recipe": lambda value: isinstance(value, dict),
    "recipe_hash": fields.is_text,
    "splits": lambda value: _are_names(value) and all(map(is_file_name, value)),
    "counts": lambda value: fields.is_count(value["clips"]),
    "sha256": lambda value: all(map(fields.is_text, value.values())) and all(map(is_inside, value)),
}


def is_inside(path: str) -> bool:
    """Whether a set's path leads to a place below its folder, and a file can be called so."""
    parts = PurePosixPath(path)
    return (
        bool(parts.parts)
        and not parts.is_absolute()
        and ".." not in parts.parts
        and "\\" not in path
        and not CONTROL.search(path)
        and len(path.encode()) < 2048
        and all(len(part.encode()) < 256 for part in parts.parts)
    )


def is_file_name(name: str) -> bool:
    return is_inside(name) and len(PurePosixPath(name).parts) == 1


def is_linked(root: Path | str, path: str) -> bool:
    """Whether a part of path below root is a link: it could lead out of the set."""
    place = str(root)
    for part in PurePosixPath(path).parts:
        place = f"{place}/{part}"
        if os.path.islink(place):
            return True
    return False


def is_index(text: str) -> bool:
    """Whether a cell is a whole number from 0, of no more digits than any count here has."""
    return text.isascii() and text.isdecimal() and len(text) < 19


def manifest_columns(modalities: dict[str, dict]) -> list[str]:
    columns = list(MANIFEST)
    for name, spec in modalities.items():
        columns += [name, stills_column(name)] if spec["kind"] == "frames" else [name]
    return columns


def stills_column(modality: str) -> str:
    return modality + STILLS


def split_path(root: Path, name: str) -> Path:
    return root / "splits" / f"{name}.csv"


def split_names(root: Path, metadata: dict) -> list[str]:
    """The default split first; files that the user has added come last."""
    known = metadata.get("splits", [])
    return known + sorted({p.stem for p in (root / "splits").glob("*.csv")} - set(known))
