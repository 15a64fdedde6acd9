"""UCF-101: published frames and lists, and flow as pictures."""

import shutil
from argparse import Namespace
from random import Random

import cv2
import field
import numpy as np
import pytest
from damage import told

from mmpareto.data.clips import Bad, Source, state_of
from mmpareto.data.reading import Flow
from mmpareto.data.recipes import FRAMES
from mmpareto.datasets.ucf101 import UCF101
from mmpareto.preparation.media import convert
from mmpareto.preparation.splits import make_splits


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return field.write_ucf(tmp_path_factory.mktemp("ucf") / "raw", frames=1)


@pytest.fixture
def raw(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "raw")


def collect(raw, *lists):
    return UCF101.collect(Namespace(raw=raw, lists=list(lists)))


def test_classes_groups_and_splits(whole, tmp_path):
    """The folder's HandStandPushups is the lists' HandstandPushups; groups are never divided."""
    found = collect(whole)
    assert found.classes == list(field.ACTIONS) and len(found.clips) == 3 * len(field.GROUPS)
    clip = next(clip for clip in found.clips if clip.label == "HandstandPushups")
    assert clip.id == "v_HandStandPushups_g01_c01" and clip.group == "HandstandPushups_g01"
    splits = make_splits(tmp_path, found.clips, found.lists, None, found.held_out)
    assert splits.names[0] == "split1" and {"split3-noval", "group"} <= {*splits.names}
    for number in (1, 2, 3):
        parts = splits.made[f"split{number}"]
        groups = {part: set() for part in ("train", "val", "test")}
        for id, part in parts.items():
            groups[part].add(int(id[-6:-4]))
        assert groups["test"] == {g for g in field.GROUPS if 7 * number - 6 <= g <= 7 * number}
        assert groups["val"] == {25} and groups["train"] == {*field.GROUPS} - groups["test"] - {25}
        assert {*parts} == {clip.id for clip in found.clips}
        assert "val" not in splits.made[f"split{number}-noval"].values()


def test_validation_is_two_of_eighteen_groups(tmp_path):
    raw = field.write_ucf(tmp_path / "raw", ("YoYo", "Archery"), range(1, 26), frames=1)
    assert {id[-6:-4] for ids in collect(raw).held_out.values() for id in ids} == {"24", "25"}


def test_spelling_of_lists(raw):
    """Lists that spell a clip as its class find it, too."""
    for path in (raw / "ucfTrainTestlist").glob("t*.txt"):
        path.write_text(path.read_text().replace("HandStand", "Handstand"))
    found = collect(raw)
    ids = {clip.id for clip in found.clips}
    assert all(listed.keys() == ids for listed in found.lists.values())


def test_missing_folders(raw):
    shutil.rmtree(raw / "jpegs_256/v_YoYo_g03_c01")
    shutil.rmtree(raw / "tvl1_flow/v/v_YoYo_g05_c01")
    (raw / "jpegs_256/v_Other_g03_c01").mkdir()
    found = collect(raw)
    assert [(id, p.modality, p.reason) for id, p in found.left_out.items()] == [
        ("v_YoYo_g03_c01", "rgb", "missing"),
        ("v_YoYo_g05_c01", "flow", "missing"),
    ]
    assert "1 of no class in classInd.txt" in found.notes[0]
    shutil.move(raw / "ucfTrainTestlist", raw.parent / "lists")
    without = collect(raw)
    assert not without.lists and "WARNING: no --lists" in without.notes[-1]
    assert collect(raw, raw.parent / "lists").lists == found.lists


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: shutil.rmtree(raw / "jpegs_256"), "no folder jpegs_256 in it; data/ucf101"),
        (
            lambda raw: shutil.rmtree(raw / "tvl1_flow") or (raw / "a.zip.001").touch(),
            "no folder tvl1_flow/u in it: join and unpack a.zip.001 and its other parts first",
        ),
        (lambda raw: shutil.rmtree(raw), "no such folder"),
        (lambda raw: (raw / "ucfTrainTestlist/classInd.txt").unlink(), "no classInd.txt in it"),
        (lambda raw: (raw / "ucfTrainTestlist/testlist02.txt").unlink(), "no testlist02.txt in it"),
        (
            lambda raw: (raw / "ucfTrainTestlist/testlist01.txt").write_text("\nRun/v_Run_g01.avi"),
            "testlist01.txt, line 2: 'Run/v_Run_g01.avi' found",
        ),
        (
            lambda raw: shutil.copy(
                raw / "ucfTrainTestlist/trainlist01.txt", raw / "ucfTrainTestlist/testlist01.txt"
            ),
            "line 1: v_ApplyLipstick_g09_c01 is listed already",
        ),
    ],
)
def test_bad_raw_folders(raw, damage, message):
    damage(raw)
    assert message in told(collect, raw)


def film(root, count, levels=lambda k: 3 * k):
    """Folders of `count` frames, each full of its own level, and of half of it in v."""
    for name in ("rgb", "u", "v"):
        (root / name / "a").mkdir(parents=True)
        for k in range(count):
            level = levels(k) // (2 if name == "v" else 1)
            picture = np.full((24, 32), level, np.uint8)
            cv2.imwrite(str(root / name / f"a/frame{k + 1:06}.jpg"), picture)
    return Source("frames", root / "rgb/a", rate=25), Source("flow_stills", root / "u/a", rate=25)


def levels_of(item):
    pictures = (np.frombuffer(jpeg, np.uint8) for jpeg in item.files.values())
    return [cv2.imdecode(picture, cv2.IMREAD_GRAYSCALE) for picture in pictures]


def test_stills_of_a_film(tmp_path):
    """The frames shown in the middle of each second, and u above v of the same moments."""
    rgb, flow = film(tmp_path, 70)
    recipe = {"frames": FRAMES["1fps"]}
    pictures, fields = convert(rgb, recipe), convert(flow, recipe)
    assert [round(float(p.mean())) for p in levels_of(pictures)] == [3 * 12, 3 * 37, 3 * 62]
    assert [p.shape for p in levels_of(fields)] == [(48, 32)] * 3
    halves = [(round(float(p[:20].mean())), round(float(p[28:].mean()))) for p in levels_of(fields)]
    assert halves == [(36, 18), (111, 55), (186, 93)]
    assert pictures.seconds == fields.seconds == 70 / 25
    assert len(convert(rgb, {"frames": FRAMES["3fps"]}).files) == 8
    assert len(convert(rgb, {"frames": FRAMES["ogmge-1fps"]}).files) == 3
    assert len(convert(rgb._replace(rate=None), recipe).files) == 70


def test_flow_without_a_part(tmp_path):
    _, flow = film(tmp_path, 30)
    before = state_of(flow)
    (tmp_path / "v/a/frame000003.jpg").unlink()
    assert state_of(flow) != before
    with pytest.raises(Bad, match="30 pictures of flow in u, 29 in v"):
        convert(flow, {"frames": FRAMES["1fps"]})
    (tmp_path / "u/a/frame000003.jpg").unlink()
    cv2.imwrite(str(tmp_path / "v/a/frame000014.jpg"), np.zeros((24, 30), np.uint8))
    with pytest.raises(Bad, match=r"frame000014.jpg: \(24, 32\) in u, \(24, 30\) in v"):
        convert(flow, {"frames": FRAMES["1fps"]})
    shutil.rmtree(tmp_path / "v/a")
    with pytest.raises(Bad, match="No such file"):
        convert(flow, {"frames": FRAMES["1fps"]})


def test_flow_as_read(tmp_path):
    """From -1 to 1; a picture that is mirrored moves to the other side."""
    column = np.arange(32, dtype=np.uint8) * 8
    picture = np.concatenate([np.full((24, 32), 230), np.tile(column, (24, 1))]).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "000000.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, 100])
    reader = Flow("flow", 2, 16, "still")
    seen = set()
    for random in (None, *map(Random, range(6))):
        out = np.empty(reader.shape, np.float32)
        reader.read(str(tmp_path), {"flow.stills": "1"}, random, out)
        rises = float(out[0, 1, 8, -1] - out[0, 1, 8, 0])
        side = float(out[0, 0].mean())
        assert side == pytest.approx(np.sign(rises) * (230 / 127.5 - 1), abs=0.02)
        assert out[:, 1].min() >= -1 and out[:, 1].max() <= 1
        seen.add(side > 0)
        assert random or side > 0
    assert seen == {True, False}
