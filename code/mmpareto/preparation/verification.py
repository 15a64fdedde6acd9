"""The checks of code/verify.py: is a prepared set whole?"""

import os
import random
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from math import prod
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..data import layout, pictures
from ..data.clips import POINTER
from ..data.layout import is_index, is_inside, is_linked
from ..data.lists import read_split, shared_groups
from ..data.samples import recipe_hash
from ..system import paths
from ..system.errors import UserError, printable
from ..system.tables import read_table
from .arrays import before_padding

SAMPLE = 0.05  # share of the media files that are read unless full
BLOCK = 2**22  # numbers of a packed file that are checked at once: it may not fit in memory
EXAMPLES = 10  # things shown of each kind of finding
Finding = tuple[str, str]  # its kind, and the file or clip


class Verification:
    """Checks the set in root: `findings` has the faults by kind, `facts` describes the set.

    UserError only if there is no set at all.
    """

    def __init__(self, root: Path, *, full: bool, workers: int):
        self.root = root
        self.metadata = data = layout.read_metadata(root)
        self.findings: dict[str, list[str]] = defaultdict(list)
        self.rows: dict[str, list[int]] = defaultdict(list)  # of each packed file, those in use
        self.facts = [f"Set      {data.dataset}, recipe {data.recipe_hash}, {root}"]
        self._check_metadata()
        try:
            columns = layout.manifest_columns(data.modalities)
            self.clips = read_table(root / "manifest.csv", columns)
            self.files = read_table(root / "files.csv", layout.FILES)
            self.problems = read_table(root / "problems.csv", layout.PROBLEMS)
        except UserError as error:
            self._add("unreadable table", error)
            return
        self._check_clips()
        self._check_paths()
        self._check_splits()
        read = self._check_files(full, workers)
        size = sum(int(f["bytes"]) for f in self.files if is_index(f["bytes"]))
        counts = f"{self._count('excluded')}, {self._count('kept', 'remarks on kept ones')}"
        told = f"Clips    {len(self.clips)} in {len(data.classes)} classes; {counts}"
        lacking = ", ".join(f"{name} {count}" for name, count in data.lacking.items())
        self.facts += [
            f"{told}, see problems.csv",
            *([f"Missing  {lacking} of {len(self.clips)} clips"] if lacking else []),
            f"Files    {len(self.files)}, {size / 1e6:.1f} MB; {read} of them read whole",
        ]

    def _count(self, action: str, words: str = "") -> str:
        """Return how many rows of problems.csv have this action, and for which reasons."""
        counts = Counter(row["reason"] for row in self.problems if row["action"] == action)
        told = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
        return f"{counts.total()} {words or action}" + (f" ({told})" if told else "")

    def lines(self) -> list[str]:
        lines = list(self.facts)
        for kind, things in self.findings.items():
            rest = len(things) - EXAMPLES
            more = f"; and {rest} more" if rest > 0 else ""
            lines.append(f"FAILED   {kind}: {'; '.join(sorted(things)[:EXAMPLES])}{more}")
        return list(map(printable, lines))

    def _add(self, kind: str, what: object) -> None:
        self.findings[kind].append(str(what))

    def _check_metadata(self) -> None:
        if recipe_hash(self.metadata.recipe) != self.metadata.recipe_hash:
            self._add("recipe is not what its hash says", "metadata.json")
        for name, digest in self.metadata.sha256.items():
            path = self.root / name
            if is_linked(self.root, name):
                self._add("link instead of a file", name)
            elif not path.is_file():
                self._add("missing file", name)
            elif paths.sha256(path) != digest:
                self._add("edited or damaged since it was prepared", name)

    def _check_clips(self) -> None:
        for id, count in Counter(row["id"].lower() for row in self.clips).items():
            if count > 1:
                self._add("id twice in manifest.csv", id)
        for row in self.clips:
            if not layout.ID.fullmatch(row["id"]):
                self._add("id with other characters than A-Z a-z 0-9 _ . -", repr(row["id"]))
            if row["label"] not in self.metadata.classes:
                self._add("label that is no class", f"{row['id']}: {row['label']}")
        if len(self.clips) != self.metadata.counts["clips"]:
            told = self.metadata.counts["clips"]
            self._add("number of clips", f"{len(self.clips)} found, metadata.json says {told}")

        for name, told in self.metadata.lacking.items():
            if (count := sum(row.get(name) == "" for row in self.clips)) != told:
                self._add(f"clips without {name}", f"{count} found, metadata.json says {told}")

    def _check_paths(self) -> None:
        """Check that every path stays inside, and that files.csv lists exactly the files."""
        expected, listed = set(), {row["path"] for row in self.files}
        for row in self.clips:
            given = self.metadata.given(row)
            if not given:
                self._add("clip without any modality", row["id"])
            for name in given:
                spec = self.metadata.modalities[name]
                path, stills = row[name], row.get(name + layout.STILLS)
                if not is_inside(path):
                    self._add("path outside the set", f"{row['id']}: {path}")
                elif not spec.has_stills:
                    file, _, number = path.partition("#")
                    expected.add(file)
                    if is_index(number) and int(number) < _rows(self.root / file):
                        self.rows[file].append(int(number))
                    elif number:
                        self._add("row that its array does not have", f"{row['id']}: {path}")
                elif not (is_index(stills) and 0 < int(stills) <= len(self.files)):
                    self._add("number of stills", f"{row['id']}: {stills!r}")
                else:
                    expected |= {f"{path}/{i:06d}.jpg" for i in range(int(stills))}
        for path in listed:
            if not is_inside(path):
                self._add("path outside the set", path)
        for path in expected - listed:
            self._add("not in files.csv", path)
        for path in listed - expected:
            self._add("in files.csv, but no clip uses it", path)
        for name in self.metadata.modalities:
            for folder, _, names in os.walk(self.root / name):
                for file in names:
                    path = Path(folder, file).relative_to(self.root).as_posix()
                    if path not in listed:
                        self._add("file that no table lists", path)

    def _check_splits(self) -> None:
        rows = {row["id"]: row for row in self.clips}
        explained = {row["id"] for row in self.problems if row["action"] == "excluded"}
        names = layout.split_names(self.root, self.metadata)
        if not names:
            advice = "a class has too few clips: write splits/NAME.csv (id,split)"
            self.facts.append(f"Split    none, {advice}")
        for name in names:
            try:
                _, parts = read_split(self.root, self.metadata, name)
            except UserError as error:
                self._add("unreadable split", error)
                continue
            present, sizes = {}, []
            for part, ids in parts.items():
                present[part] = [rows[id] for id in ids if id in rows]
                count, listed = len(present[part]), len(ids)
                sizes.append(f"{part} {count}" + (f" of {listed}" if listed != count else ""))
                if not count:
                    self._add("empty part of a split", f"{name}: {part}")
                for id in set(ids) - rows.keys() - explained:
                    self._add("clip of a split that is not in the set", f"{name}: {id}")
            shared, total = shared_groups(present["train"], present["test"])
            overlap = f"; {shared} of {total} groups in test also in train" if total else ""
            is_default = " (default)" if name == names[0] else ""
            self.facts.append(f"Split    {name}{is_default}: {', '.join(sizes)}{overlap}")
        why = self.metadata.no_group_split
        if why and "group" not in names and any(row["group"] for row in self.clips):
            self.facts.append(f"WARNING  there are groups, but no split group: {why}")

    def _check_files(self, full: bool, workers: int) -> int:
        """Check all sizes, and the contents of all or of a seeded sample; return how many."""
        numbers = range(len(self.files))
        sample = min(len(numbers), max(100, round(SAMPLE * len(numbers))))
        chosen = set(numbers if full else random.Random(0).sample(numbers, sample))

        def check(number: int) -> Finding | None:
            file = self.files[number]
            is_whole = number in chosen or file["path"] in self.rows
            try:
                return self._check_file(file, is_whole)
            except OSError as error:
                return "unreadable file", f"{file['path']} ({error.strerror})"

        with ThreadPoolExecutor(workers) as pool:
            results = pool.map(check, numbers)
            bar = tqdm(results, "verify", len(numbers), unit="file", leave=False, disable=None)
            for found in filter(None, bar):
                self._add(*found)
        return len(chosen)

    def _check_file(self, file: dict[str, str], whole: bool) -> Finding | None:
        name, path = file["path"], self.root / file["path"]
        if not is_inside(name):
            return None  # reported with the paths, and nothing is read there
        if is_linked(self.root, name):
            return "link instead of a file", name
        if not path.is_file():
            return "missing file", name
        size = path.stat().st_size
        if str(size) != file["bytes"]:
            with open(path, "rb") as opened:
                if opened.read(len(POINTER)) == POINTER:
                    return "Git LFS pointer instead of the file", name
            return "another size than when it was prepared", f"{name} ({size}, was {file['bytes']})"
        if not whole:
            return None
        if paths.sha256(path) != file["sha256"]:
            return "damaged: another sha256 than when it was prepared", name
        return self._check_content(path, name)

    def _check_content(self, path: Path, name: str) -> Finding | None:
        if not name.endswith(".npy"):
            is_picture = pictures.read(path) is not None
            return None if is_picture else ("picture that does not decode", name)
        spec = self.metadata.modalities.get(name.split("/")[0])
        try:
            # mapped: a header that claims much takes no memory
            values = np.load(path, mmap_mode="r", allow_pickle=False)
        except Exception:  # numpy parses the header as Python and fails in many ways
            values = None
        if not isinstance(values, np.ndarray):
            return "array that does not load", name
        rows = self.rows.get(name)
        samples, rows = (values[None], [0]) if rows is None else (values, rows)
        shape = samples.shape[1:]
        if spec and spec.shape and list(shape) != spec.shape:
            return "array of another shape than declared", f"{name} {shape}"
        step = max(1, BLOCK // max(1, prod(shape)))
        for start in range(0, len(rows), step):  # other rows may hold anything
            block = samples[rows[start : start + step]]
            used = before_padding(block) if spec and spec.kind == "sequence" else block
            if block.dtype.kind == "f" and not np.isfinite(used).all():
                return "array with NaN or infinite numbers", name
            if spec and spec.vocabulary and not _are_tokens(block, spec.vocabulary):
                return "tokens that are no integers of the vocabulary", name
        return None


def _are_tokens(values: np.ndarray, vocabulary: int) -> bool:
    return values.dtype.kind in "iu" and values.min() >= 0 and values.max() < vocabulary


@cache
def _rows(path: Path) -> int:
    try:
        paths.expect_regular(path)
        return len(np.load(path, mmap_mode="r", allow_pickle=False))
    except Exception:  # numpy parses the header as Python and fails in many ways
        return 0  # reported with the files
