"""The user's own data: any number of modalities, described by one CSV file."""

import os
import unicodedata
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from ..data.clips import ARRAYS, KINDS, PICTURES, Clip, Raw, Source
from ..data.folds import TENTHS, divided
from ..data.layout import ID, PARTS
from ..data.lists import List
from ..data.samples import is_modality_name
from ..system.errors import UserError
from ..system.tables import read_csv
from .shared.prepared import Prepared

# Endings of files that may hold arrays, and have to be converted: only .npy files are read.
NO_ARRAYS = {
    ".npz": "an archive of arrays", ".pkl": "a Python pickle", ".pickle": "a Python pickle",
    ".pt": "a file of torch.save", ".pth": "a file of torch.save", ".csv": "a text file",
    ".tsv": "a text file", ".txt": "a text file", ".json": "a text file", ".h5": "an HDF5 file",
    ".hdf5": "an HDF5 file", ".mat": "a MATLAB file",
}  # fmt: skip
ENDINGS = {
    "image": PICTURES,
    "audio": (".wav", ".flac", ".ogg", ".mp3", ".m4a", ".aac", ".opus"),
    "array": (".npy", *NO_ARRAYS),
}


class Folder(Prepared):
    """Your own data, from a CSV file with an id, a label and one path for each modality."""

    name = "folder"
    one_of_many = True  # its data_root says which data it is
    recipes = {"frames": "3fps", "audio": "stft", "images": "jpeg256"}
    has_text = True
    hint = "data/folder/README.md describes the CSV file"

    @classmethod
    def add_prepare_flags(cls, parser: ArgumentParser) -> None:
        super().add_prepare_flags(parser)
        # fmt: off
        parser.add_argument("--csv", type=Path, metavar="FILE",
            help="table with the columns id, label, split (train, val, test; optional), group (its "
                 "clips stay in one part; optional) and one column of paths below --raw for "
                 f"each modality, called NAME or NAME:KIND, KIND one of {', '.join(KINDS)} "
                 "(default: clips.csv in --raw)")
        parser.add_argument("--length", nargs="+", default=[], metavar="MODALITY=N",
            help="pad, or cut, the first axis of an array, flow or tokens to N; an array becomes a "
                 "sequence, whose padding does not count")
        parser.add_argument("--vocabulary", nargs="+", default=[], metavar="MODALITY=N",
            help="vocabulary size: tokens are integers from 1 to N - 1, and 0 for padding; needed "
                 "for each modality of kind tokens")
        parser.add_argument("--missing", action="store_true",
            help="an empty cell is a modality that the clip lacks; training and evaluation leave "
                 "it out, never in silence (default: an empty cell is an error)")
        # fmt: on

    @classmethod
    def collect(cls, flags: Namespace) -> Raw:
        path = flags.csv or flags.raw / "clips.csv"
        if flags.csv and not path.is_file() and (inside := flags.raw / path).is_file():
            raise UserError(f"--csv {path}: no such file here: did you mean {inside}?")
        if not flags.raw.is_dir() or not path.is_file():
            raise UserError(f"--raw {flags.raw}: {path} not found: {cls.hint}")
        # spreadsheets of some countries write ; or tabs
        lines = read_csv(path, ",;\t", _is_text)
        header = [value.strip() for value in lines[0][1]] if lines else []
        names = [column.partition(":")[0] for column in header]
        kinds = _modalities(path, header, names, [values for _, values in lines[1:]])
        lengths = _numbers("length", flags.length, kinds, ARRAYS)
        vocabularies = _numbers("vocabulary", flags.vocabulary, kinds, ("tokens",))
        for name, kind in kinds.items():
            if kind == "tokens" and name not in vocabularies:
                raise UserError(f"{path}: {name} is of kind tokens: give --vocabulary {name}=N")
        clips, parts, seen = [], {}, {}
        for line, values in lines[1:]:
            where = f"{path}, line {line}"
            if len(values) != len(header):
                found = f"{len(values)} values found, {len(header)} expected"
                raise UserError(f"{where}: {found}: {','.join(header)}")
            row = dict(zip(names, map(str.strip, values), strict=True))
            id, label, part = row["id"], _composed(row["label"]), row.get("split", "")
            if not ID.fullmatch(id):
                raise UserError(f"{where}: id {id!r}: 1 to 128 of A-Z a-z 0-9 _ . - expected")
            if id.lower() in seen:
                raise UserError(f"{where}: id {id} is also in line {seen[id.lower()]}: keep one")
            if not label:
                raise UserError(f"{where}: column label is empty: give a class")
            if "split" in row and part not in PARTS:
                raise UserError(f"{where}: split {part!r}, one of {', '.join(PARTS)} expected")
            seen[id.lower()] = line
            sources = {
                name: _source(where, flags.raw, name, kind, row[name])._replace(
                    length=lengths.get(name), vocabulary=vocabularies.get(name)
                )
                for name, kind in kinds.items()
                if row[name] or not flags.missing
            }
            if not sources:
                raise UserError(f"{where}: {id} has no modality: fill a cell, or delete the row")
            clips.append(Clip(id, label, _composed(row.get("group", "")), sources))
            parts[id] = part, label
        classes = sorted({clip.label for clip in clips})
        if len(classes) < 2:
            raise UserError(f"{path}: {len(classes)} class found in column label, 2 or more needed")
        lists = {"given": parts} if "split" in header else {}
        told = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
        notes = [f"{len(clips)} clips, {len(classes)} classes, {told}"]
        return Raw(
            cls.name, cls.hint, classes, kinds, clips, lists=lists, notes=notes, lengths=lengths,
            vocabularies=vocabularies, seconds=10.0, is_whole=True,
            held_out={name: _held_out(clips, parts) for name in lists},
        )  # fmt: skip


def _held_out(clips: list[Clip], parts: List) -> set[str]:
    """Return the training clips of a tenth of the groups, for validation.

    Empty if training shares a group with another part, or no two of its clips have one: then
    validation has single clips.
    """
    train = sorted((clip for clip in clips if parts[clip.id][0] == "train"), key=lambda c: c.id)
    groups = [clip.group for clip in train]
    shared = {*groups} & {clip.group for clip in clips if parts[clip.id][0] != "train"}
    if not all(groups) or shared or not 2 < len({*groups}) < len(train):
        return set()
    try:
        place = divided([clip.label for clip in train], groups, min(len({*groups}), TENTHS))
    except ValueError:  # each class has fewer clips than parts are made
        return set()
    return {clip.id for clip, number in zip(train, place, strict=True) if number == 0}


def _modalities(
    path: Path, header: list[str], names: list[str], rows: list[list[str]]
) -> dict[str, str]:
    """Return {name: kind} from the header, or from the first file name in the column."""
    if missing := [name for name in ("id", "label") if name not in names]:
        raise UserError(
            f"{path}: column {' and '.join(missing)} not found in its first line "
            f"{','.join(header)!r}: id, label, and optionally split and group, are expected"
        )
    if len(set(names)) < len(names):
        raise UserError(f"{path}: two columns of {','.join(header)!r} share a name: rename one")
    kinds = {}
    for place, (column, name) in enumerate(zip(header, names, strict=True)):
        if name in ("id", "label", "split", "group"):
            continue
        if not is_modality_name(name) or name == "splits":
            raise UserError(f"{path}: {name!r} cannot be a modality's name: take another word")
        cells = (row[place].strip() for row in rows if place < len(row))
        file = next(filter(None, cells), "")
        if rows and not file:
            raise UserError(f"{path}: every cell of {name} is empty: give paths, or delete it")
        ending = PurePosixPath(file.partition("#")[0].strip().lower()).suffix
        guess = next((kind for kind, known in ENDINGS.items() if ending in known), "frames")
        kinds[name] = column.partition(":")[2] or guess
        if kinds[name] not in KINDS:
            raise UserError(f"{path}: column {column}: {', '.join(KINDS)} expected after the colon")
    if not kinds:
        raise UserError(f"{path}: no modality: add a column of paths for each")
    return kinds


def _composed(text: str) -> str:
    """Return text with each accented letter as one character; macOS writes two in file names."""
    return unicodedata.normalize("NFC", text)


def _is_text(header: list[str], place: int) -> bool:
    return place < len(header) and header[place].strip().endswith(":text")


def _source(where: str, raw: Path, name: str, kind: str, value: str) -> Source:
    if not value:
        raise UserError(
            f"{where}: {name} is empty: give a path below --raw; if clips may lack a modality, "
            "give --missing"
        )
    if kind == "text":
        return Source(kind, raw, text=value)
    text, _, number = value.partition("#") if kind in ARRAYS else (value, "", "")
    relative = PurePosixPath(text)
    if not text or relative.is_absolute() or ".." in relative.parts or "\\" in text:
        raise UserError(
            f"{where}: {name} {value!r}: a path below --raw expected, without .. and backslashes"
        )
    ending = relative.suffix.lower()
    if kind in ARRAYS and ending in NO_ARRAYS:
        raise UserError(
            f"{where}: {name} {value!r} is {NO_ARRAYS[ending]}, {kind} expects .npy: write the "
            f"numbers with numpy.save('{relative.stem}.npy', ...)"
        )
    if kind == "frames" and ending in PICTURES and not os.path.isdir(raw / relative):
        raise UserError(
            f"{where}: {name} {value!r} is one picture, frames are a video or a folder of "
            f"pictures: give the folder, or call the column {name}:image"
        )
    spellings = (text, _composed(text), unicodedata.normalize("NFD", text))
    path = next((raw / s for s in spellings if os.path.exists(raw / s)), raw / text)
    try:
        os.stat(path)
    except OSError as error:
        what = "a link that leads nowhere" if os.path.islink(path) else error.strerror
        raise UserError(
            f"{where}: {name} {value!r}: not found in {raw} ({what}): mend the path"
        ) from None
    if number and not number.isdecimal():
        raise UserError(f"{where}: {name} {value!r}: a row number expected after #")
    return Source(kind, path, int(number) if number else None)


def _numbers(
    flag: str, words: list[str], kinds: dict[str, str], expected: Sequence[str]
) -> dict[str, int]:
    """Return {modality: N} of the words after a flag, for modalities of the expected kinds."""
    numbers = {}
    for word in words:
        name, _, number = word.partition("=")
        if kinds.get(name) not in expected or not number.isdecimal() or int(number) < 1:
            known = ", ".join(name for name, kind in kinds.items() if kind in expected)
            raise UserError(
                f"--{flag} {word}: MODALITY=N expected, MODALITY of kind {' or '.join(expected)} "
                f"({known or 'none here'})"
            )
        numbers[name] = int(number)
    return numbers
