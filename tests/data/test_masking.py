"""--spec_augment: what is masked follows from seed, epoch and sample alone."""

from random import Random

import pytest
import torch
from balance import trainer_of

from mmpareto.data.masking import Masked, masked
from mmpareto.data.samples import TensorSplit
from mmpareto.system.errors import UserError


def split_of(size=12):
    generator = torch.Generator().manual_seed(0)
    sounds = torch.rand(size, 1, 20, 30, generator=generator)
    return TensorSplit({"sound": sounds, "pose": sounds[:, 0, 0].clone()}, torch.arange(size))


def test_literal():
    x = split_of().inputs["sound"][0]
    random, wanted = Random("7"), x.clone()
    for _ in range(2):  # bands of rows
        width = random.randint(0, 8)
        top = random.randint(0, 20 - width)
        for row in range(top, top + width):
            wanted[:, row, :] = x.mean()
    for _ in range(2):  # bands of columns
        width = random.randint(0, 12)
        left = random.randint(0, 30 - width)
        for column in range(left, left + width):
            wanted[:, :, column] = x.mean()
    assert masked(x, 0.4, Random("7")).equal(wanted)
    assert not wanted.equal(x)


def test_split():
    """Each sample has masks of its own, new in each epoch, whatever its batch; no others change."""
    plain = split_of()
    split = Masked(plain, 0.5, ["sound"])
    inputs, _ = split.read([3, 4, 5], draw=1)
    alone = [split.read([index], draw=1)[0]["sound"][0] for index in (3, 4, 5)]
    assert inputs["sound"].equal(torch.stack(alone))
    assert inputs["pose"].equal(plain.inputs["pose"][3:6])
    assert not inputs["sound"].equal(split.read([3, 4, 5], draw=2)[0]["sound"])
    assert plain.inputs["sound"].equal(split_of().inputs["sound"])  # what is in memory stays
    assert split.read([3, 4, 5])[0]["sound"].equal(plain.inputs["sound"][3:6])  # evaluation


def test_same_samples_same_masks():
    """Two clips that share a sound have masks of their own."""
    plain = split_of(2)
    plain.inputs["sound"][1] = plain.inputs["sound"][0]
    found = Masked(plain, 0.5, ["sound"]).read([0, 1], draw=1)[0]["sound"]
    assert not found[0].equal(found[1])


def test_refused(tmp_path):
    with pytest.raises(UserError, match="--spec_augment masks spectrograms, and toy has none"):
        trainer_of(tmp_path / "run", "--spec_augment")
