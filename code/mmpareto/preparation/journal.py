"""What became of every clip, kept while it happens, so that a later call can go on."""

import json
from pathlib import Path
from typing import Any, TextIO

from ..data.clips import Clip, state_of
from ..data.layout import ID, is_inside
from ..data.recipes import first_difference
from ..data.samples import recipe_hash
from ..system import fields
from ..system.errors import UserError
from ..system.lock import NAME as LOCK
from ..system.paths import blocker_of
from ..system.writing import write_text

OURS = {"README.md", LOCK, ".tmp"}  # what a folder without a journal may hold


def _is_stored(item: dict) -> bool:
    """What `worker` says of a modality it has written."""
    return (
        is_inside(item["path"])
        and (item["stills"] is None or fields.is_count(item["stills"]))
        and (item["shape"] is None or fields.are(fields.is_count)(item["shape"]))
        and all(
            is_inside(path) and fields.is_count(size) and fields.is_text(digest)
            for path, size, digest in item["files"]
        )
    )


def _are_problems(value: list) -> bool:
    return all(len(problem) == 3 and all(map(fields.is_text, problem)) for problem in value)


_HEAD = {"dataset": fields.is_text, "recipe": lambda value: isinstance(value, dict)}
_ARCHIVE = {"archive": fields.is_text, "state": lambda value: isinstance(value, list)}
_CLIP = {
    "id": ID.fullmatch,
    "label": fields.is_text,
    "group": fields.is_text,
    "sources": lambda value: all(isinstance(state, list) and state for state in value.values()),
}
_GOOD = {
    "modalities": lambda value: value and all(map(_is_stored, value.values())),
    "doubts": _are_problems,
}
_BAD = {"problem": lambda value: _are_problems([value])}


class Journal:
    """One line for each clip that was tried: what became of it. The last line of a clip counts."""

    def __init__(self, out: Path, dataset: str, recipe: dict):
        self.out, self.path, self.recipe = out, out / "journal.jsonl", recipe
        self.records: dict[str, dict] = {}
        self.bad_ids: set[str] = set()
        self.archives: dict[str, list] = {}
        self.head = {"dataset": dataset, "recipe": recipe}
        blocker_of(out)
        foreign = [] if not out.exists() else [p for p in out.iterdir() if p.name not in OURS]
        if foreign and not self.path.exists():
            raise UserError(
                f"--out {out}: the folder holds other things ({foreign[0].name}): give a new one"
            )
        text = self.path.read_text(encoding="utf-8", errors="replace") if self.path.exists() else ""
        lines = text.splitlines()
        self.is_new = not lines
        self.file: TextIO | None = None
        for number, line in enumerate(lines):
            try:
                entry = fields.parse(line)
            except ValueError:
                entry = None
            if entry is None and len(lines) == 1:
                self.is_new = True  # cut off before its first clip
            elif number == 0:
                self._check_head(entry)
            elif not fields.wrong(entry, _ARCHIVE):
                self.archives[entry["archive"]] = entry["state"]
            elif not fields.wrong(entry, _CLIP) and any(
                not fields.wrong(entry, end) for end in (_GOOD, _BAD)
            ):
                self._keep(entry)
            # else it was cut off by a kill, or damaged: its clip is made again

    def _check_head(self, found: Any) -> None:
        if found == self.head:
            return
        if fields.wrong(found, _HEAD):
            raise UserError(
                f"--out {self.out}: the first line of its journal.jsonl is damaged: give another "
                "folder, or delete this one"
            )
        if found.get("dataset") != self.head["dataset"]:
            what = f"dataset {found.get('dataset')}"
        else:
            difference = first_difference(found["recipe"], self.recipe)
            old, new = recipe_hash(found["recipe"]), recipe_hash(self.recipe)
            what = f"recipe {old}, now {new} ({difference})"
        raise UserError(f"--out {self.out}: it holds a set of {what}: give another folder")

    def start(self) -> None:
        """Open for new lines; a last line that was cut off is ended first."""
        mode = "w" if self.is_new else "a"
        self.file = open(self.path, mode, encoding="utf-8")  # noqa: SIM115 (closed by close)
        if self.is_new:
            self._write(self.head)
        elif not self.path.read_bytes().endswith(b"\n"):
            self.file.write("\n")

    def close(self) -> None:
        if self.file:
            self.file.close()

    def add(self, record: dict) -> None:
        self._keep(record)
        self._write(record)

    def add_archive(self, name: str, state: list) -> None:
        """Note that an archive needs no second reading while it is in this state."""
        self.archives[name] = state
        self._write({"archive": name, "state": state})

    def forget(self, id: str) -> None:
        """Of a clip that is about to be made again, or no longer wanted."""
        self.records.pop(id, None)
        self.bad_ids.discard(id)

    def relabel(self, clip: Clip) -> None:
        """The user's table may say something else of a clip now."""
        self.records[clip.id] |= {"label": clip.label, "group": clip.group}

    def good(self) -> list[dict]:
        return [r for id, r in sorted(self.records.items()) if id not in self.bad_ids]

    def bad(self) -> list[dict]:
        return [self.records[id] for id in sorted(self.bad_ids)]

    def has(self, clip: Clip) -> bool:
        """Whether clip was prepared from these raw files, and its own are still there."""
        return self.has_id(clip.id) and all(
            state_of(source) == self.records[clip.id]["sources"].get(name, [])[:-1]
            for name, source in clip.sources.items()
        )

    def has_id(self, id: str) -> bool:
        record = self.records.get(id)
        return bool(record) and id not in self.bad_ids and all(
            (self.out / path).is_file() and (self.out / path).stat().st_size == size
            for item in record["modalities"].values()
            for path, size, _ in item["files"]
        )  # fmt: skip

    def compact(self) -> None:
        """Rewrite with one line for each clip, in order: equal sets have equal journals."""
        rows = [{"archive": n, "state": s} for n, s in sorted(self.archives.items())]
        rows += [record for _, record in sorted(self.records.items())]
        text = "".join(json.dumps(row) + "\n" for row in [self.head, *rows])
        write_text(self.path, text)

    def _keep(self, record: dict) -> None:
        self.forget(record["id"])
        self.records[record["id"]] = record
        if "problem" in record:
            self.bad_ids.add(record["id"])

    def _write(self, entry: dict) -> None:
        self.file.write(json.dumps(entry) + "\n")
        self.file.flush()
