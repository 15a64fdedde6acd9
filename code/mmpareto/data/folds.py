"""Folds: all clips of a prepared set, divided for cross-validation by a seeded rule.

Fold k of K takes part k of K equal parts as its test part, whatever the splits of the set say.
Its validation part is a tenth of the rest, and training has what is left.
"""

import re
import warnings
from collections import Counter
from collections.abc import Sequence

import numpy as np

from ..system.errors import UserError

SEED = 0
TENTHS = 10  # parts that the rest is divided into; one of them is validation
NAME = re.compile("fold([0-9]{1,4})of([0-9]{1,4})")


def fold_name(number: int, count: int) -> str:
    """Return the name of fold number, from 1, of count: the --split that trains on it."""
    return f"fold{number}of{count}"


def divided(labels: Sequence, groups: Sequence | None, count: int) -> np.ndarray:
    """Return the part of each clip, from 0 to count - 1; every class is spread over the parts.

    A group stays in one part; None: every clip is a group of its own. ValueError if every class
    has fewer than count clips.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    kind, part = StratifiedKFold if groups is None else StratifiedGroupKFold, np.zeros(len(labels))
    with warnings.catch_warnings(action="ignore"):  # about a class with fewer than count clips
        kept = kind(count, shuffle=True, random_state=SEED)
        for number, (_, chosen) in enumerate(kept.split(labels, labels, groups)):
            part[chosen] = number
    return part.astype(int)


def read_fold(
    rows: dict[str, dict[str, str]], split: str, own: Sequence[str]
) -> dict[str, list[str]] | None:
    """Return {part: ids} of the split foldKofN; None if that is no fold's name, or one of own.

    rows: the manifest's. own: the names of the set's splits, among which may be all folds.
    """
    if not (match := NAME.fullmatch(split)):
        return None
    number, count = map(int, match.groups())
    given = {fold_name(n + 1, count) for n in range(count)} & {*own}
    if given and len(given) == count:
        return None
    if given or not 0 < number <= count or count < 2:
        found = f"the set has {', '.join(sorted(given))} of its own only" if given else "no fold"
        raise UserError(f"--split {split}: {found}: give fold1of5 to fold5of5, or another number")
    ids = np.array(sorted(rows))
    labels, groups = (np.array([rows[id][name] for id in ids]) for name in ("label", "group"))
    if lacking := [id for id, group in zip(ids, groups, strict=True) if not group]:
        if len(lacking) < len(ids):
            raise UserError(
                f"--split {split}: {len(lacking)} of {len(ids)} clips have no group, first "
                f"{lacking[0]}: give every clip a group, or none"
            )
        groups = None
    test = _part(split, labels, groups, count, count) == number - 1
    rest, whose = ids[~test], None if groups is None else groups[~test]
    units = len(set(rest if whose is None else whose))
    most = min(TENTHS, units, max(Counter(labels[~test].tolist()).values()))
    val = _part(split, labels[~test], whose, max(most, 2), count) == 0
    return {"train": rest[~val].tolist(), "val": rest[val].tolist(), "test": ids[test].tolist()}


def _part(split: str, labels, groups, count: int, folds: int) -> np.ndarray:
    """Return `divided`; UserError if a part is empty."""
    with_groups = "" if groups is None else f", {len(set(groups))} groups"
    try:
        part = divided(labels, groups, count)
    except ValueError:
        part = np.zeros(len(labels), int)
    if len(set(part)) < count:
        raise UserError(
            f"--split {split}: {len(labels)} clips{with_groups} cannot be divided into {count} "
            f"parts that share a class: {'give fewer folds' if folds > 2 else 'add clips'}"
        )
    return part
