"""Lists of clips: published ones, and the splits of a prepared set."""

import hashlib
from collections import Counter
from collections.abc import Callable, Container, Iterable
from pathlib import Path

from ..system.errors import UserError
from ..system.tables import read_csv, read_table
from .layout import PARTS, SPLIT, Metadata, manifest_columns, split_names, split_path

ENDINGS = (".csv", ".txt", ".jsonl")  # of lists in a folder
List = dict[str, tuple[str, str]]  # id: (part, label)


def read_lists(
    paths: list[Path],
    parse: Callable[[list[str]], tuple[str, str] | None],
    headers: Iterable[tuple[str, ...]],
    published: Container[str],
) -> tuple[dict[str, List], list[str]]:
    """Read one file for each part; return {name of the split: its clips} and notes.

    parse turns a row into (id, label), or None if it is not wanted; its ValueError says what was
    expected. headers: first rows to skip. published: sha256 sums of the rows of OGM-GE's files; a
    split of these alone is called "ogmge", any other "custom".
    """
    if not paths:
        return {}, []
    clips, seen, name = {}, {}, "ogmge"
    for part, path in list_files(paths).items():
        rows = [(line, [v.strip() for v in row]) for line, row in read_csv(path)]
        if rows and tuple(v.lower() for v in rows[0][1]) in set(headers):
            del rows[0]
        text = "".join(",".join(row) + "\n" for _, row in rows)
        if hashlib.sha256(text.encode()).hexdigest() not in published:
            name = "custom"
        for line, row in rows:
            where = f"{path}, line {line}"
            try:
                parsed = parse(row)
            except ValueError as error:
                hint = ", separated by commas" if len(row) == 1 else ""
                raise UserError(f"{where}: {','.join(row)!r} found, {error}{hint}") from None
            if parsed:
                id, label = parsed
                if id in seen:
                    raise UserError(f"{where}: {id} is listed already in {seen[id]}: keep one")
                seen[id], clips[id] = where, (part, label)
    counts = Counter(part for part, _ in clips.values())
    notes = [f"lists: {name}, {', '.join(f'{part} {count}' for part, count in counts.items())}"]
    if name == "custom":
        notes.append("WARNING: these lists differ from all published ones: split custom")
    return {name: clips}, notes


def list_files(paths: list[Path]) -> dict[str, Path]:
    """Return {part: file}, in the order of PARTS; the file names say which part it is."""
    if len(paths) == 1 and paths[0].is_dir():
        paths = sorted(p for p in paths[0].iterdir() if p.suffix in ENDINGS and _part(p))
    files = {}
    for path in paths:
        part = _part(path)
        if not path.is_file():
            raise UserError(f"--lists {path}: no such file")
        if not part:
            raise UserError(
                f"--lists {path}: the file name must contain train, val or test: rename it"
            )
        if part in files:
            raise UserError(
                f"--lists: {files[part]} and {path} are both {part}: give one {part} file"
            )
        files[part] = path
    if not {"train", "test"} <= files.keys():
        raise UserError(
            f"--lists {' '.join(map(str, paths))}: a train and a test file are needed, found "
            f"{', '.join(f'{p.name} ({part})' for part, p in files.items()) or 'none'}"
        )
    return {part: files[part] for part in PARTS if part in files}


def _part(path: Path) -> str:
    name = path.stem.lower().replace("dev", "val")
    return next((part for part in ("train", "test", "val") if part in name), "")


def read_split(
    root: Path, metadata: Metadata, wanted: str | None
) -> tuple[str, dict[str, list[str]]]:
    """Return the name of the wanted split (None: the default one) and the ids of its parts."""
    names = split_names(root, metadata)
    if not names:
        raise UserError(f"{root} has too few clips to be split: write splits/NAME.csv (id,split)")
    name = wanted or names[0]
    if name not in names:
        why = metadata.no_group_split if name == "group" else ""
        what = f"it cannot be made ({why})" if why else f"not in {root}"
        raise UserError(f"--split {name}: {what}: choose one of {', '.join(names)}")
    parts, seen, path = {part: [] for part in PARTS}, set(), split_path(root, name)
    for row in read_table(path, SPLIT):
        if row["split"] not in parts or row["id"] in seen:
            what = f"split {row['split']!r}" if row["split"] not in parts else "a second time"
            raise UserError(
                f"{path}: {row['id']} is there with {what}: give each id once, with "
                f"{', '.join(PARTS)}"
            )
        seen.add(row["id"])
        parts[row["split"]].append(row["id"])
    if not parts["val"]:
        del parts["val"]
    return name, parts


def read_manifest(root: Path, metadata: Metadata) -> dict[str, dict[str, str]]:
    """Return the manifest's rows by their id."""
    rows, path = {}, root / "manifest.csv"
    for row in read_table(path, manifest_columns(metadata.modalities)):
        if row["id"] in rows:
            raise UserError(f"{path}: {row['id']} is there twice: prepare the set anew")
        rows[row["id"]] = row
    return rows


def shared_groups(train: list[dict], other: list[dict]) -> tuple[int, int]:
    """Count the groups (such as actors) of other that train has too, and all of other."""
    first, second = ({row["group"] for row in rows} - {""} for rows in (train, other))
    return len(first & second), len(second)
