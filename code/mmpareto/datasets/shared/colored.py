"""Digits seen twice: as they are, and in a colour that gives the label away in training only."""

import numpy as np
import torch
from torch import Tensor

from ...data.samples import Data, Modality, TensorSplit
from .noise import salt_and_pepper

# The colour of each digit in training: the ten categorical colours known as tab10, as RGB.
PALETTE = (
    (31, 119, 180),
    (255, 127, 14),
    (44, 160, 44),
    (214, 39, 40),
    (148, 103, 189),
    (140, 86, 75),
    (227, 119, 194),
    (127, 127, 127),
    (188, 189, 34),
    (23, 190, 207),
)
NOISE = 0.1  # standard deviation of a tint around its palette colour, on the scale of [0, 1]
SEED = 0  # of the data, the same in every run


class ColoredSplit(TensorSplit):
    """Digits (B, 1, H, W) in [0, 1] under "gray"; times one tint (3,) per digit under "color".

    Where there are "noisy" digits, gray has these.
    """

    def read(self, indices: list[int], draw: int | None = None) -> tuple[dict[str, Tensor], Tensor]:
        values, targets = super().read(indices)
        digits, tints = values["gray"], values["tint"]
        gray = values.get("noisy", digits)
        return {"gray": gray, "color": digits * tints[:, :, None, None]}, targets


def colored(
    name: str,
    splits: dict[str, tuple[Tensor, Tensor]],
    recipe: dict,
    classes: int = 10,
    noise: float = 0.0,
) -> Data:
    """The dataset of {split: (digits (N, H, W) in [0, 1], labels (N,))}.

    A tint is palette[k] + N(0, NOISE^2) per channel, clipped to [0, 1]; k is the label in the
    training split and uniformly random in the others, where colour therefore misleads. noise: share
    of gray's pixels that turn 0 or 1.
    """
    palette = np.array(PALETTE) / 255
    parts = {}
    for offset, (split, (digits, labels)) in enumerate(splits.items()):
        # RandomState's streams are frozen, so the data is the same with any numpy.
        random = np.random.RandomState([SEED, offset])
        colors = labels.numpy() if split == "train" else random.randint(classes, size=len(labels))
        tints = np.clip(palette[colors] + random.normal(0, NOISE, (len(labels), 3)), 0, 1)
        inputs = {"gray": digits[:, None].float(), "tint": torch.from_numpy(tints).float()}
        if noise:
            inputs["noisy"] = salt_and_pepper(inputs["gray"], noise, random, white=1)
        parts[split] = ColoredSplit(inputs, labels.long())
    height, width = digits.shape[1:]
    return Data(
        name=name,
        classes=[str(digit) for digit in range(classes)],
        modalities={
            "gray": Modality("image", (1, height, width)),
            "color": Modality("image", (3, height, width)),
        },
        splits=parts,
        recipe={**recipe, "palette": PALETTE, "noise": NOISE, "seed": SEED}
        | ({"gray_noise": noise} if noise else {}),
    )
