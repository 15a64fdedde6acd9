"""Datasets made of digits: each in gray and in colour, or two of them in one picture."""

from argparse import ArgumentParser, Namespace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...data.samples import Data, Modality, TensorSplit
from ...system.flags import share
from ..base import Dataset

SEED = 0  # of the data, the same in every run
CHUNK = 10_000  # images that noise is drawn for at once

# The colour of each digit in training: the ten categorical colours known as tab10, as RGB.
PALETTE = (
    (31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189),
    (140, 86, 75), (227, 119, 194), (127, 127, 127), (188, 189, 34), (23, 190, 207),
)  # fmt: skip
NOISE = 0.1  # standard deviation of a tint around its palette colour, on the scale of [0, 1]

SIDE, CANVAS = 28, 36  # of a digit, and of the canvas for two
SHIFT = 6  # how far the right digit lies below and to the right of the left one
MEAN, DEVIATION = 0.1307, 0.3081  # of MNIST's pixels, in [0, 1]


class ColoredSplit(TensorSplit):
    """Reads "gray", digits (B, 1, H, W) in [0, 1], and "color", each digit times its tint (3,).

    If there are "noisy" digits, gray has these.
    """

    def read(self, indices: list[int], draw: int | None = None) -> tuple[dict[str, Tensor], Tensor]:
        values, targets = super().read(indices)
        color = values["gray"] * values["tint"][:, :, None, None]
        return {"gray": values.get("noisy", values["gray"]), "color": color}, targets


def colored(
    name: str, digits: dict[str, tuple], recipe: dict, classes: int = 10, noise: float = 0.0
) -> Data:
    """Return the dataset of {split: (digits (N, H, W) in [0, 1], labels (N,))}.

    A tint is palette[k] + N(0, NOISE^2) per channel, clipped to [0, 1]; k is the label in the
    training split and uniformly random in the others, where colour therefore misleads. noise: share
    of gray's pixels that turn 0 or 1.
    """
    palette, splits = np.array(PALETTE) / 255, {}
    for offset, (split, (images, labels)) in enumerate(digits.items()):
        # RandomState's streams are frozen, so the data is the same with any numpy.
        random = np.random.RandomState([SEED, offset])
        colors = labels.numpy() if split == "train" else random.randint(classes, size=len(labels))
        tints = np.clip(palette[colors] + random.normal(0, NOISE, (len(labels), 3)), 0, 1)
        inputs = {"gray": images[:, None].float(), "tint": torch.from_numpy(tints).float()}
        if noise:
            inputs["noisy"] = salt_and_pepper(inputs["gray"], noise, random, white=1)
        splits[split] = ColoredSplit(inputs, labels.long())
    size = images.shape[1:]
    recipe = {**recipe, "palette": PALETTE, "noise": NOISE, "seed": SEED}
    return Data(
        name=name,
        classes=[str(digit) for digit in range(classes)],
        modalities={"gray": Modality("image", (1, *size)), "color": Modality("image", (3, *size))},
        splits=splits,
        recipe=recipe | ({"gray_noise": noise} if noise else {}),
    )


class Overlaid(Dataset):
    """Two digits that overlap, one of them noisy: two tasks of unequal difficulty.

    The layout is that of MultiMNIST (Sabour et al. 2017; Sener and Koltun 2018).
    """

    is_multitask = True
    encoder = "lenet"
    defaults = {"epochs": 10, "learning_rate": 0.01}

    @classmethod
    def add_flags(cls, parser: ArgumentParser) -> None:
        # fmt: off
        parser.add_argument("--noise", type=share, default=0.5,
            help="share of pixels that turn black or white, in [0, 1]")
        parser.add_argument("--noise_on", choices=("right_digit", "right_half"),
            default="right_digit",
            help="the right digit before it is laid over the left one, or the picture's right half")
        # fmt: on


class OverlaidSplit(TensorSplit):
    """Pictures uint8 (B, 28, 28), read as normalised floats (B, 1, 28, 28)."""

    def read(self, indices: list[int], draw: int | None = None) -> tuple[dict[str, Tensor], Tensor]:
        values, targets = super().read(indices)
        return {"image": (values["image"][:, None] / 255 - MEAN) / DEVIATION}, targets


def overlaid(name: str, digits: dict[str, tuple], recipe: dict, flags: Namespace) -> Data:
    """Return the dataset of {split: (digits uint8 (N, 28, 28), labels (N,))}."""
    splits = {}
    for offset, (split, (images, labels)) in enumerate(digits.items()):
        random = np.random.RandomState([SEED, offset])  # see colored
        partner = random.randint(len(images), size=len(images))  # may be the image itself
        right = images[partner]
        if flags.noise_on == "right_digit":
            right = salt_and_pepper(right, flags.noise, random)
        pictures = overlay(images, right)
        if flags.noise_on == "right_half":
            half = pictures[..., SIDE // 2 :]
            pictures[..., SIDE // 2 :] = salt_and_pepper(half, flags.noise, random)
        targets = torch.stack([labels, labels[partner]], dim=1).long()
        splits[split] = OverlaidSplit({"image": pictures}, targets)
    return Data(
        name=name,
        classes=[str(digit) for digit in range(10)],
        modalities={"image": Modality("image", (1, SIDE, SIDE))},
        splits=splits,
        recipe={
            **recipe, "shift": SHIFT, "resize": "nearest", "seed": SEED,
            "noise": flags.noise, "noise_on": flags.noise_on,
        },
        tasks=("left", "right"),
    )  # fmt: skip


def canvases(left: Tensor, right: Tensor) -> Tensor:
    """Return uint8 (N, 36, 36): the larger value where digits (N, 28, 28) overlap."""
    canvas = left.new_zeros(len(left), CANVAS, CANVAS)
    canvas[:, :SIDE, :SIDE] = left
    place = canvas[:, SHIFT : SHIFT + SIDE, SHIFT : SHIFT + SIDE]
    torch.maximum(place, right, out=place)
    return canvas


def overlay(left: Tensor, right: Tensor) -> Tensor:
    """Return `canvases` at the size of one digit, by nearest neighbours."""
    return F.interpolate(canvases(left, right)[:, None], size=(SIDE, SIDE), mode="nearest")[:, 0]


def salt_and_pepper(
    images: Tensor, share: float, random: np.random.RandomState, white: float = 255
) -> Tensor:
    """Return images in which a share of all pixels is 0 or white, with equal chances."""
    noisy = images.clone()
    for chunk in noisy.split(CHUNK):
        drawn = torch.from_numpy(random.random_sample(chunk.shape))
        chunk[drawn < share] = white
        chunk[drawn < share / 2] = 0
    return noisy
