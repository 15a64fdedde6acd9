"""The base class of datasets in the prepared layout: flags, splits and reading."""

import os
import re
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections import Counter
from collections.abc import Sequence
from math import prod
from pathlib import Path
from random import Random
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ...core import distributed
from ...data import layout, standard
from ...data.clips import Raw
from ...data.folds import read_fold
from ...data.lists import read_manifest, read_split, shared_groups
from ...data.recipes import RECIPES
from ...data.samples import Data, Modality, Split
from ...system.errors import UserError
from ...system.flags import fraction, positive
from ...system.paths import sha256
from ...system.processes import free_memory
from ...system.tables import read_table
from ..base import Dataset

SHARE = 1 / 8  # of the free memory, for the samples of a split; several runs may start at once


class Prepared(Dataset):
    """A dataset whose samples prepare.py has made from raw clips; see `data.layout`.

    A subclass defines `collect`, which finds clips in raw files, and its recipes.
    """

    name: ClassVar[str]  # in the registry and in metadata.json
    recipes: ClassVar[dict[str, str]]  # {family of `data.recipes`: the default}
    stills: ClassVar[int | None] = 2  # in a sample, of each clip; None without frames
    hint: ClassVar[str]  # where the raw files come from, for messages
    has_text: ClassVar[bool] = False  # raw files may hold text, so there are flags for it
    lists: ClassVar[str] = ""  # which lists a published split comes in, for --help; "" for none
    defaults = {"workers": min(8, os.cpu_count() or 1)}

    @classmethod
    def add_flags(cls, parser: ArgumentParser) -> None:
        add = parser.add_argument
        # fmt: off
        add("--split", metavar="NAME",
            help="which of the set's splits to use, or one fold of all its clips: fold1of5 to "
                 "fold5of5, with any number for 5 (default: the split that verify.py marks)")
        add("--image_size", type=positive(int), default=224, metavar="PIXELS",
            help="height and width of pictures and frames, >= 1")
        add("--crop", choices=("still", "clip", "none"), default="still",
            help="in training, crop and flip every still by itself (still), all stills of a clip "
                 "alike (clip, for encoders that see time), or none at all")
        if cls.stills:
            add("--num_frames", type=positive(int), default=cls.stills, metavar="N",
                help="stills of each clip, one from each of its N equal parts, >= 1")
        # fmt: on

    @classmethod
    def add_prepare_flags(cls, parser: ArgumentParser) -> None:
        """Add the flags of prepare.py besides --raw and --out."""
        add = parser.add_argument
        # fmt: off
        for family, default in cls.recipes.items():
            add(f"--{family}", choices=RECIPES[family], default=default,
                help="a recipe of code/mmpareto/data/recipes.py (default: %(default)s)")
        if cls.has_text:
            add("--tokenizer", type=_tokenizer, default="words", metavar="words or hf:NAME",
                help="how text becomes numbers: words (lower-cased; the vocabulary is that of the "
                     "training part), or hf:NAME or hf:DIR, a tokenizer of transformers "
                     "(default: %(default)s)")
            add("--text_length", type=positive(int), default=40, metavar="N",
                help="tokens of a text, >= 1; longer texts are cut (default: %(default)s)")
        add("--workers", type=positive(int), default=os.cpu_count() or 1, metavar="N",
            help="processes, >= 1; any number makes the same files (default: %(default)s)")
        add("--max_bad", type=fraction, default=0.01, metavar="SHARE",
            help="give up if a larger share of clips, in [0, 1), cannot be used "
                 "(default: %(default)s)")
        if cls.lists:
            add("--lists", nargs="+", type=Path, default=[], metavar="FILE", help=cls.lists)
            add("--allow_missing", action="store_true",
                help="go without listed clips that have no raw files; they are noted in "
                     "problems.csv")
        # fmt: on

    @classmethod
    def expect_folder(cls, raw: Path) -> None:
        if not raw.is_dir():
            raise UserError(f"--raw {raw}: no such folder: {cls.hint}")

    @classmethod
    def collect(cls, flags: Namespace) -> Raw:
        """Return the clips in flags.raw."""
        raise NotImplementedError

    @classmethod
    def has_arrays(cls, root: Path) -> bool:
        if not (root / "metadata.json").exists():  # results are read without the set, too
            return False
        return any(s.kind in standard.KINDS for s in layout.read_metadata(root).modalities.values())

    @classmethod
    def load(cls, flags: Namespace) -> Data:
        root: Path = flags.data_root
        metadata = layout.read_metadata(root)
        if metadata.dataset != cls.name:
            raise UserError(
                f"--data_root {root}: it holds {metadata.dataset}, not {cls.name}: give "
                f"--dataset {metadata.dataset}"
            )
        rows = read_manifest(root, metadata)
        own = layout.split_names(root, metadata)
        if fold := read_fold(rows, flags.split or "", own):
            split, listed = f"{flags.split} of all {len(rows)} clips", fold
        else:
            split, listed = read_split(root, metadata, flags.split)
        parts = {part: [rows[id] for id in ids if id in rows] for part, ids in listed.items()}
        _check_parts(root, split, listed, parts, metadata)
        every = [row for rows in parts.values() for row in rows]
        counts = Counter(name for row in every for name in metadata.modalities if row[name] == "")
        told = ", ".join(f"{name} {counts[name]}" for name in metadata.modalities if counts[name])
        lacks = [f"Missing  {told} of {len(every)}; Acc_NAME counts the samples that have NAME"]
        excluded = sum(map(len, listed.values())) - sum(map(len, parts.values()))
        more = f"; {excluded} of its clips are excluded, see problems.csv" if excluded else ""
        groups = {p: shared_groups(parts["train"], parts[p]) for p in parts if p != "train"}
        overlaps = [
            f"Groups   {shared} of {total} in {part} also in train"
            for part, (shared, total) in groups.items()
            if total
        ]
        taught = {row["label"] for row in parts["train"]}
        untaught = ", ".join(label for label in metadata.classes if label not in taught)
        gaps = [f"Classes  no training clip of {untaught}"] if untaught else []
        readers = _readers(metadata.modalities, flags)
        classes = {label: i for i, label in enumerate(metadata.classes)}
        modalities = {
            name: Modality(
                spec.kind, readers[name].shape, spec.vocabulary, spec.pad or 0, spec.tokenizer or ""
            )
            for name, spec in metadata.modalities.items()
        }
        return Data(
            name=cls.name,
            classes=metadata.classes,
            modalities=modalities,
            splits={p: PreparedSplit(root, rows, readers, classes) for p, rows in parts.items()},
            recipe=metadata.recipe,
            notes=(
                f"Split    {split}{more}",
                *overlaps,
                *gaps,
                *(lacks if told else ()),
                *cls._unused(metadata.modalities, flags),
            ),
            # metadata.json stands for the media files, which would take long to read
            identity=f"{sha256(root / 'manifest.csv')} {metadata.sha256.get('files.csv')}",
        )

    @classmethod
    def _unused(cls, modalities: dict[str, layout.Spec], flags: Namespace) -> list[str]:
        """Return a line about flags of pictures that were given, if the set has no pictures."""
        cls.add_flags(parser := ArgumentParser())
        given = [
            f"--{name}"
            for name in ("image_size", "crop", "num_frames")
            if getattr(flags, name, None) != parser.get_default(name)
        ]
        if not given or any(s.has_stills or s.kind == "image" for s in modalities.values()):
            return []
        return [f"Unused   {', '.join(given)}: the set has no pictures"]


class PreparedSplit(Split):
    """Reads clips from their files; `rows` are rows of the manifest."""

    def __init__(self, root: Path, rows: list[dict], readers: dict, classes: dict[str, int]):
        self.root, self.rows, self.readers, self.classes = root, rows, readers, classes
        self.targets = torch.tensor([classes[row["label"]] for row in rows])
        if any(row[name] == "" for row in rows for name in readers):
            self.present = torch.tensor([[row[name] != "" for name in readers] for row in rows])
        # {modality: samples, and which of them each clip has}, of those in memory
        self.held: dict[str, tuple[Tensor, Tensor]] = {}

    @property
    def ids(self) -> list[str]:
        return [row["id"] for row in self.rows]

    def read(self, indices: list[int], draw: int | None = None) -> tuple[dict[str, Tensor], Tensor]:
        inputs = {name: self.values(name, indices, draw) for name in self.readers}
        return inputs, self.targets[indices]

    def hold(self) -> bool:
        readers = {name: reader for name, reader in self.readers.items() if reader.is_fixed}
        shared = {} if self.held else {name: self._shared(name) for name in readers}
        each = {name: prod(r.shape) * np.dtype(r.dtype).itemsize for name, r in readers.items()}
        size = sum(len(first) * each[name] for name, (first, _) in shared.items())
        if size <= SHARE * free_memory() / distributed.size():
            for name, (first, which) in shared.items():
                numbers = tqdm(first, f"reading {name} into memory", leave=False, disable=None)
                self.held[name] = self._read(name, numbers), which
        return self.held.keys() == self.readers.keys()

    def _shared(self, name: str) -> tuple[list[int], Tensor]:
        """Return the first clip of each of a modality's cells, and each clip's cell by number."""
        cells: dict[str, int] = {}
        which = [cells.setdefault(row[name], len(cells)) for row in self.rows]
        return np.unique(which, return_index=True)[1].tolist(), torch.tensor(which)

    def values(self, modality: str, indices: Sequence[int], draw: int | None = None) -> Tensor:
        if modality not in self.held:
            return self._read(modality, indices, draw)
        samples, which = self.held[modality]
        return samples[which[indices]]

    def _read(self, name: str, indices: Sequence[int], draw: int | None = None) -> Tensor:
        """Return a modality's samples, read from their files."""
        reader = self.readers[name]
        values = np.empty((len(indices), *reader.shape), reader.dtype)
        packed: dict[str, list[tuple[int, int]]] = {}  # {file: (place in values, its row)}
        for place, index in enumerate(indices):
            row = self.rows[index]
            if row[name] == "":  # absent: NaN would show where it counted
                values[place] = np.nan if values.dtype.kind == "f" else 0
                continue
            file, _, number = row[name].partition("#")
            if number and reader.is_fixed:
                packed.setdefault(file, []).append((place, int(number)))
                continue
            path = self._inside(row[name])
            random = None if draw is None else Random(f"{draw} {row['id']} {name}")
            reader.read(path, row, random, values[place])
        for file, chosen in packed.items():
            places, numbers = map(list, zip(*chosen, strict=True))
            values[places] = reader.load(self._inside(file), numbers)
        return torch.from_numpy(values)

    def _inside(self, path: str) -> str:
        """Return where a file of the set lies; UserError if a link leads there."""
        if layout.is_linked(self.root, path):
            raise UserError(
                f"{self.root}/{path}: is a link, or below one, which could lead out of the set: "
                "put the files themselves there"
            )
        return f"{self.root}/{path}"

    def subset(self, indices: Sequence[int]) -> "PreparedSplit":
        rows = [self.rows[i] for i in indices]
        part = PreparedSplit(self.root, rows, self.readers, self.classes)
        chosen = list(indices)
        part.held = {name: (samples, which[chosen]) for name, (samples, which) in self.held.items()}
        return part


def _check_parts(
    root: Path, split: str, listed: dict, parts: dict, metadata: layout.Metadata
) -> None:
    """Raise UserError for an empty part, a bad row, or a clip that is missing without a reason."""
    manifest = root / "manifest.csv"
    for part, rows in parts.items():
        if not rows:
            raise UserError(
                f"--split {split}: {root} has no clip for {part}: add some, or choose another split"
            )
        for row in rows:
            where = f"{manifest}: {row['id']} has"
            given = metadata.given(row)
            if not given:
                raise UserError(f"{where} no modality at all: prepare the set anew")
            stills = [row[name + layout.STILLS] for name in given if name + layout.STILLS in row]
            if not all(layout.is_index(n) and int(n) > 0 for n in stills):
                raise UserError(f"{where} no number of stills: prepare the set anew")
            for name in given:
                file, mark, number = row[name].partition("#")
                if not layout.is_inside(file) or (mark and not layout.is_index(number)):
                    raise UserError(
                        f"{where} {name} {row[name]!r}: a path inside the set expected, and after "
                        "# a row's number: prepare the set anew"
                    )
            if row["label"] not in metadata.classes:
                raise UserError(
                    f"{where} label {row['label']!r}, none of the classes in metadata.json "
                    f"({', '.join(metadata.classes)}): prepare the set anew"
                )
        if lost := [n for n in metadata.modalities if not any(row[n] for row in rows)]:
            raise UserError(
                f"--split {split}: no clip of {part} has {' or '.join(lost)}: choose another split"
            )
    known = {row["id"] for row in read_table(root / "problems.csv", layout.PROBLEMS)}
    known |= {row["id"] for rows in parts.values() for row in rows}
    if lost := [id for ids in listed.values() for id in ids if id not in known]:
        raise UserError(
            f"--split {split}: {len(lost)} of its clips are not in the set, first {lost[0]}: "
            "prepare them, or take them out of the list"
        )


def _tokenizer(text: str) -> str:
    if text != "words" and not re.fullmatch("hf:.+", text):
        raise ArgumentTypeError(f"{text!r} is neither words nor hf:NAME")
    return text


def _readers(modalities: dict[str, layout.Spec], flags: Namespace) -> dict:
    try:
        from ...data.reading import Array, Flow, Frames, Picture
    except ModuleNotFoundError as error:
        raise UserError(
            f"--dataset {flags.dataset} needs a package: pip install opencv-python ({error})"
        ) from None
    readers = {}
    for name, spec in modalities.items():
        shape = tuple(spec.shape or ())
        if spec.has_stills:
            stills = Frames if spec.kind == "frames" else Flow
            readers[name] = stills(name, flags.num_frames, flags.image_size, flags.crop)
        elif spec.kind == "image":
            readers[name] = Picture(flags.image_size, flags.crop)
        elif spec.kind == "spectrogram":
            readers[name] = Array((1, *shape))
        else:
            readers[name] = Array(shape, np.int64 if spec.kind == "tokens" else np.float32)
        if prod(readers[name].shape) > layout.LARGEST:
            raise UserError(
                f"--image_size, --num_frames: a sample of {name} would have the shape "
                f"{readers[name].shape}, of more than {layout.LARGEST} numbers: lower them"
            )
    return readers
