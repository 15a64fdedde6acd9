"""Splits of a prepared set: published lists, and splits made by a seeded rule."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from sklearn.model_selection import GroupKFold, train_test_split

from ..data.clips import Clip
from ..data.folds import divided
from ..data.layout import PARTS, SPLIT, Metadata, split_path
from ..data.lists import List
from ..system.errors import UserError
from ..system.tables import write_table
from .journal import Tried

SEED = 0
VALIDATION = 0.1  # of a list's training part, if it has no validation part
MADE = ("group", "random")
SHARES = (0.7, 0.1, 0.2)  # of PARTS in the splits made here
LOST = 0.03  # largest share of all clips whose class training may lack
TENTHS = (2, 2, 1, 0, 0, 0, 0, 0, 0, 0)  # the part, by its place in PARTS, of each tenth


class Splits(NamedTuple):
    """The splits that a set is to have."""

    names: list[str]  # the default one first
    made: dict[str, dict[str, str]]  # {name: {id: part}} of those that are written
    stale: set[str]  # names of those that an earlier call made, and this one cannot
    no_group: str  # why "group" is not among them; "" if it is


def make_splits(
    root: Path,
    clips: Sequence[Clip | Tried],
    lists: dict[str, List],
    before: Metadata | None = None,
    held_out: Mapping[str, set[str]] = MappingProxyType({}),
) -> Splits:
    """Divide the clips; nothing is written. UserError if the default split cannot be made anew.

    A list without a validation part gives two splits: one with clips drawn from training, or those
    of held_out, and NAME-noval as it was published. "group" keeps every group whole, "random" does
    not.

    before: the set until now. Its splits keep their order, so the default stays what it was;
    only lists that it did not have go first. Splits that the user has added are kept.
    """
    made = listed_splits(lists, held_out)
    known = before.splits if before else []
    new = [name for name in made if name not in known]
    found = {path.stem for path in (root / "splits").glob("*.csv")}
    is_own = before and "group" in found and ("group" not in known or before.no_group_split)
    labels, no_group = {clip.id: clip.label for clip in clips}, ""
    try:
        if is_own:
            raise ValueError("splits/group.csv was added by hand")
        made["group"] = _by_group(labels, {clip.id: clip.group for clip in clips})
    except ValueError as error:
        no_group = str(error)
    test = _draw(labels, 0.2)
    rest = {id: label for id, label in labels.items() if id not in test}
    if test and (val := _draw(rest, 0.125)):
        parts = dict.fromkeys(rest, "train") | dict.fromkeys(val, "val")
        made["random"] = parts | dict.fromkeys(test, "test")
    stale = set() if is_own else found & {*known} & ({*MADE} - made.keys())
    if known and known[0] in stale:
        why = no_group if known[0] == "group" else "each class has too few clips"
        raise UserError(
            f"{root}: the set's default split {known[0]} cannot be made any more ({why}): mend "
            f"that, or delete {split_path(root, known[0])} to go on with another default"
        )
    kept = [name for name in known if name in made or name in found - stale]
    names = dict.fromkeys([*new, *kept, *made, *sorted(found - stale)])
    return Splits(list(names), made, stale, no_group)


def listed_splits(
    lists: dict[str, List], held_out: Mapping[str, set[str]]
) -> dict[str, dict[str, str]]:
    """Return {name: {id: part}} of the splits that follow from lists alone."""
    made = {}
    for name, listed in lists.items():
        made[name] = parts = {id: part for id, (part, _) in listed.items()}
        train = {id: label for id, (part, label) in listed.items() if part == "train"}
        if "val" not in parts.values() and (
            drawn := held_out.get(name) or _draw(train, VALIDATION)
        ):
            made[name] = parts | dict.fromkeys(drawn, "val")
            made[f"{name}-noval"] = parts
    return made


def write_splits(root: Path, splits: Splits) -> None:
    (root / "splits").mkdir(exist_ok=True)
    for name in splits.stale:
        split_path(root, name).unlink()
    for name, parts in splits.made.items():
        rows = [{"id": id, "split": part} for id, part in sorted(parts.items())]
        write_table(split_path(root, name), SPLIT, rows)


def _draw(labels: dict[str, str], share: float) -> set[str]:
    """Draw a stratified share of ids, at least one of each class that has two or more."""
    counts = Counter(labels.values())
    ids = sorted(id for id, label in labels.items() if counts[label] > 1)
    if not ids:
        return set()
    classes = [labels[id] for id in ids]
    size = max(round(share * len(ids)), len(set(classes)))
    _, drawn = train_test_split(ids, test_size=size, stratify=classes, random_state=SEED)
    return set(drawn)


def _by_group(labels: dict[str, str], groups: dict[str, str]) -> dict[str, str]:
    """Return {id: part} with whole groups in each part; ValueError says why there is none.

    From ten groups on they are put together to tenths: seven train, one val, two test. With fewer
    groups, or if the tenths serve badly, it is the division nearest to SHARES.
    """
    ids, count = sorted(labels), len(set(groups.values()))
    lacking = [id for id in ids if not groups[id]]
    if len(lacking) == len(ids):
        raise ValueError("no clip has a group")
    if lacking:
        raise ValueError(f"{len(lacking)} of {len(ids)} clips have no group, first {lacking[0]}")
    if count < 3:
        raise ValueError(f"{count} groups found, 3 or more needed")
    classes = np.unique([labels[id] for id in ids], return_inverse=True)[1]
    bins = np.unique([groups[id] for id in ids], return_inverse=True)[1]
    if count >= len(TENTHS):
        bins = _tenths(classes, bins)
    table = np.zeros((min(count, len(TENTHS)), classes.max() + 1))
    np.add.at(table, (bins, classes), 1)
    every_way = np.indices((len(PARTS),) * len(table)).reshape(len(table), -1).T
    way = _best(np.array([TENTHS]), table) if count >= len(TENTHS) else None
    way = _best(every_way, table) if way is None else way
    if way is None:
        raise ValueError("whole groups leave training without a class, or val or test empty")
    return {id: PARTS[part] for id, part in zip(ids, way[bins], strict=True)}


def _tenths(classes: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return the tenth of each clip, from 0 to 9: whole groups, and classes as far as they can."""
    try:
        return divided(classes, groups, len(TENTHS))
    except ValueError:  # all classes have fewer clips than ten
        tenths = np.zeros_like(groups)
        folds = GroupKFold(len(TENTHS)).split(classes, classes, groups)
        for number, (_, chosen) in enumerate(folds):
            tenths[chosen] = number
        return tenths


def _best(ways: np.ndarray, table: np.ndarray) -> np.ndarray | None:
    """Return the row of ways (the part of each bin) that divides every class nearest to SHARES.

    table (bins, classes): how many clips of a class a bin has. None if no way serves: each leaves
    val or test empty or the largest part, or training without classes of more than LOST.
    """
    sizes, counts = table.sum(0), [(ways == part) @ table for part in range(len(PARTS))]
    train, val, test = (count.sum(1) for count in counts)
    pairs = zip(counts, SHARES, strict=True)
    far = sum(((count / sizes - share) ** 2).sum(1) for count, share in pairs)
    usable = (val > 0) & (test > 0) & (train >= np.maximum(val, test))
    usable &= (counts[0] == 0) @ sizes <= LOST * sizes.sum()
    # rounded, so that every machine chooses the same of equal ones
    return ways[np.where(usable, far.round(9), np.inf).argmin()] if usable.any() else None
