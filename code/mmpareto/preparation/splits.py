"""Splits of a prepared set: published lists, and splits made by a seeded rule."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from sklearn.model_selection import StratifiedGroupKFold, train_test_split

from ..errors import UserError
from ..layout import PARTS, SPLIT, read_csv, split_path, write_table

SEED = 0
VALIDATION = 0.1  # of a list's training part, where it has no validation part

List = dict[str, tuple[str, str]]  # id: (part, label)


def read_lists(
    paths: list[Path],
    parse: Callable[[list[str]], tuple[str, str] | None],
    headers: Iterable[tuple[str, ...]],
    pinned: dict[str, str],
) -> tuple[str, List, list[str]]:
    """A split from one file for each part: its name, its clips, and notes for the user.

    parse: a row to (id, label), None for a row of no interest, ValueError with what was expected.
    headers: first rows to pass over. pinned: {sha256 of a file's rows: name of the split}; a split
    whose files are all pinned under one name has that name, any other is "custom".
    """
    files = {}
    for path in _files(paths):
        part = _part(path)
        if part in files:
            raise UserError(f"--lists: {files[part]} and {path} are both {part}: name the files")
        files[part] = path
    if not {"train", "test"} <= files.keys():
        raise UserError(
            f"--lists {' '.join(map(str, paths))}: a train and a test file are needed, found "
            f"{', '.join(f'{p.name} ({part})' for part, p in files.items()) or 'none'}"
        )
    clips, seen, names = {}, {}, set()
    for part in (p for p in PARTS if p in files):
        path = files[part]
        rows = [(line, [v.strip() for v in row]) for line, row in read_csv(path)]
        if rows and tuple(v.lower() for v in rows[0][1]) in set(headers):
            del rows[0]
        text = "".join(",".join(row) + "\n" for _, row in rows)
        names.add(pinned.get(hashlib.sha256(text.encode()).hexdigest(), "custom"))
        for line, row in rows:
            where = f"{path}, line {line}"
            try:
                parsed = parse(row)
            except ValueError as error:
                hint = ", separated by commas" if len(row) == 1 else ""
                raise UserError(f"{where}: {','.join(row)!r} found, {error}{hint}") from None
            if parsed is None:
                continue
            id, label = parsed
            if id in seen:
                raise UserError(f"{where}: {id} is listed already in {seen[id]}: keep one")
            seen[id], clips[id] = where, (part, label)
    name = names.pop() if len(names) == 1 else "custom"
    notes = [f"lists: {name}, " + _counts(part for part, _ in clips.values())]
    if name == "custom":
        notes.append("WARNING: these lists are none of the published ones: split custom")
    return name, clips, notes


def _files(paths: list[Path]) -> list[Path]:
    if len(paths) == 1 and paths[0].is_dir():
        paths = sorted(p for p in paths[0].iterdir() if p.suffix in (".csv", ".txt") and _part(p))
    for path in paths:
        if not path.is_file():
            raise UserError(f"--lists {path}: no such file")
        if not _part(path):
            raise UserError(f"--lists {path}: its name has to say train, val or test")
    return paths


def _part(path: Path) -> str:
    words = {"train": "train", "test": "test", "validate": "val", "val": "val"}
    return next((part for word, part in words.items() if word in path.stem.lower()), "")


def write_splits(
    root: Path, clips: list[tuple[str, str, str]], lists: dict[str, List]
) -> list[str]:
    """Write every split of clips (id, label, group); returns their names, the default one first.

    A list without a validation part gives two: with one drawn from its training clips, and
    NAME-noval as it was published. "group" keeps every group whole, "random" does not.
    """
    (root / "splits").mkdir(exist_ok=True)
    made = {}
    for name, listed in lists.items():
        parts = {id: part for id, (part, _) in listed.items()}
        made[name] = parts
        if "val" not in parts.values():
            train = {id: label for id, (part, label) in listed.items() if part == "train"}
            if drawn := _draw(train, VALIDATION):
                made[name] = parts | dict.fromkeys(drawn, "val")
                made[f"{name}-noval"] = parts
    kept = {path.stem for path in (root / "splits").glob("*.csv")} - {"group", "random"}
    names = [*made, *sorted(kept - made.keys())]
    labels = {id: label for id, label, _ in clips}
    groups = {id: group for id, _, group in clips}
    if all(groups.values()) and (parts := _by_group(labels, groups)):
        made["group"] = parts
    if (test := _draw(labels, 0.2)) and (
        val := _draw({id: label for id, label in labels.items() if id not in test}, 0.125)
    ):
        made["random"] = (
            dict.fromkeys(labels, "train") | dict.fromkeys(val, "val") | dict.fromkeys(test, "test")
        )
    for name, parts in made.items():
        rows = [{"id": id, "split": part} for id, part in sorted(parts.items())]
        write_table(split_path(root, name), SPLIT, rows)
    return names + [name for name in ("group", "random") if name in made]


def _draw(labels: dict[str, str], share: float) -> set[str]:
    """A stratified share of ids, at least one of each class that has two or more."""
    counts = Counter(labels.values())
    ids = sorted(id for id, label in labels.items() if counts[label] > 1)
    if not ids:
        return set()
    classes = [labels[id] for id in ids]
    size = max(round(share * len(ids)), len(set(classes)))
    _, drawn = train_test_split(ids, test_size=size, stratify=classes, random_state=SEED)
    return set(drawn)


def _by_group(labels: dict[str, str], groups: dict[str, str]) -> dict[str, str]:
    """Tenths of the clips with whole groups: seven train, one val, two test."""
    ids = sorted(labels)
    if len(set(groups.values())) < 10:
        return {}
    folds = StratifiedGroupKFold(n_splits=10, shuffle=True, random_state=SEED)
    parts = dict.fromkeys(ids, "train")
    try:
        tenths = list(folds.split(ids, [labels[id] for id in ids], [groups[id] for id in ids]))
    except ValueError:  # a class with fewer than ten clips
        return {}
    for part, (_, chosen) in zip(("test", "test", "val"), tenths, strict=False):
        parts |= {ids[i]: part for i in chosen}
    return parts


def _counts(parts: Iterable[str]) -> str:
    counts = Counter(parts)
    return ", ".join(f"{part} {counts[part]}" for part in PARTS if part in counts)
