"""cgdigits: scikit-learn's 1,797 handwritten digits, in gray and in colour; needs no download."""

from argparse import ArgumentParser, Namespace

import numpy as np
import torch
import torch.nn.functional as F

from ..data.samples import Data
from ..system.flags import share
from .base import Dataset
from .shared.digits import SEED, colored


class CGDigits(Dataset):
    """60 % train, 15 % validation and 25 % test, stratified; digits resized to 32x32."""

    built_in = True
    defaults = {"epochs": 6, "learning_rate": 0.01}

    @classmethod
    def add_flags(cls, parser: ArgumentParser) -> None:
        # fmt: off
        parser.add_argument("--num_classes", type=int, choices=range(2, 11), default=10,
            metavar="N", help="use the digits below N, 2 to 10")
        parser.add_argument("--noise", type=share, default=0.0,
            help="share of gray's pixels that turn black or white, in [0, 1]; color has none")
        # fmt: on

    @classmethod
    def load(cls, flags: Namespace) -> Data:
        classes, splits = flags.num_classes, read_digits(32)
        recipe = {"source": "scikit-learn digits", "resize": "bilinear 32x32", "split": "60/15/25"}
        if classes < 10:
            recipe["classes"] = classes
            splits = {name: (x[y < classes], y[y < classes]) for name, (x, y) in splits.items()}
        return colored("cgdigits", splits, recipe, classes, flags.noise)


def read_digits(side: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Return {split: (digits (N, side, side) in [0, 1], labels (N,))}."""
    from sklearn.datasets import load_digits  # here: --help does without, and it takes a second

    digits = load_digits()
    images = torch.from_numpy(digits.images).float()[:, None] / 16
    images = F.interpolate(images, size=(side, side), mode="bilinear", align_corners=False)[:, 0]
    labels = digits.target
    rest, test = _part(np.arange(len(labels)), labels, 0.25)
    train, val = _part(rest, labels, 0.2)
    parts = {"train": train, "val": val, "test": test}
    return {name: (images[i], torch.from_numpy(labels[i])) for name, i in parts.items()}


def _part(indices: np.ndarray, labels: np.ndarray, share: float) -> list[np.ndarray]:
    from sklearn.model_selection import train_test_split

    return train_test_split(indices, test_size=share, stratify=labels[indices], random_state=SEED)
