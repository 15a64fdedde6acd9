"""What became of every clip, kept while it happens, so that a later call can go on."""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from ..data.clips import Clip, Problem, State, state_of
from ..data.layout import ID, is_inside
from ..data.recipes import first_difference
from ..data.samples import recipe_hash
from ..system.errors import UserError
from ..system.lock import NAME as LOCK
from ..system.paths import blocker_of
from ..system.records import as_record, check, is_count, parse
from ..system.writing import write_text

OURS = {"README.md", LOCK, ".tmp"}  # what a folder without a journal may hold


@dataclass(frozen=True)
class Head:
    """The first line: which set this is."""

    dataset: str
    recipe: dict[str, Any]


@dataclass(frozen=True)
class ReadArchive:
    """An archive that needs no second reading while it is in this state."""

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

    path: str  # of its file, or of its folder of stills
    stills: int | None
    shape: list[int] | None  # of an array or spectrogram
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
    """What became of a clip: it was prepared, or left out for a problem."""

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


class Journal:
    """One line for each clip that was tried. The last line of a clip counts.

    The lines are JSON: a damaged one costs one clip, which is made again, and equal sets have equal
    journals.
    """

    def __init__(self, out: Path, dataset: str, recipe: dict):
        self.out, self.path, self.head = out, out / "journal.jsonl", Head(dataset, recipe)
        self.records: dict[str, Tried] = {}
        self.bad_ids: set[str] = set()
        self.archives: dict[str, list] = {}
        self.file: TextIO | None = None
        blocker_of(out)
        foreign = [] if not out.exists() else [p for p in out.iterdir() if p.name not in OURS]
        if foreign and not self.path.exists():
            raise UserError(
                f"--out {out}: the folder holds other things ({foreign[0].name}): give a new one"
            )
        text = self.path.read_text(encoding="utf-8", errors="replace") if self.path.exists() else ""
        entries = [_parsed(line) for line in text.splitlines()]
        self.is_new = entries in ([], [None])  # None where it was cut off before its first clip
        if not self.is_new:
            self._check_head(entries[0])
        for entry in entries[1:]:
            is_archive = isinstance(entry, dict) and "archive" in entry
            try:
                self._keep(as_record(entry, ReadArchive if is_archive else Tried))
            except ValueError:
                continue  # cut off by a kill, or damaged: its clip is made again

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
        """Open for new lines; a last line that was cut off is ended first."""
        mode = "w" if self.is_new else "a"
        self.file = open(self.path, mode, encoding="utf-8")  # noqa: SIM115 (closed by close)
        if self.is_new:
            self.file.write(_line(self.head))
            self.file.flush()
        elif not self.path.read_bytes().endswith(b"\n"):
            self.file.write("\n")

    def close(self) -> None:
        if self.file:
            self.file.close()

    def add(self, record: Tried | ReadArchive) -> None:
        """Write a line, which is in the file when this returns."""
        assert self.file, "start comes first"
        self._keep(record)
        self.file.write(_line(record))
        self.file.flush()

    def forget(self, id: str) -> None:
        """Of a clip that is about to be made again, or no longer wanted."""
        self.records.pop(id, None)
        self.bad_ids.discard(id)

    def relabel(self, clip: Clip) -> None:
        """The user's table may say something else of a clip now."""
        self.records[clip.id] = replace(self.records[clip.id], label=clip.label, group=clip.group)

    def good(self) -> list[Tried]:
        return [r for id, r in sorted(self.records.items()) if id not in self.bad_ids]

    def bad(self) -> list[tuple[Tried, Problem]]:
        """The clips that cannot be used, each with its problem."""
        return [(r, r.problem) for _, r in sorted(self.records.items()) if r.problem]

    def has(self, clip: Clip) -> bool:
        """Whether clip was prepared from these raw files, and its own are still there."""
        if not self.has_id(clip.id):
            return False
        seen = {name: s._replace(sha256="") for name, s in self.records[clip.id].sources.items()}
        return all(state_of(source) == seen.get(name) for name, source in clip.sources.items())

    def has_id(self, id: str) -> bool:
        return id in self.records.keys() - self.bad_ids and all(
            (self.out / file.path).is_file() and (self.out / file.path).stat().st_size == file.bytes
            for file in self.records[id].files
        )

    def compact(self) -> None:
        """Rewrite with one line for each clip, in order: equal sets have equal journals."""
        archives = [ReadArchive(*item) for item in sorted(self.archives.items())]
        records = [record for _, record in sorted(self.records.items())]
        write_text(self.path, "".join(map(_line, [self.head, *archives, *records])))

    def _keep(self, record: Tried | ReadArchive) -> None:
        if isinstance(record, ReadArchive):
            self.archives[record.archive] = record.state
            return
        self.forget(record.id)
        self.records[record.id] = record
        if record.problem:
            self.bad_ids.add(record.id)


def _parsed(line: str) -> Any:
    try:
        return parse(line)
    except ValueError:
        return None


def _line(record: Head | ReadArchive | Tried) -> str:
    """A clip's line has a problem, or else modalities and doubts."""
    content = asdict(record)
    if isinstance(record, Tried):
        for name in ("modalities", "doubts") if record.problem else ("problem",):
            del content[name]
    return json.dumps(content) + "\n"
