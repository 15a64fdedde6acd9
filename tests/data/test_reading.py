"""Prepared files are read by the stated rules."""

from random import Random

import cv2
import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torchvision.transforms import RandomResizedCrop

from mmpareto.benchmarks.synthetic import pictures
from mmpareto.data import reading
from mmpareto.data.batches import loader
from mmpareto.data.reading import Array, Frames, Picture, choose_stills, crop
from mmpareto.data.samples import to_device
from mmpareto.datasets.shared import prepared
from mmpareto.datasets.shared.prepared import PreparedSplit


@pytest.fixture(scope="module")
def large():
    """60 frames, 360 high, that carry their numbers."""
    return pictures(1, 6, 60, (480, 360), Random(0))


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_stills_as_in_the_authors_loader(count):
    """It counts them from 1; fewer stills than wanted are repeated in order."""
    random = Random(0)
    for n in range(count, 41):
        seg = n // count
        test = [i * seg + max(seg // 2, 1) for i in range(count)]
        assert [k + 1 for k in choose_stills(n, count, None)] == test
        train = zip(*(choose_stills(n, count, random) for _ in range(12 * seg)), strict=True)
        for i, drawn in enumerate(train):
            assert {k + 1 for k in drawn} <= set(range(i * seg + 1, i * seg + seg + 1))
            assert len(set(drawn)) > 0.9 * seg
    for n in range(1, count):
        few = choose_stills(n, count, random)
        assert len(few) == count and few == sorted(few) and set(few) == set(range(n))


@pytest.mark.parametrize(("height", "width"), [(256, 341), (100, 60), (40, 150)])
def test_crops_as_in_torchvision(height, width):
    """Means and deviations of share, log ratio and place agree to 0.02 (3 standard errors)."""
    random, picture, results = Random(1), torch.empty(3, height, width), []
    arguments = picture, (0.08, 1), (3 / 4, 4 / 3)
    for draw, given in ((crop, (height, width, random)), (RandomResizedCrop.get_params, arguments)):
        top, left, h, w = np.array([draw(*given) for _ in range(4000)]).T
        assert min(top.min(), left.min()) >= 0 and min(h.min(), w.min()) > 0
        assert (top + h <= height).all() and (left + w <= width).all()
        values = h * w / height / width, np.log(w / h), top / height, left / width
        assert 0.07 < values[0].min() < 0.085
        results.append([np.mean(values, 1), np.std(values, 1)])
    assert_allclose(*results, atol=0.02)
    assert crop(10, 400, random) == (0, 193, 10, 13)  # no permitted ratio has 8 % of the area
    assert crop(400, 10, random) == (193, 0, 13, 10)


@pytest.fixture(scope="module")
def split(large, tmp_path_factory):
    """Six clips: a picture, read as two modalities, seven stills of 120 x 90, and an array."""
    root, rows = tmp_path_factory.mktemp("set"), []
    for n in range(6):
        (root / f"{n}").mkdir()
        for still in range(7):
            cv2.imwrite(str(root / f"{n}/{still:06d}.jpg"), large[9 * n + still][::4, ::4])
        cv2.imwrite(str(root / f"{n}.jpg"), large[10 * n])
        np.save(root / f"{n}.npy", np.arange(2) + n)
        row = {"frames": f"{n}", "frames.stills": "7", "image": f"{n}.jpg", "view": f"{n}.jpg"}
        row["pose"] = f"{n}.npy"
        rows.append({"id": f"clip{n}", "label": "ab"[n % 2], **row})
    readers = {"frames": Frames("frames", 2, 64, "still")}
    readers |= {name: Picture(64, "still") for name in ("image", "view")}
    readers["pose"] = Array((2,))
    return PreparedSplit(root, rows, readers, {"a": 0, "b": 1})


def same(one, other, i=..., j=...):
    return [torch.equal(one[name][i], other[name][j]) for name in ("frames", "image", "view")]


class TestReading:
    def test_evaluation(self, split):
        """Stills 0 and 3 of 7; a picture that shrinks more than twofold shrinks by area."""
        (inputs, targets), (again, _) = split.read([4, 1]), split.read([4, 1])
        assert all(same(inputs, again)) and targets.tolist() == [0, 1]
        for found, name, how in (
            (inputs["image"][1], "1.jpg", cv2.INTER_AREA),
            (inputs["frames"][1, 0], "1/000000.jpg", cv2.INTER_LINEAR),
            (inputs["frames"][1, 1], "1/000003.jpg", cv2.INTER_LINEAR),
        ):
            picture = cv2.imread(str(split.root / name))[:, :, ::-1]
            expected = cv2.resize(picture, (64, 64), interpolation=how)
            assert np.array_equal(found.permute(1, 2, 0), expected)

    @pytest.mark.parametrize("workers", [0, 2])
    def test_training(self, split, workers):
        """A draw, a clip and a modality decide; not the process, the batch or the subset."""
        inputs, _ = split.read([0, 3, 5], 7)
        (first, *_), (second, *_) = loader(split, [([5, 1], 7), ([3, 0], 7)], workers=workers)
        part, _ = split.subset([3, 5]).read([0], 7)
        for place, other, k in ((0, second, 1), (1, second, 0), (2, first, 0), (1, part, 0)):
            assert all(same(inputs, other, place, k))
        assert not torch.equal(inputs["image"], inputs["view"])
        assert not any(same(inputs, split.read([0, 3, 5], 8)[0]))
        assert not any(same(inputs, split.read([0, 3, 5])[0]))

    @pytest.mark.parametrize("crop", ["still", "clip", "none"])
    def test_crop(self, split, crop, monkeypatch):
        """What the stills of a clip, and of the next one, are cropped by; their order is kept."""
        seen = []
        draw_crop, readers = reading.crop, {"frames": Frames("frames", 7, 64, crop)}
        monkeypatch.setattr(
            reading, "crop", lambda *given: seen.append(draw_crop(*given)) or seen[-1]
        )
        clips = PreparedSplit(split.root, split.rows, readers, split.classes)
        drawn, whole = (clips.read([0, 1], draw)[0]["frames"] for draw in (7, None))
        different = [len(set(seen[:7])), len(set(seen[7:]))]
        assert different == {"still": [7, 7], "clip": [1, 1], "none": [0, 0]}[crop]
        assert torch.equal(drawn, whole) == (crop == "none")
        picture = Picture(64, crop)
        out = np.empty((2, *picture.shape), np.uint8)
        for place, random in zip(out, (Random(3), None), strict=True):
            picture.read(f"{split.root}/1.jpg", {}, random, place)
        assert np.array_equal(*out) == (crop == "none")

    def test_held(self, split):
        """Arrays lie in memory, also those of a subset; pictures are read from their files."""
        known = split.root, [split.rows[3], split.rows[5]]
        streamed, part = (PreparedSplit(*known, split.readers, split.classes) for _ in "ab")
        assert loader(part, 2, workers=1).num_workers == 1  # pictures are to be decoded
        assert not streamed.held and part.held.keys() == {"pose"}
        part.readers = {**split.readers, "pose": None}  # to be read no more
        for chosen, other in ((part, streamed), (part.subset([1]), streamed.subset([1]))):
            for draw in (None, 7):
                one, two = chosen.read([0], draw)[0], other.read([0], draw)[0]
                assert all(same(one, two)) and torch.equal(one["pose"], two["pose"])

    def test_clips_that_share_a_file_hold_it_once(self, split):
        rows = [
            split.rows[i] | {"pose": split.rows[j]["pose"]} for i, j in ((0, 4), (1, 2), (2, 4))
        ]
        streamed, held = (
            PreparedSplit(split.root, rows, {"pose": split.readers["pose"]}, split.classes)
            for _ in "ab"
        )
        assert held.hold() and len(held.held["pose"][0]) == 2
        for order in ([0, 1, 2], [2, 0]):
            assert torch.equal(held.values("pose", order), streamed.values("pose", order))
        assert torch.equal(held.subset([2, 1]).values("pose", [1, 0]), held.values("pose", [1, 2]))

    @pytest.mark.parametrize(("share", "workers"), [(0, 2), (1, 0)])
    def test_processes_only_where_files_are_read(self, split, monkeypatch, share, workers):
        monkeypatch.setattr(prepared, "SHARE", share)
        arrays = PreparedSplit(split.root, split.rows, {"pose": Array((2,))}, split.classes)
        batches = loader(arrays, 4, workers=2)
        assert batches.num_workers == workers
        assert [b.inputs["pose"][:, 1].tolist() for b in batches] == [[1, 2, 3, 4], [5, 6]]

    def test_normalised(self):
        levels = np.random.default_rng(0).integers(0, 256, (2, 2, 3, 4, 5), np.uint8)
        inputs = {"a": torch.from_numpy(levels), "b": torch.tensor([200.0])}
        moved = to_device(inputs, torch.device("cpu"))
        mean, deviation = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[..., None, None]
        assert_allclose(moved["a"], (levels / 255 - mean) / deviation, atol=1e-5)
        assert moved["a"].dtype == torch.float32 and torch.equal(moved["b"], inputs["b"])
