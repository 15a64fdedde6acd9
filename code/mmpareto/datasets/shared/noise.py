"""Noise on pictures, drawn once: the same in every run."""

import numpy as np
import torch
from torch import Tensor

CHUNK = 10_000  # images that noise is drawn for at once


def salt_and_pepper(
    images: Tensor, share: float, random: np.random.RandomState, *, white: float = 255
) -> Tensor:
    """Images in which a share of all pixels is 0 or white, with equal chances."""
    noisy = images.clone()
    for chunk in noisy.split(CHUNK):
        drawn = torch.from_numpy(random.random_sample(chunk.shape))
        chunk[drawn < share] = white
        chunk[drawn < share / 2] = 0
    return noisy
