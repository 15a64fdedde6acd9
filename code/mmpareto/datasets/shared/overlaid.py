"""Two digits that overlap in one picture, one of them noisy: two tasks of unequal difficulty.

The layout is that of MultiMNIST (Sabour et al. 2017; Sener and Koltun 2018).
"""

from argparse import ArgumentParser, Namespace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...data.samples import Data, Modality, TensorSplit
from ...system.flags import share
from ..base import Dataset
from .noise import salt_and_pepper

SIDE, CANVAS = 28, 36  # of a digit, and of what two are laid on
SHIFT = 6  # how far the right digit lies below and to the right of the left one
MEAN, DEVIATION = 0.1307, 0.3081  # of MNIST's pixels, in [0, 1]
SEED = 0  # of partners and noise, the same in every run


class Overlaid(Dataset):
    """What the datasets of overlapping digits share; a subclass gives the digits' splits."""

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

    @staticmethod
    def overlaid(name: str, digits: dict[str, tuple], flags: Namespace, recipe: dict) -> Data:
        """The dataset of {split: (digits uint8 (N, 28, 28), labels (N,))}."""
        splits = {}
        for offset, (split, (images, labels)) in enumerate(digits.items()):
            # RandomState's streams are frozen, so the data is the same with any numpy.
            random = np.random.RandomState([SEED, offset])
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


class OverlaidSplit(TensorSplit):
    """Pictures uint8 (B, 28, 28), read as normalised floats (B, 1, 28, 28)."""

    def read(self, indices: list[int], draw: int | None = None) -> tuple[dict[str, Tensor], Tensor]:
        values, targets = super().read(indices)
        return {"image": (values["image"][:, None] / 255 - MEAN) / DEVIATION}, targets


def canvases(left: Tensor, right: Tensor) -> Tensor:
    """uint8 (N, 36, 36): the larger value where digits (N, 28, 28) overlap."""
    canvas = left.new_zeros(len(left), CANVAS, CANVAS)
    canvas[:, :SIDE, :SIDE] = left
    place = canvas[:, SHIFT : SHIFT + SIDE, SHIFT : SHIFT + SIDE]
    torch.maximum(place, right, out=place)
    return canvas


def overlay(left: Tensor, right: Tensor) -> Tensor:
    """Canvases at the size of one digit, by nearest neighbours."""
    return F.interpolate(canvases(left, right)[:, None], size=(SIDE, SIDE), mode="nearest")[:, 0]
