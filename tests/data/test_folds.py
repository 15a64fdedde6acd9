"""Folds of a prepared set: what is where, and that nothing is twice."""

from collections import Counter

import pytest
from sets import write_arrays

from mmpareto.data import folds, layout
from mmpareto.datasets.folder import Folder
from mmpareto.run import options
from mmpareto.system.errors import UserError


def manifest(labels, groups=None):
    """Rows as read_manifest gives them."""
    groups = groups or [""] * len(labels)
    pairs = enumerate(zip(labels, groups, strict=True))
    return {f"clip-{i:03}": {"label": label, "group": group} for i, (label, group) in pairs}


def all_folds(rows, count):
    return [folds.read_fold(rows, folds.fold_name(n + 1, count), ()) for n in range(count)]


@pytest.mark.parametrize("count", [2, 5])
@pytest.mark.parametrize("groups", [None, [f"person-{i % 12}" for i in range(120)]])
def test_every_clip_is_tested_once(count, groups):
    """Parts do not overlap, classes are spread over them, and groups stay whole."""
    rows = manifest(["cat"] * 60 + ["dog"] * 40 + ["owl"] * 20, groups)
    found = all_folds(rows, count)
    tested = [id for fold in found for id in fold["test"]]
    assert sorted(tested) == sorted(rows)
    for fold in found:
        assert sorted(id for part in fold.values() for id in part) == sorted(rows)
        rest = len(fold["train"]) + len(fold["val"])
        assert len(fold["val"]) == pytest.approx(rest / 10, abs=6 if groups else 2)
        for part in fold.values():
            counts = Counter(rows[id]["label"] for id in part)
            for label, total in Counter(row["label"] for row in rows.values()).items():
                expected = total * len(part) / len(rows)
                assert abs(counts[label] - expected) <= (5 if groups else 2)
        if groups:
            whose = [{rows[id]["group"] for id in part} for part in fold.values()]
            assert sum(map(len, whose)) == 12
    mixed = dict(sorted(rows.items(), key=lambda pair: hash(pair[0])))
    assert all_folds(mixed, count) == found


@pytest.mark.parametrize(
    ("split", "labels", "groups", "own", "message"),
    [
        ("fold3of2", "ab" * 10, None, (), "fold3of2: no fold: give fold1of5 to fold5of5"),
        ("fold0of5", "ab" * 10, None, (), "no fold"),
        ("fold1of1", "ab" * 10, None, (), "no fold"),
        ("fold2of3", "ab" * 10, None, ["random", "fold1of3"],
         "the set has fold1of3 of its own only"),
        ("fold1of5", "abcdefgh", None, (),
         "8 clips cannot be divided into 5 parts that share a class: give fewer folds"),
        ("fold1of5", "ab" * 10, ["x", "y"] * 10, (),
         "20 clips, 2 groups cannot be divided into 5 parts"),
        ("fold1of2", "ab" * 10, ["x", "y"] * 10, (),
         "1 groups cannot be divided into 2 parts that share a class: add clips"),
        ("fold1of5", "ab" * 10, ["x", ""] * 10, (),
         "10 of 20 clips have no group, first clip-001: give every clip a group"),
    ],
)  # fmt: skip
def test_what_cannot_be_divided(split, labels, groups, own, message):
    with pytest.raises(UserError, match=message) as error:
        folds.read_fold(manifest(labels, groups), split, own)
    assert "\n" not in str(error.value)


def test_other_names_and_own_files():
    """A set may bring all folds along, as published ones."""
    rows = manifest("ab" * 10)
    for name in ("", "random", "fold", "fold1of", "fold1of5-noval", "refold1of5", "fold1of99999"):
        assert folds.read_fold(rows, name, ()) is None
    assert folds.read_fold(rows, "fold1of2", ["fold1of2", "fold2of2"]) is None


def test_train_on_a_fold(tmp_path):
    """Its name is in the log, and the identity of its data is its own."""
    root = write_arrays(tmp_path / "set", (0, 1) * 20)
    loaded = [
        Folder.load(options.parse(["--dataset", str(root), "--split", f"fold{n}of4"]))
        for n in (1, 2)
    ]
    for data, n in zip(loaded, (1, 2), strict=True):
        assert data.notes[0] == f"Split    fold{n}of4 of all 40 clips"
        assert [len(data.splits[part]) for part in layout.PARTS] == [27, 3, 10]
    one, two = ({*data.splits["test"].ids} for data in loaded)
    assert not one & two


def test_a_class_that_training_lacks_is_noted(tmp_path):
    labels, classes = (*(0, 1) * 10, 2), ("one", "two", "three")
    root, noted = write_arrays(tmp_path / "set", labels, classes=classes), []
    for n in range(3):
        words = ["--dataset", str(root), "--split", f"fold{n + 1}of3"]
        data = Folder.load(options.parse(words))
        lacks = data.splits["train"].targets.bincount(minlength=3)[2] == 0
        noted.append("Classes  no training clip of three" in data.notes)
        assert noted[-1] == lacks
    assert {*noted} == {True, False}
