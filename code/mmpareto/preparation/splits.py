"""Splits of a prepared set: published lists, and splits made by a seeded rule."""

from collections import Counter
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

from sklearn.model_selection import StratifiedGroupKFold, train_test_split

from ..data.clips import Clip
from ..data.layout import SPLIT, split_path
from ..data.lists import List
from ..system.tables import write_table
from .journal import Tried

SEED = 0
VALIDATION = 0.1  # of a list's training part, where it has no validation part


MADE = ("group", "random")


def write_splits(
    root: Path,
    clips: Sequence[Clip | Tried],
    lists: dict[str, List],
    before: Sequence[str] = (),
) -> list[str]:
    """Write every split of the clips; returns their names, the default one first.

    A list without a validation part gives two: with one drawn from its training clips, and
    NAME-noval as it was published. "group" keeps every group whole, "random" does not.

    before: the names that the set had until now. A split that somebody has added since, or that
    stood behind those made here, stays behind them: the default does not change by it.
    """
    (root / "splits").mkdir(exist_ok=True)
    made = {}
    for name, listed in lists.items():
        made[name] = parts = {id: part for id, (part, _) in listed.items()}
        train = {id: label for id, (part, label) in listed.items() if part == "train"}
        if "val" not in parts.values() and (drawn := _draw(train, VALIDATION)):
            made[name] = parts | dict.fromkeys(drawn, "val")
            made[f"{name}-noval"] = parts
    kept = {path.stem for path in (root / "splits").glob("*.csv")} - {*MADE, *made}
    listed_before = kept & set(takewhile(lambda name: name not in MADE, before))
    names = [*made, *sorted(listed_before)]
    labels = {clip.id: clip.label for clip in clips}
    groups = {clip.id: clip.group for clip in clips}
    if all(groups.values()) and (parts := _by_group(labels, groups)):
        made["group"] = parts
    test = _draw(labels, 0.2)
    rest = {id: label for id, label in labels.items() if id not in test}
    if test and (val := _draw(rest, 0.125)):
        parts = dict.fromkeys(rest, "train") | dict.fromkeys(val, "val")
        made["random"] = parts | dict.fromkeys(test, "test")
    for name, parts in made.items():
        rows = [{"id": id, "split": part} for id, part in sorted(parts.items())]
        write_table(split_path(root, name), SPLIT, rows)
    return [*names, *(name for name in MADE if name in made), *sorted(kept - listed_before)]


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
