"""Write the outcome of each clip at once, so that a later call can go on from there."""

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from ..data.clips import Clip, Problem, State, state_of
from ..data.layout import ID, is_inside
from ..data.recipes import first_difference
from ..data.samples import recipe_hash
from ..system.errors import UserError
from ..system.lock import NAME as LOCK
from ..system.paths import blocker_of
from ..system.records import as_record, check, is_count, parse
from ..system.writing import write_text

OURS = {"README.md", LOCK, ".tmp"}  # a folder without a journal may hold these


@dataclass(frozen=True)
class Head:
    """The first line: which set this is."""

    dataset: str
    recipe: dict[str, Any]


@dataclass(frozen=True)
class ReadArchive:
    """An archive that was read; in this state it is not read again."""

    archive: str
    state: list[Any]


class File(NamedTuple):
    """A prepared file, as files.csv lists it."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Stored:
    """One modality of a clip, as it lies in the set."""

    path: str  # its file, or its folder of stills
    stills: int | None
    shape: list[int] | None  # for an array or spectrogram
    files: list[File]

    def __post_init__(self) -> None:
        check(
            path=is_inside(self.path),
            stills=self.stills is None or is_count(self.stills),
            shape=all(map(is_count, self.shape or [])),
            files=all(is_inside(file.path) and is_count(file.bytes) for file in self.files),
        )


@dataclass(frozen=True)
class Tried:
    """The outcome of a clip: it was prepared, or left out for a problem."""

    id: str
    label: str
    group: str
    sources: dict[str, State]
    modalities: dict[str, Stored] = field(default_factory=dict)
    doubts: list[Problem] = field(default_factory=list)
    problem: Problem | None = None

    def __post_init__(self) -> None:
        check(id=bool(ID.fullmatch(self.id)), modalities=bool(self.modalities or self.problem))

    @property
    def files(self) -> list[File]:
        return [file for item in self.modalities.values() for file in item.files]


def files_of(records: Iterable[Tried]) -> list[File]:
    """Return each file of the records once: clips may share a packed one."""
    return list(dict.fromkeys(file for record in records for file in record.files))


class Journal:
    """A file with one line of JSON for each clip that was tried; the last line of a clip counts.

    If a line is damaged, its clip is prepared again. Equal sets have equal journals.
    """

    def __init__(self, out: Path, dataset: str, recipe: dict):
        self.out, self.path, self.head = out, out / "journal.jsonl", Head(dataset, recipe)
        self.good: dict[str, Tried] = {}
        self.bad: dict[str, Tried] = {}
        self.archives: dict[str, list] = {}
        blocker_of(out)
        foreign = [] if not out.exists() else [p for p in out.iterdir() if p.name not in OURS]
        if foreign and not self.path.exists():
            raise UserError(
                f"--out {out}: the folder holds other things ({foreign[0].name}): give a new one"
            )
        text = self.path.read_text(encoding="utf-8", errors="replace") if self.path.exists() else ""
        entries = [_parsed(line) for line in text.splitlines()]
        self.is_new = entries in ([], [None])  # None: cut off in its first line
        if not self.is_new:
            self._check_head(entries[0])
        for entry in entries[1:]:
            is_archive = isinstance(entry, dict) and "archive" in entry
            with suppress(ValueError):  # cut off or damaged: its clip is prepared again
                self._keep(as_record(entry, ReadArchive if is_archive else Tried))

    def _check_head(self, entry: Any) -> None:
        try:
            found = as_record(entry, Head)
        except ValueError:
            raise UserError(
                f"--out {self.out}: the first line of its journal.jsonl is damaged: give another "
                "folder, or delete this one"
            ) from None
        if found == self.head:
            return
        what = f"dataset {found.dataset}"
        if found.dataset == self.head.dataset:
            difference = first_difference(found.recipe, self.head.recipe)
            old, new = recipe_hash(found.recipe), recipe_hash(self.head.recipe)
            what = f"recipe {old}, now {new} ({difference})"
        raise UserError(f"--out {self.out}: it holds a set of {what}: give another folder")

    def start(self) -> None:
        """Write the first line, or end a last line that was cut off."""
        if self.is_new:
            self.path.write_text(_line(self.head))
        elif not self.path.read_bytes().endswith(b"\n"):
            self._append("\n")

    def add(self, *records: Tried | ReadArchive) -> None:
        """Write a line for each record; they are in the file when this returns."""
        for record in records:
            self._keep(record)
        self._append("".join(map(_line, records)))

    def forget(self, id: str) -> None:
        """Drop a clip that is prepared again or no longer wanted."""
        self.good.pop(id, None)
        self.bad.pop(id, None)

    def relabel(self, clip: Clip, rows: dict[str, tuple[State, Stored]]) -> None:
        """Take label and group from clip, and its texts from rows: the table may have changed."""
        old = self.good[clip.id]
        stored = old.modalities | {name: item for name, (_, item) in rows.items()}
        new = replace(old, label=clip.label, group=clip.group, modalities=stored)
        self.good[clip.id] = new

    @property
    def ids(self) -> set[str]:
        """Return the ids of all clips that were tried."""
        return self.good.keys() | self.bad.keys()

    def has(self, clip: Clip) -> bool:
        """Return whether clip was prepared from these raw files, and its files still exist."""
        if not self.has_id(clip.id):
            return False
        seen = {name: s._replace(sha256="") for name, s in self.good[clip.id].sources.items()}
        return seen == {name: state_of(source) for name, source in clip.sources.items()}

    def has_id(self, id: str) -> bool:
        return id in self.good and all(
            (self.out / file.path).is_file() and (self.out / file.path).stat().st_size == file.bytes
            for file in self.good[id].files
        )

    def compact(self) -> None:
        """Rewrite the file with one line for each clip, in order."""
        archives = [ReadArchive(*item) for item in sorted(self.archives.items())]
        records = [record for _, record in sorted((self.good | self.bad).items())]
        write_text(self.path, "".join(map(_line, [self.head, *archives, *records])))

    def _keep(self, record: Tried | ReadArchive) -> None:
        if isinstance(record, ReadArchive):
            self.archives[record.archive] = record.state
            return
        self.forget(record.id)
        (self.bad if record.problem else self.good)[record.id] = record

    def _append(self, text: str) -> None:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(text)


def _parsed(line: str) -> Any:
    try:
        return parse(line)
    except ValueError:
        return None


def _line(record: Head | ReadArchive | Tried) -> str:
    """Return a record as a line; a clip has either a problem, or modalities and doubts."""
    content = {field.name: getattr(record, field.name) for field in fields(record)}
    if isinstance(record, Tried):
        for name in ("modalities", "doubts") if record.problem else ("problem",):
            del content[name]
    return json.dumps(content, default=vars) + "\n"  # asdict would copy everything first
