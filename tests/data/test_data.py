"""The two built-in datasets, subsets, and the order of batches."""

import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from toys import toy_split

from mmpareto.data.batches import ShuffledBatches, loader
from mmpareto.data.samples import recipe_hash, stratified
from mmpareto.datasets.cgdigits import CGDigits
from mmpareto.datasets.cgmnist import CGMNIST
from mmpareto.datasets.shared.digits import PALETTE
from mmpareto.run import options
from mmpareto.system.errors import UserError


def load(*flags):
    return CGDigits.load(options.parse(["--dataset", "cgdigits", *flags]))


@pytest.fixture(scope="module")
def digits():
    return load()


def nearest_color(split):
    """The palette entry nearest to each picture's tint."""
    palette = torch.tensor(PALETTE) / 255
    return torch.cdist(split.inputs["tint"].double(), palette.double()).argmin(1)


def agreement(split):
    return float((nearest_color(split) == split.targets).float().mean())


class TestCGDigits:
    def test_samples(self, digits):
        """Color is the digit times its tint."""
        sizes = {name: len(split) for name, split in digits.splits.items()}
        assert sizes == {"train": 1077, "val": 270, "test": 450}
        split = digits.splits["test"]
        inputs, targets = split.read([0, 5, 7])
        assert inputs["gray"].shape == (3, 1, 32, 32) and inputs["color"].shape == (3, 3, 32, 32)
        assert targets.dtype == torch.int64
        for picture in inputs.values():
            assert picture.min() >= 0 and 0.5 < picture.max() <= 1
        tints = split.inputs["tint"][[0, 5, 7]]
        assert torch.equal(inputs["color"], inputs["gray"] * tints[:, :, None, None])
        assert tints.min() >= 0 and tints.max() <= 1

    def test_splits(self, digits):
        """Classes keep their proportions; no picture is in two splits."""
        splits = digits.splits.values()
        first, *others = (s.targets.bincount(minlength=10) / len(s) for s in splits)
        for share in others:
            torch.testing.assert_close(share, first, atol=0.005, rtol=0)
        pictures = [{p.numpy().tobytes() for p in s.inputs["gray"]} for s in splits]
        assert len(set.union(*pictures)) == sum(map(len, pictures)) == 1797

    def test_color_tells_the_label_in_training_only(self, digits):
        assert agreement(digits.splits["train"]) > 0.85  # the noise makes some tints cross over
        assert agreement(digits.splits["val"]) < 0.2 and agreement(digits.splits["test"]) < 0.2

    def test_noise_of_the_tints(self, digits):
        split = digits.splits["train"]
        color = (torch.tensor(PALETTE) / 255)[split.targets]
        noise = (split.inputs["tint"] - color)[(color > 0.3) & (color < 0.7)]  # hardly clipped
        assert float(noise.std()) == pytest.approx(0.1, abs=0.01)
        assert float(noise.mean()) == pytest.approx(0, abs=0.01)

    def test_same_in_every_run(self, digits):
        """The sums change when the data does: a change of the recipe has to be on purpose."""
        sums = [round(float(s.inputs["tint"].double().sum()), 3) for s in digits.splits.values()]
        labels = [int((s.targets * torch.arange(len(s))).sum()) for s in digits.splits.values()]
        assert (sums, labels) == ([1593.713, 405.708, 663.246], [2574173, 165879, 453081])
        assert recipe_hash(digits.recipe) == recipe_hash(load().recipe)

    def test_fewer_classes(self, digits):
        """The same digits as with all; in test, any of the fewer colours."""
        data = load("--num_classes", "3")
        assert data.classes == ["0", "1", "2"]
        for name, split in data.splits.items():
            whole = digits.splits[name]
            kept = whole.inputs["gray"][whole.targets < 3]
            assert torch.equal(split.inputs["gray"], kept) and split.targets.max() == 2
        assert (nearest_color(data.splits["test"]).bincount(minlength=10)[:3] > 20).all()
        assert recipe_hash(data.recipe) != recipe_hash(digits.recipe)

    def test_noise_on_gray(self, digits):
        """On half of gray's pixels, half of these white; color is what it was, every time."""
        noisy, again = load("--noise", "0.5"), load("--noise", "0.5")
        for name, split in noisy.splits.items():
            everything = list(range(len(split)))
            (inputs, _), (plain, _) = (s.read(everything) for s in (split, digits.splits[name]))
            assert torch.equal(inputs["color"], plain["color"])
            assert torch.equal(inputs["gray"], again.splits[name].inputs["noisy"])
            gray = (plain["gray"] > 0.2) & (plain["gray"] < 0.8)
            changed = inputs["gray"][gray]
            for value in (0, 1):
                assert (changed == value).float().mean().item() == pytest.approx(0.25, abs=0.01)
            assert (changed == plain["gray"][gray]).float().mean().item() < 0.51
        part = stratified(noisy.splits["train"], 100, seed=0)
        assert part.read([0, 1])[0]["gray"].shape == (2, 1, 32, 32)
        assert recipe_hash(noisy.recipe) != recipe_hash(digits.recipe)


def write_mnist(root, images=60000, labels=60000, tests=10000):
    """Files in torchvision's layout: label i % 10, drawn as one bright pixel."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for name, n, m in (("train", images, labels), ("t10k", tests, tests)):
        pictures = np.zeros((n, 28, 28), np.uint8)
        pictures[np.arange(n), np.arange(n) % 10, 5] = 255
        header = np.array([0x803, n, 28, 28], ">i4").tobytes()
        (raw / f"{name}-images-idx3-ubyte").write_bytes(header + pictures.tobytes())
        header = np.array([0x801, m], ">i4").tobytes()
        digits = (np.arange(m) % 10).astype(np.uint8)
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(header + digits.tobytes())
    return root


def load_mnist(root):
    return CGMNIST.load(SimpleNamespace(data_root=root))


class TestCGMNIST:
    def test_splits_and_damage(self, tmp_path):
        splits = load_mnist(write_mnist(tmp_path)).splits
        sizes = {name: len(split) for name, split in splits.items()}
        assert sizes == {"train": 55000, "val": 5000, "test": 10000}
        inputs, targets = splits["val"].read([0, 4999])
        assert targets.tolist() == [0, 9]  # numbers 55,000 and 59,999
        assert inputs["gray"].shape == (2, 1, 28, 28) and inputs["gray"].max() == 1
        assert inputs["color"].shape == (2, 3, 28, 28)
        assert agreement(splits["train"]) > 0.85
        os.truncate(tmp_path / "MNIST/raw/train-images-idx3-ubyte", 1_000_000)
        with pytest.raises(UserError, match="damaged"):
            load_mnist(tmp_path)

    def test_missing(self, tmp_path):
        with pytest.raises(UserError, match=r"not found or are damaged.*data/cgmnist/README.md"):
            load_mnist(tmp_path)

    def test_another_number_of_pictures(self, tmp_path):
        with pytest.raises(UserError, match=r"392016 bytes found, 47040016 expected"):
            load_mnist(write_mnist(tmp_path, 500, 500))


class TestSubset:
    def test_stratified_and_seeded(self):
        split = toy_split(2, 104, seed=1)
        part, same, other = (stratified(split, 20, seed=seed) for seed in (3, 3, 4))
        assert part.targets.bincount().tolist() == [5, 5, 5, 5]
        assert torch.equal(part.inputs["a"], same.inputs["a"])
        assert not torch.equal(part.inputs["a"], other.inputs["a"])
        assert len(stratified(split, 104, seed=0)) == 104

    @pytest.mark.parametrize("size", [3, 105])
    def test_impossible(self, size):
        with pytest.raises(UserError, match=f"--train_size {size}: .*104 samples of 4 classes"):
            stratified(toy_split(2, 104, seed=1), size, seed=0)


class TestBatches:
    def test_order_follows_from_seed_and_epoch(self):
        order = ShuffledBatches(50, 8, seed=1)
        first = list(order)
        assert first == list(order) and len(first) == len(order) == 6
        indices = [i for batch, _ in first for i in batch]
        assert len({draw for _, draw in first}) == 1
        assert len(set(indices)) == 48 and max(indices) < 50
        order.epoch = 2
        assert list(order) != first
        assert list(ShuffledBatches(50, 8, seed=2)) != first

    @pytest.mark.parametrize("workers", [0, 2])
    def test_evaluation_reads_everything_once_in_order(self, workers):
        split = toy_split(2, 40, seed=1)
        before = torch.get_rng_state()
        batches = list(loader(split, 16, workers=workers))
        assert torch.equal(torch.get_rng_state(), before)
        assert [len(batch.targets) for batch in batches] == [16, 16, 8]
        assert torch.equal(torch.cat([batch.inputs["b"] for batch in batches]), split.inputs["b"])
