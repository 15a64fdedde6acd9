"""avmnist, read from files with the archive's names, and its encoder."""

import os
import pickle
import re

import numpy as np
import pytest
import torch
from damage import told
from torch import nn

import evaluate
import train
from mmpareto.data.samples import Modality, identity
from mmpareto.datasets import avmnist
from mmpareto.models.encoders import ENCODERS
from mmpareto.models.encoders.lenet_bn import LeNetBN
from mmpareto.run import options
from mmpareto.system.errors import UserError

SIZES = {"train": 40, "test": 20}


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Degraded digits are floats, some below zero; spectrograms are bytes; the digit decides."""
    monkeypatch.setattr(avmnist, "SIZES", SIZES)
    monkeypatch.setattr(avmnist, "VALIDATION", 10)
    random = np.random.default_rng(0)
    for part, size in SIZES.items():
        digits = np.arange(size) % 10
        images = random.normal(0, 9, (size, 784))
        images[np.arange(size), 40 * digits + 9] += 255
        sounds = random.integers(0, 50, (size, 112, 112), np.uint8)
        sounds[np.arange(size), 11 * digits + 3] = 255
        for name, values in (("image", images), ("audio", sounds)):
            (tmp_path / "avmnist" / name).mkdir(parents=True, exist_ok=True)
            np.save(tmp_path / f"avmnist/{name}/{part}_data.npy", values)
        np.save(tmp_path / f"avmnist/{part}_labels.npy", digits.astype(np.uint8))
    return tmp_path


def load(root):
    return avmnist.AVMNIST.load(options.parse(["--dataset", "avmnist", "--data_root", str(root)]))


def test_samples(root):
    """They are the archive's rows divided by 255, found in DIR or in DIR/avmnist."""
    data, same = load(root), load(root / "avmnist")
    assert identity(data) == identity(same)
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 30, "val": 10, "test": 20,
    }  # fmt: skip
    for name, file, first in (("train", "train", 0), ("val", "train", 30), ("test", "test", 0)):
        inputs, targets = data.splits[name].subset([1, 7, 3]).read([2, 0])
        rows = [first + 3, first + 1]
        for modality, shape in (("image", (1, 28, 28)), ("audio", (1, 112, 112))):
            values = np.load(root / f"avmnist/{modality}/{file}_data.npy")[rows]
            expected = torch.from_numpy(values / 255).float().view(2, *shape)
            torch.testing.assert_close(inputs[modality], expected)
        assert targets.tolist() == [3, 1]


def test_other_files_are_other_data(root):
    before = identity(load(root))
    path = root / "avmnist/audio/test_data.npy"
    sounds = np.load(path)
    sounds[3, 4, 5] += 1
    np.save(path, sounds)
    assert identity(load(root)) != before


def save(name, change):
    def damage(root):
        path = root / "avmnist" / name
        np.save(path, change(np.load(path)), allow_pickle=True)

    return damage


def put(rows, value):
    """A change of an array: value in its first rows."""

    def change(values):
        values = values.astype(type(value)) if isinstance(value, float) else values
        values[:rows] = value
        return values

    return change


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda root: (root / "avmnist").rename(root / "other"),
         r"no folder image or avmnist/image in it: data/avmnist/README.md"),
        (lambda root: (root / "avmnist/image").rename(root / "a.tar.gz"),
         r"unpack the archive: tar -xzf .*a.tar.gz"),
        (lambda root: (root / "avmnist/test_labels.npy").unlink(), r"test_labels.npy: not found"),
        (save("image/train_data.npy", lambda x: x[:, :783]),
         r"train_data.npy: \(40, 783\) of float64 found, \(40, 784\) numbers expected"),
        (save("audio/test_data.npy", lambda x: x[:19]), r"\(19, 112, 112\) of uint8 found, \(20, "),
        (save("image/test_data.npy", lambda x: x.astype("<U3")), r"\(20, 784\) of <U3 found"),
        (save("train_labels.npy", lambda x: x.astype(float)), r"of float64 found, .* integers"),
        (save("train_labels.npy", put(1, 10)), r"train_labels.npy: labels from 0 to 10 found"),
        (save("image/train_data.npy", put(1, np.nan)), r"train_data.npy: holds NaN"),
        (save("image/train_data.npy", lambda x: x.astype(object)), r"is no whole .npy file"),
        (lambda root: (root / "avmnist/audio/train_data.npy").write_bytes(pickle.dumps([1])),
         r"audio/train_data.npy: is no whole .npy file of numbers"),
        (lambda root: os.truncate(root / "avmnist/audio/train_data.npy", 9999),
         r"is no whole .npy file"),
    ],
)  # fmt: skip
def test_bad_input(root, damage, line):
    damage(root)
    with pytest.raises(UserError, match=line):
        load(root)
    assert "\n" not in told(load, root)


@pytest.mark.slow
def test_train_and_evaluate(root, capsys):
    """Both modalities are learned; a resumed run knows that a file has changed."""
    out = root / "run"
    flags = ["--dataset", "avmnist", "--data_root", str(root), "--batch_size", "10",
             "--workers", "1", "--out", str(out)]  # fmt: skip
    train.main([*flags, "--epochs", "12"])
    evaluate.main([str(out / "last.pt")])
    rows = dict(re.findall(r"^(\w+) +([01]\.\d+)", capsys.readouterr().out, re.MULTILINE))
    assert all(float(rows[name]) > 0.5 for name in ("joint", "image", "audio")), rows
    save("image/test_data.npy", put(1, 0.5))(root)
    assert "has changed since" in told(train.main, [*flags, "--epochs", "13", "--resume"])


def test_encoder_is_multibenchs():
    """The same layers in the same order, written out here for both of its modalities."""
    for shape, count in (((1, 28, 28), 4), ((1, 112, 112), 6)):
        ours, layers, before = LeNetBN(Modality("image", shape)), [], 1
        for stage in range(count):
            size, after = (3, 2 * before) if stage else (5, 6)
            conv = nn.Conv2d(before, after, size, padding=size // 2, bias=False)
            layers += [conv, nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]
            before = after
        theirs = nn.Sequential(*layers, nn.Flatten())
        weights = zip(theirs.state_dict(), ours.state_dict().values(), strict=True)
        theirs.load_state_dict(dict(weights))
        pictures = torch.randn(3, *shape)
        torch.testing.assert_close(ours(pictures), theirs(pictures))
        assert ours.out_dim == before == {4: 48, 6: 192}[count]
        bound = (6 / 25) ** 0.5  # He's uniform distribution, of 5x5 inputs
        assert 0.9 * bound < ours.stages[0][0].weight.abs().max() <= bound
    with pytest.raises(UserError, match="pictures of 3x28 found"):
        ENCODERS["lenet_bn"](Modality("image", (1, 3, 28)))
