"""Spectrograms that lose bands of frequencies and stretches of time in training."""

from collections.abc import Sequence
from random import Random

from torch import Tensor

from .samples import Changed, Split

MASKS = 2  # on each axis


class Masked(Changed):
    """A split whose spectrograms `names` are masked where something may be random."""

    def __init__(self, split: Split, share: float, names: Sequence[str]):
        super().__init__(split)
        self.share, self.names = share, names

    def read(self, indices: list[int], draw: int | None = None) -> tuple[dict[str, Tensor], Tensor]:
        inputs, targets = self.split.read(indices, draw)
        for name in self.names if draw is not None else ():
            for place, index in enumerate(indices):
                random = Random(f"{draw} {index} {name}")
                inputs[name][place] = masked(inputs[name][place], self.share, random)
        return inputs, targets

    def subset(self, indices: Sequence[int]) -> "Masked":
        return Masked(self.split.subset(indices), self.share, self.names)


def masked(x: Tensor, share: float, random: Random) -> Tensor:
    """Return a spectrogram (..., H, W) with masks on both axes, filled with its mean.

    This is SpecAugment (Park et al., Interspeech 2019) without time warping. Every mask is drawn
    evenly from 0 to `share` of its axis wide, and lies anywhere on it.
    """
    found, mean = x.clone(), x.mean()
    for axis in (-2, -1):
        size = x.shape[axis]
        for _ in range(MASKS):
            width = random.randint(0, int(share * size))
            found.narrow(axis, random.randint(0, size - width), width).fill_(mean)
    return found
