"""Which splits a set gets, which of them is the default, and why there is no split "group"."""

from collections import Counter
from dataclasses import replace

import pytest
from sets import write_arrays

from mmpareto.benchmarks import synthetic
from mmpareto.data import layout
from mmpareto.data.clips import Clip
from mmpareto.data.lists import read_split
from mmpareto.preparation.splits import make_splits, write_splits
from mmpareto.system.errors import UserError
from mmpareto.system.writing import write_json


def clips_of(groups, labels="ab"):
    """Clips of these groups, with labels in turn."""
    return [Clip(f"clip-{i}", labels[i % len(labels)], group, {}) for i, group in enumerate(groups)]


def by_part(clips, parts):
    """{part: its groups}, {part: number of clips of each class}."""
    groups, classes = {}, {}
    for clip in clips:
        groups.setdefault(parts[clip.id], set()).add(clip.group)
        classes.setdefault(parts[clip.id], Counter())[clip.label] += 1
    return groups, classes


GROUPS = {
    "three": clips_of("xxyyzz"),
    "eight unequal ones": clips_of("a" * 40 + "bbbbccccddddeeeeffffgggghhhh"),
    **{f"{g} has half of the clips": clips_of(g * 60 + "abcdefghijklmno" * 4) for g in "aeno"},
    "classes below ten clips": clips_of("abcdefghijkl" * 3, "pqrst"),
    "rare classes in every group": [
        *clips_of("abcd" * 50),
        *(Clip(f"rare-{i}", f"rare-{i}", "abcd"[i], {}) for i in range(4)),
    ],
    "a class in one group": [*clips_of("aabbccdd"), Clip("odd", "odd", "c", {})],
    "actors": [Clip(id, id.split("_")[2], id[:4], {}) for id in synthetic.cremad_ids(72)],
}


@pytest.mark.parametrize("clips", GROUPS.values(), ids=GROUPS)
def test_groups_stay_whole(tmp_path, clips):
    """Training has every class that is not rare, and the most clips; no part is empty."""
    splits = make_splits(tmp_path, clips, {})
    assert splits.names == ["group", "random"] and not splits.no_group
    groups, classes = by_part(clips, splits.made["group"])
    assert set(groups) == {"train", "val", "test"}
    assert sum(map(len, groups.values())) == len(set.union(*groups.values()))
    assert classes["train"].keys() >= {clip.label for clip in clips if clip.label[:4] != "rare"}
    assert classes["train"].total() >= max(classes["val"].total(), classes["test"].total())


def test_the_nearest_to_the_shares(tmp_path):
    """Groups of 1 to 4 tenths: only one division has 7, 1 and 2 of them."""
    clips = clips_of("a" * 8 + "b" * 4 + "c" * 2 + "d" * 6)
    groups, _ = by_part(clips, make_splits(tmp_path, clips, {}).made["group"])
    assert groups == {"train": {"a", "d"}, "val": {"c"}, "test": {"b"}}


@pytest.mark.parametrize(
    ("clips", "why"),
    [
        (clips_of([""] * 12), "no clip has a group"),
        (clips_of("xyxyxy"), "2 groups found, 3 or more needed"),
        (clips_of(["x", "y", "z", "", "x", "y"]), "1 of 6 clips have no group, first clip-3"),
        (clips_of("xyz" * 4, "abc"), "whole groups leave training without a class"),
    ],
)
def test_why_there_is_none(tmp_path, clips, why):
    """The set keeps the reason, and --split group tells it."""
    splits = make_splits(tmp_path, clips, {})
    assert splits.names == ["random"] and why in splits.no_group
    root = write_arrays(tmp_path / "set")
    metadata = replace(layout.read_metadata(root), no_group_split=splits.no_group)
    write_json(root / "metadata.json", metadata.as_json())
    with pytest.raises(UserError, match=rf"--split group: it cannot be made \({why}.*: choose one"):
        read_split(root, layout.read_metadata(root), "group")


def test_the_order_stays(tmp_path):
    """Only lists go before the default of before; a split group by hand is not written over."""
    clips, few = clips_of("xyz" * 4), clips_of("xy" * 6)
    before = layout.read_metadata(write_arrays(tmp_path / "set"))
    root = tmp_path / "set"

    def names(clips, *known, lists=(), **fields):
        return make_splits(root, clips, dict(lists), replace(before, splits=[*known], **fields))

    (root / "splits/mine.csv").touch()
    assert names(clips, "random").names == ["random", "group", "given", "mine"]
    assert names(clips, "mine", "random").names == ["mine", "random", "group", "given"]
    lists = {"ogmge": {clip.id: ("train", clip.label) for clip in clips}}
    expected = ["ogmge", "ogmge-noval", "random", "group", "given", "mine"]
    assert names(clips, "random", lists=lists).names == expected
    (root / "splits/group.csv").touch()
    for known in (["random"], ["random", "group"]):
        splits = names(clips, *known, no_group_split="2 groups found")
        assert "group" in splits.names and "added by hand" in splits.no_group
        assert not {"group"} & (splits.made.keys() | splits.stale)
    splits = names(few, "random", "group")
    write_splits(root, splits)
    assert "group" not in splits.names and not (root / "splits/group.csv").exists()
