"""Is a prepared set whole? Every check of code/verify.py."""

import os
import random
from collections import Counter, defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ..data import layout, pictures
from ..data.clips import POINTER
from ..data.layout import Metadata, is_index, is_inside, is_linked
from ..data.lists import read_split, shared_groups
from ..data.samples import recipe_hash
from ..system import paths, tables
from ..system.errors import UserError, printable
from ..system.paths import expect_regular

Finding = tuple[str, str]  # its kind, and what it was found in
SAMPLE = 0.05  # share of the media files that are read without --full


class Report:
    """Findings, each a kind with the things it was found in."""

    def __init__(self):
        self.findings: dict[str, list[str]] = defaultdict(list)
        self.facts: list[str] = []

    def add(self, kind: str, what: object) -> None:
        self.findings[kind].append(str(what))

    def lines(self, examples: int = 10) -> list[str]:
        lines = list(self.facts)
        for kind, things in self.findings.items():
            shown = "; ".join(sorted(things)[:examples])
            more = f"; and {len(things) - examples} more" if len(things) > examples else ""
            lines.append(f"FAILED   {kind}: {shown}{more}")
        return list(map(printable, lines))


def verify(root: Path, *, full: bool, workers: int) -> Report:
    """Check the set in root; UserError only where there is no set at all."""
    metadata = layout.read_metadata(root)
    report = Report()
    fact = report.facts.append
    fact(f"Set      {metadata.dataset}, recipe {metadata.recipe_hash}, {root}")
    _check_metadata(root, metadata, report)
    try:
        columns = layout.manifest_columns(metadata.modalities)
        clips = tables.read_table(root / "manifest.csv", columns)
        files = tables.read_table(root / "files.csv", layout.FILES)
        problems = tables.read_table(root / "problems.csv", layout.PROBLEMS)
    except UserError as error:
        report.add("unreadable table", error)
        return report
    _check_clips(clips, metadata, report)
    _check_paths(root, clips, files, metadata, report)
    _check_splits(root, clips, problems, metadata, report)
    read = _read_files(root, files, metadata, report, full=full, workers=workers)
    actions = Counter(row["action"] for row in problems)
    size = sum(int(f["bytes"]) for f in files if is_index(f["bytes"]))
    fact(
        f"Clips    {len(clips)} in {len(metadata.classes)} classes; {actions['excluded']} "
        f"excluded, {actions['kept']} remarks on kept ones, see problems.csv"
    )
    fact(f"Files    {len(files)}, {size / 1e6:.1f} MB; {read} of them read whole")
    return report


def _check_metadata(root: Path, metadata: Metadata, report: Report) -> None:
    if recipe_hash(metadata.recipe) != metadata.recipe_hash:
        report.add("recipe is not what its hash says", "metadata.json")
    for name, digest in metadata.sha256.items():
        path = root / name
        if is_linked(root, name):
            report.add("link instead of a file", name)
        elif not path.is_file():
            report.add("missing file", name)
        elif paths.sha256(path) != digest:
            report.add("edited or damaged since it was prepared", name)


def _check_clips(clips: list[dict], metadata: Metadata, report: Report) -> None:
    ids = Counter(row["id"].lower() for row in clips)
    for id, count in ids.items():
        if count > 1:
            report.add("id twice in manifest.csv", id)
    for row in clips:
        if not layout.ID.fullmatch(row["id"]):
            report.add("id with other characters than A-Z a-z 0-9 _ . -", repr(row["id"]))
        if row["label"] not in metadata.classes:
            report.add("label that is no class", f"{row['id']}: {row['label']}")
    if len(clips) != metadata.counts["clips"]:
        report.add("number of clips", f"{len(clips)}, of {metadata.counts['clips']}")


def _check_paths(
    root: Path, clips: list[dict], files: list[dict], metadata: Metadata, report: Report
) -> None:
    """Every path stays inside, every file is listed once, and none is there that is not listed."""
    expected = set()
    for row in clips:
        for name, spec in metadata.modalities.items():
            path, stills = row[name], row.get(layout.stills_column(name))
            if not is_inside(path):
                report.add("path outside the set", f"{row['id']}: {path}")
            elif spec.kind != "frames":
                file, _, number = path.partition("#")
                expected.add(file)
                if number and not (is_index(number) and int(number) < _rows(root / file)):
                    report.add("row that its array does not have", f"{row['id']}: {path}")
            elif not (is_index(stills) and 0 < int(stills) <= len(files)):
                report.add("number of stills", f"{row['id']}: {stills!r}")
            else:
                expected |= {f"{path}/{i:06d}.jpg" for i in range(int(stills))}
    listed = {row["path"] for row in files}
    for path in listed:
        if not is_inside(path):
            report.add("path outside the set", path)
    for path in expected - listed:
        report.add("not in files.csv", path)
    for path in listed - expected:
        report.add("in files.csv, but of no clip", path)
    for name in metadata.modalities:
        for folder, _, names in os.walk(root / name):
            for file in names:
                path = Path(folder, file).relative_to(root).as_posix()
                if path not in listed:
                    report.add("file that no table lists", path)


@cache
def _rows(path: Path) -> int:
    try:
        expect_regular(path)
        return len(np.load(path, mmap_mode="r", allow_pickle=False))
    except Exception:  # numpy parses the header as Python and fails in many ways
        return 0  # reported with the files


def _check_splits(
    root: Path, clips: list[dict], problems: list[dict], metadata: Metadata, report: Report
) -> None:
    rows = {row["id"]: row for row in clips}
    explained = {row["id"] for row in problems if row["action"] == "excluded"}
    names = layout.split_names(root, metadata)
    if not names:
        report.facts.append(
            "Split    none, a class has too few clips: write splits/NAME.csv (id,split)"
        )
    for name in names:
        try:
            _, parts = read_split(root, metadata, name)
        except UserError as error:
            report.add("unreadable split", error)
            continue
        sizes = []
        for part, ids in parts.items():
            present = [rows[id] for id in ids if id in rows]
            sizes.append(f"{part} {len(present)}" + _of(len(ids), len(present)))
            if not present:
                report.add("empty part of a split", f"{name}: {part}")
            for id in ids:
                if id not in rows and id not in explained:
                    report.add("clip of a split that is not in the set", f"{name}: {id}")
        train, test = ([rows[id] for id in parts[p] if id in rows] for p in ("train", "test"))
        shared, total = shared_groups(train, test)
        overlap = f"; {shared} of {total} groups in test also in train" if total else ""
        report.facts.append(f"Split    {name}: {', '.join(sizes)}{overlap}")


def _of(listed: int, present: int) -> str:
    return f" of {listed}" if listed != present else ""


def _read_files(
    root: Path, files: list[dict], metadata: Metadata, report: Report, *, full: bool, workers: int
) -> int:
    """Sizes of all files; contents of all, or of a seeded sample. Returns how many were read."""
    chosen = range(len(files))
    if not full:
        count = min(len(files), max(100, round(SAMPLE * len(files))))
        chosen = random.Random(0).sample(chosen, count)
    chosen = set(chosen)
    packed = {f["path"] for f in files if f["path"].count("/") == 0}

    def check(number: int) -> Finding | None:
        file = files[number]
        return _check_file(root, file, metadata, whole=number in chosen or file["path"] in packed)

    with ThreadPoolExecutor(workers) as pool:
        results: Iterable = pool.map(check, range(len(files)))
        for found in tqdm(results, "verify", len(files), unit="file", leave=False, disable=None):
            if found:
                report.add(*found)
    return len(chosen)


def _check_file(root: Path, file: dict, metadata: Metadata, *, whole: bool) -> Finding | None:
    path, name = root / file["path"], file["path"]
    if not is_inside(name):
        return None  # reported with the paths, and nothing is read there
    if is_linked(root, name):
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
    try:
        digest = paths.sha256(path)
    except OSError as error:
        return "unreadable file", f"{name} ({error.strerror})"
    if digest != file["sha256"]:
        return "damaged: another sha256 than when it was prepared", name
    return _check_content(path, name, metadata)


def _check_content(path: Path, name: str, metadata: Metadata) -> Finding | None:
    spec = metadata.modalities.get(name.split("/")[0])
    if not name.endswith(".npy"):
        is_picture = pictures.read(path) is not None
        return None if is_picture else ("picture that does not decode", name)
    try:
        # mapped: no memory is taken for what a header claims
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception:  # numpy parses the header as Python and fails in many ways
        return "array that does not load", name
    if not isinstance(values, np.ndarray):
        return "array that does not load", name
    if spec and spec.shape and list(values.shape) != spec.shape:
        return "array of another shape than declared", f"{name} {values.shape}"
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        return "array with NaN or infinite numbers", name
    if spec and spec.vocabulary and not _are_tokens(values, spec.vocabulary):
        return "tokens that are no integers of the vocabulary", name
    return None


def _are_tokens(values: np.ndarray, vocabulary: int) -> bool:
    return values.dtype.kind in "iu" and values.min() >= 0 and values.max() < vocabulary
