"""Arrays are standardised by mean and deviation of the training split.

A column is one number of a vector. An array of several axes is a sequence: its first axis is time,
and a column is one number of a time step, over all samples and steps. A column that is constant in
training is 0 there: it loses its mean, and is not divided.
"""

from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor
from tqdm import tqdm

from ..system.tensors import is_plain
from .samples import Changed, Data, Modality, Split

KINDS = ("array", "sequence")
BLOCK = 2**22  # numbers that are read at once: a split may not fit in memory
CONSTANT = 1e-6  # of the mean: a smaller deviation is rounding, float32 has seven digits

# {modality: (2, *columns), the mean and the deviation of each column}
Numbers = dict[str, Tensor]


class Standardised(Changed):
    """A split whose arrays are (x - mean) / deviation, in float32."""

    def __init__(self, split: Split, numbers: Numbers):
        super().__init__(split)
        self.numbers = numbers

    def read(self, indices: list[int], draw: int | None = None) -> tuple[dict[str, Tensor], Tensor]:
        inputs, targets = self.split.read(indices, draw)
        for name, (mean, deviation) in self.numbers.items():
            inputs[name] = (inputs[name].float() - mean) / deviation
        return inputs, targets

    def subset(self, indices: Sequence[int]) -> "Standardised":
        return Standardised(self.split.subset(indices), self.numbers)


def standardised(data: Data, numbers: Numbers) -> Data:
    """Return data whose arrays are standardised by numbers, whatever they were before."""
    splits: dict[str, Split] = {}
    for part, split in data.splits.items():
        plain = split.split if isinstance(split, Standardised) else split
        splits[part] = Standardised(plain, numbers) if numbers else plain
    return data._replace(splits=splits, standard=numbers)


def measured(data: Data, hold: bool = False) -> Numbers:
    """Return the numbers of every array of data, from its training split.

    hold: whether the split is trained on, and then what fits in memory is read now, once for all.
    """
    arrays = {name: spec for name, spec in data.modalities.items() if spec.kind in KINDS}
    train = data.splits["train"]
    if arrays and hold:
        train.hold()
    return {name: numbers_of(train, name, spec) for name, spec in arrays.items()}


def numbers_of(split: Split, name: str, spec: Modality) -> Tensor:
    """Return the mean and the deviation of a modality's columns, float32 (2, *columns).

    The numbers of each block join those before it (Chan et al. 1979). NaN does not count.
    """
    size = max(1, BLOCK // prod(spec.shape))
    count, mean, squares = torch.zeros(3, *columns(spec), dtype=torch.float64)
    for start in tqdm(range(0, len(split), size), f"mean of {name}", leave=False, disable=None):
        x = split.values(name, list(range(start, min(start + size, len(split))))).double()
        x = x.flatten(0, 1) if len(spec.shape) > 1 else x
        found = (~x.isnan()).sum(0)
        own = x.nansum(0) / found.clamp(min=1)
        both, apart = (count + found).clamp(min=1), own - mean
        squares += (x - own).square().nansum(0) + apart.square() * count * found / both
        mean += apart * found / both
        count += found
    deviation = (squares / count.clamp(min=1)).sqrt()
    varies = deviation > CONSTANT * mean.abs()
    return torch.stack([mean, deviation.where(varies, 1)]).float()


def columns(spec: Modality) -> tuple[int, ...]:
    """Return the shape of a sample's columns."""
    return spec.shape[1:] if len(spec.shape) > 1 else spec.shape


def check(numbers: Numbers, modalities: dict[str, Modality]) -> None:
    """Raise ValueError unless numbers can standardise arrays of these modalities."""
    for name, values in numbers.items():
        spec = modalities.get(name)
        wanted = spec and spec.kind in KINDS and (2, *columns(spec))
        if not is_plain(values) or values.dtype != torch.float32 or values.shape != wanted:
            raise ValueError(f"no mean and deviation of {name}")


def alike(one: Numbers, other: Numbers) -> bool:
    """Return whether both standardise the same arrays, and equally but for rounding."""
    return one.keys() == other.keys() and all(map(torch.allclose, one.values(), other.values()))


def line(data: Data) -> list[str]:
    """Return what the header of a log says of standardised arrays."""
    if not data.standard:
        return []
    names = ", ".join(data.standard)
    count = sum(int((deviation == 1).sum()) for _, deviation in data.standard.values())
    constant = f"; {count} of their columns are constant" if count else ""
    return [f"Arrays   standardised by the training split's mean and deviation: {names}{constant}"]
