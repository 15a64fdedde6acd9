"""What a modality is worth to a model: its share of the joint accuracy, and its features."""

from collections.abc import Callable, Iterable
from functools import reduce
from statistics import fmean
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from ..data.batches import Loader
from ..data.samples import Split
from ..models.fusions.base import Fusion
from ..models.shapley import Coalition, coalitions, shapley
from .corruption import Changed, zeros
from .scores import JOINT, evaluate


class Contribution(NamedTuple):
    """Accuracies of the joint prediction, in [0, 1]; of several tasks, their means."""

    accuracy: dict[Coalition, float]  # with these modalities alone, all others at zero
    added: dict[str, float]  # Shapley values: what each modality adds, from -1 to 1

    @property
    def imbalance(self) -> float:
        return max(self.added.values()) - min(self.added.values())


def contribution(
    model: Fusion,
    split: Split,
    modalities: Iterable[str],
    device: torch.device,
    load: Callable[[Split], Loader],
) -> Contribution:
    """Return what each of N modalities adds to the joint accuracy, after 2^N - 1 evaluations.

    The empty coalition has the accuracy of the best guess without any input: the share of the
    commonest class. (A model whose inputs are all zero also says one class of every sample, but
    which one is chance.) load makes batches of a split, as `loader` does.
    """
    names = list(modalities)
    accuracy = {frozenset(): best_guess(split.targets)}
    for present in tqdm(coalitions(names), "contribution", leave=False, disable=None):
        absent = [name for name in names if name not in present]
        part = reduce(lambda part, name: Changed(part, name, zeros), absent, split)
        accuracy[present] = evaluate(model, load(part), device)[0][JOINT].Acc
    return Contribution(accuracy, shapley(names, accuracy))


def best_guess(targets: Tensor) -> float:
    """Return the share of the commonest class; targets (n,), or (n, tasks) for their mean."""
    columns = targets.reshape(len(targets), -1).T
    return fmean(column.bincount().max().item() / len(targets) for column in columns)
