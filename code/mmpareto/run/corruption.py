"""How accurate a model is when one modality is missing or corrupted.

zeros       zeros after normalisation; of tokens, padding. In a spectrogram in decibels, zeros are
            unusual: the model has never seen such input.
shuffled    the input of another sample of the split, drawn at random: usual values that say
            nothing of the sample, as in permutation importance (Breiman 2001).
noise S     Gaussian noise, added after normalisation and not clipped. Its standard deviation is S
            times that of all the modality's values in the split.
replaced P% for tokens, instead of noise: each token that is no padding is drawn anew with
            probability P, uniformly from the vocabulary. P = S^2 / (1 + S^2) is the share of noise
            S in the variance of the sum.

The draws follow from the seed, the modality and the sample's number in the split, not from batches
or processes. Stronger noise is the same noise, multiplied.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from math import fsum, hypot, sqrt

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..data.batches import Loader
from ..data.samples import Modality, Split, to_device
from ..models.fusions.base import Fusion
from .scores import columns, evaluate

CPU = torch.device("cpu")
SEVERITIES = (0.5, 1.0, 2.0)
# The notes below a table, by the first word of its rows' inputs.
EXPLAINED = {
    "zeros": "the modality at zero after normalisation; of tokens, padding",
    "shuffled": "the modality of another sample, drawn at random",
    "noise S": "plus Gaussian noise, S standard deviations of its values in this split",
    "replaced P%": "that share of tokens drawn anew, S^2 / (1 + S^2) of severity S",
}

Change = Callable[[Tensor, list[int]], Tensor]


class Changed(Split):
    """A split with one modality changed.

    change(values, indices) returns that modality's batch, changed. values (B, ...) are as the model
    reads them, indices (B,) are the samples' numbers in the split.
    """

    def __init__(self, split: Split, modality: str, change: Change):
        self.split, self.modality, self.change = split, modality, change
        self.targets, self.present = split.targets, split.present

    def read(self, indices: list[int], draw: int | None = None) -> tuple[dict[str, Tensor], Tensor]:
        inputs, targets = self.split.read(indices, draw)
        values = _as_read(inputs, self.modality)
        return {**inputs, self.modality: self.change(values, indices)}, targets


def robustness(
    model: Fusion,
    split: Split,
    modalities: dict[str, Modality],
    device: torch.device,
    load: Callable[[Split], Loader],
    severities: Sequence[float] = SEVERITIES,
    seed: int = 0,
) -> list[dict]:
    """Return the scores of `evaluate` with each modality of split missing or corrupted.

    Rows are {"modality": name, "input": its replacement, "Acc": ..., ...}. In the first one, ("",
    "as it is"), nothing is changed. load makes batches of a split, as `loader` does.
    """
    deviations = standard_deviations(load(split), modalities)
    changed = corruptions(split, modalities, deviations, severities, seed)
    rows = tqdm([("", "as it is", split), *changed], "robustness", leave=False, disable=None)
    return [
        {"modality": name, "input": input, **columns(evaluate(model, load(part), device)[0])}
        for name, input, part in rows
    ]


def corruptions(
    split: Split,
    modalities: dict[str, Modality],
    deviations: dict[str, float],
    severities: Sequence[float] = SEVERITIES,
    seed: int = 0,
) -> list[tuple[str, str, Split]]:
    """Return (modality, its input, changed split) for each way of losing each modality.

    deviations holds the standard deviation of each modality that is no tokens.
    """
    changes: list[tuple[str, str, Change]] = []
    for number, (name, spec) in enumerate(modalities.items()):
        donors = donors_of(split, number, seed)
        draw = partial(_random, seed, number)
        changes.append((name, "zeros", zeros))
        changes.append((name, "shuffled", partial(shuffled, split, name, donors)))
        for severity in severities:
            if spec.vocabulary is not None:
                share = (severity / hypot(1, severity)) ** 2
                change = partial(replaced, draw, share, spec.vocabulary)
                changes.append((name, f"replaced {share:.0%}", change))
            else:
                change = partial(noisy, draw, severity * deviations[name])
                changes.append((name, f"noise {severity:g}", change))
    return [(name, input, Changed(split, name, change)) for name, input, change in changes]


def donors_of(split: Split, modality: int, seed: int) -> list[int]:
    """Return for every sample that has the modality another one that has it."""
    if split.present is None:
        return other_samples(len(split), seed)
    donors, own = torch.arange(len(split)), split.present[:, modality].nonzero().squeeze(1)
    donors[own] = own[other_samples(len(own), seed)]
    return donors.tolist()


def other_samples(size: int, seed: int) -> list[int]:
    """Return another sample for every sample, each used once: its neighbour on a random ring."""
    ring = np.random.RandomState(seed).permutation(size)
    donors = np.empty(size, int)
    donors[ring] = np.roll(ring, -1)
    return donors.tolist()


def zeros(values: Tensor, indices: list[int]) -> Tensor:
    return values * 0  # padding of sequences, which is NaN, stays


def shuffled(
    split: Split, modality: str, donors: list[int], values: Tensor, indices: list[int]
) -> Tensor:
    inputs, _ = split.read([donors[index] for index in indices])
    return _as_read(inputs, modality)


def noisy(draw: Callable, deviation: float, values: Tensor, indices: list[int]) -> Tensor:
    noise = np.stack([draw(index).standard_normal(values.shape[1:]) for index in indices])
    return values + torch.from_numpy(deviation * noise).to(values.dtype)


def replaced(
    draw: Callable, share: float, vocabulary: int, values: Tensor, indices: list[int]
) -> Tensor:
    """Draw two numbers for each token: one decides whether it is replaced, the other by which."""
    drawn = [draw(index).random_sample((2, *values.shape[1:])) for index in indices]
    whether, which = torch.from_numpy(np.stack(drawn, axis=1))
    others = 1 + (which * (vocabulary - 1)).to(values.dtype)
    return torch.where((whether < share) & (values != 0), others, values)


def standard_deviations(batches: Iterable, modalities: dict[str, Modality]) -> dict[str, float]:
    """Return the standard deviation of all values of each modality that is no tokens.

    Sums are made sample by sample, so that any batch size gives the same bits.
    """
    names = [name for name, spec in modalities.items() if spec.kind != "tokens"]
    sums: dict[str, list[tuple[float, ...]]] = {name: [] for name in names}
    for inputs, _, present in tqdm(batches, "standard deviations", leave=False, disable=None):
        for name in names:
            values = _as_read(inputs, name).double()
            values = values if present is None else values[present.rows[name]]
            known = (~values.isnan()).flatten(1).sum(1).tolist()  # all but padding
            pairs = zip(known, values, strict=True)
            sums[name] += [(n, x.nansum().item(), x.square().nansum().item()) for n, x in pairs]
    deviations = {}
    for name, samples in sums.items():
        count, total, squares = (fsum(part) for part in zip(*samples, strict=True))
        deviations[name] = sqrt(max(squares / count - (total / count) ** 2, 0.0))
    return deviations


def _random(seed: int, modality: int, index: int) -> np.random.RandomState:
    # RandomState's streams are frozen, so the noise is the same with any numpy.
    return np.random.RandomState([seed, modality, index])


def _as_read(inputs: dict[str, Tensor], modality: str) -> Tensor:
    """Return a modality's batch as the model reads it, but on the CPU; pictures become floats."""
    return to_device({modality: inputs[modality]}, CPU)[modality]
