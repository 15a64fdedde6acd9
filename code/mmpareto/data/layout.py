"""A prepared set on disk: its files, and rules for their names and cells.

metadata.json    dataset, classes, modalities, recipe and its hash, splits, counts, versions; it is
                 written last, so a folder without it is not finished
manifest.csv     a row for every clip: id, label (the class's name), group, and for each modality
                 the path of its file (FILE.npy#ROW for a row of a packed array) or folder of
                 stills; MODALITY.stills says how many stills that folder holds. Where a
                 clip lacks a modality its cells are empty; metadata.json counts them
splits/NAME.csv  id, split
problems.csv     id, modality, action (excluded, kept), reason, detail
files.csv        path, bytes and sha256 of every media file
present.csv      of some sets: the rows of a published list whose clips are in this set
vocabulary.txt   of sets with text: its words, a line for each number
journal.jsonl    what each clip became; a later call of prepare.py goes on from it
"""

import os
import re
from dataclasses import asdict, dataclass
from functools import lru_cache
from math import prod
from pathlib import Path, PurePosixPath
from typing import Any

from ..system.errors import CONTROL, UserError
from ..system.paths import expect_regular
from ..system.records import as_record, check, is_count, parse
from .samples import is_modality_name

SCHEMA = 1
ID = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9_.-]{1,128}")
PROBLEMS = ("id", "modality", "action", "reason", "detail")
FILES = ("path", "bytes", "sha256")
SPLIT = ("id", "split")
STILLS = ".stills"  # after a modality, whose own name has no dot: a column of the manifest
PARTS = ("train", "val", "test")
LARGEST = 2**27  # numbers, or pixels, in one file; more is a mistake, or meant to fill the memory
WORDS = 2**24  # in a vocabulary


@dataclass(frozen=True)
class Spec:
    """A modality of a set; its name is also the name of its folder."""

    kind: str  # as of `Modality`
    vocabulary: int | None = None  # of tokens
    shape: list[int] | None = None  # of an array; None for pictures

    @property
    def has_stills(self) -> bool:
        """Return whether a clip has a folder of stills; flow has one if it came as pictures."""
        return self.kind == "frames" or (self.kind == "flow" and not self.shape)

    pad: int | None = None  # of tokens: the tokenizer's number for padding, here exchanged with 0
    tokenizer: str | None = None  # of tokens that prepare.py has made

    def __post_init__(self) -> None:
        """Raise ValueError unless a reader can be made of it."""
        shape, words = self.shape or [], self.vocabulary or 0
        axes = {
            "frames": [0], "image": [0], "tokens": [1], "spectrogram": [2], "flow": [0, 4],
            # numpy's limit is 64, and batches have more axes
            "array": range(1, 33), "sequence": range(2, 33),
        }  # fmt: skip
        check(
            kind=len(shape) in axes.get(self.kind, ()),
            shape=all(map(is_count, shape)) and 0 < prod(shape) <= LARGEST,
            vocabulary=0 < words <= WORDS if self.kind == "tokens" else not words,
            pad=self.pad is None or 0 < self.pad < words,
            tokenizer=not self.tokenizer or bool(words and not CONTROL.search(self.tokenizer)),
        )


@dataclass(frozen=True)
class Metadata:
    """metadata.json."""

    schema: int
    dataset: str
    classes: list[str]
    modalities: dict[str, Spec]
    recipe: dict[str, Any]
    splits: list[str]  # the default one first
    counts: dict[str, Any]
    recipe_hash: str
    versions: dict[str, Any]
    sha256: dict[str, str]  # of the tables
    no_group_split: str = ""  # why prepare.py could not make the split "group"

    def __post_init__(self) -> None:
        check(
            schema=self.schema == SCHEMA,
            classes=bool(self.classes) and _are_names(self.classes),
            modalities=bool(self.modalities) and all(map(is_modality_name, self.modalities)),
            splits=_are_names(self.splits) and all(map(_is_file_name, self.splits)),
            counts=type(self.counts.get("clips")) is int
            and is_count(self.counts["clips"])
            and isinstance(self.lacking, dict),
            sha256=all(map(is_inside, self.sha256)),
        )

    @property
    def lacking(self) -> dict[str, int]:
        """Return {modality: how many clips lack it}, of those that some clip lacks."""
        return self.counts.get("lacking", {})

    def given(self, row: dict[str, str]) -> list[str]:
        """Return the modalities that a row of the manifest has, or should have."""
        return [name for name in self.modalities if row[name] or name not in self.lacking]

    def as_json(self) -> dict[str, Any]:
        specs = asdict(self)["modalities"]
        known = {n: {k: v for k, v in spec.items() if v is not None} for n, spec in specs.items()}
        return {**vars(self), "modalities": known}


def read_metadata(root: Path) -> Metadata:
    """Read metadata.json of the prepared set in root; UserError if it is missing or damaged."""
    path = root / "metadata.json"
    try:
        expect_regular(path)
        return as_record(parse(path.read_text(encoding="utf-8")), Metadata)
    except (FileNotFoundError, NotADirectoryError):
        what = "it has no metadata.json: make one with code/prepare.py"
        if (root / "journal.jsonl").exists():
            what = "its preparation has not finished: run the same prepare.py command again"
        elif sets := sets_below(root):
            what = f"it holds sets, choose one of {', '.join(map(str, sets))}"
        raise UserError(f"{root} is no prepared set: {what}") from None
    except PermissionError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}): let this user read it"
        ) from None
    except (OSError, ValueError) as error:
        kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
        raise UserError(
            f"{path}: is no metadata of a prepared set ({kind}{error}): copy the set again, or "
            "prepare it anew"
        ) from None


def sets_below(root: Path) -> list[Path]:
    """Return the prepared sets that lie in root."""
    return sorted(path.parent for path in root.glob("*/metadata.json"))


def _are_names(texts: list[str]) -> bool:
    """Return whether all texts differ, and a terminal can show them."""
    return len(set(texts)) == len(texts) and not any(map(CONTROL.search, texts))


def _is_file_name(name: str) -> bool:
    return is_inside(name) and len(PurePosixPath(name).parts) == 1


@lru_cache(maxsize=1024)  # thousands of samples may be rows of one file
def is_inside(path: str) -> bool:
    """Return whether a set's path stays below its folder, and is possible as a file name."""
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


def is_linked(root: Path, path: str) -> bool:
    """Return whether a part of path below root is a link: it could lead out of the set."""
    place = str(root)
    for part in PurePosixPath(path).parts:
        place = f"{place}/{part}"
        if os.path.islink(place):
            return True
    return False


def is_index(text: str) -> bool:
    """Return whether a cell is a whole number from 0, not longer than any count here."""
    return text.isascii() and text.isdecimal() and len(text) < 19


def manifest_columns(modalities: dict[str, Spec]) -> list[str]:
    columns = ["id", "label", "group"]
    for name, spec in modalities.items():
        columns += [name, name + STILLS] if spec.has_stills else [name]
    return columns


def split_path(root: Path, name: str) -> Path:
    return root / "splits" / f"{name}.csv"


def split_names(root: Path, metadata: Metadata) -> list[str]:
    """Return the names of the splits: the default first, those that the user added last."""
    found = {path.stem for path in (root / "splits").glob("*.csv")}
    return metadata.splits + sorted(found - set(metadata.splits))
