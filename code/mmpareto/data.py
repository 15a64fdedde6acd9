"""What a dataset is, and the batches that training and evaluation read from it."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from sklearn.utils import resample
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .errors import UserError


class Modality(NamedTuple):
    """kind: "image", "frames" or "spectrogram". shape: of one sample, (C, H, W) or (T, C, H, W)."""

    kind: str
    shape: tuple[int, ...]


class Split(Dataset):
    """Samples read in whole batches: `split[[3, 1, 4]]` is ({modality: (3, ...)}, targets (3,))."""

    targets: Tensor  # int64 (number of samples,)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitems__(self, indices: list[int]) -> tuple[dict[str, Tensor], Tensor]:
        raise NotImplementedError

    def subset(self, indices: Sequence[int]) -> "Split":
        raise NotImplementedError


class TensorSplit(Split):
    """Samples held in memory as {modality: (number of samples, ...)}."""

    def __init__(self, inputs: dict[str, Tensor], targets: Tensor):
        self.inputs, self.targets = inputs, targets

    def __getitems__(self, indices: list[int]) -> tuple[dict[str, Tensor], Tensor]:
        return {name: values[indices] for name, values in self.inputs.items()}, self.targets[
            indices
        ]

    def subset(self, indices: Sequence[int]) -> "TensorSplit":
        indices = list(indices)
        inputs = {name: values[indices] for name, values in self.inputs.items()}
        return type(self)(inputs, self.targets[indices])


class Data(NamedTuple):
    """A dataset ready to train on."""

    name: str
    classes: list[str]
    modalities: dict[str, Modality]
    splits: dict[str, Split]  # "train" and "test", and "val" where there is one
    recipe: dict[str, Any]  # how the samples were made, as JSON


def recipe_hash(recipe: dict[str, Any]) -> str:
    """Twelve hex digits that stand for a recipe in logs."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]


def stratified(split: Split, size: int, seed: int) -> Split:
    """A subset of size samples with the classes in their proportions, drawn by seed."""
    classes = len(split.targets.unique())
    if not classes <= size <= len(split):
        raise UserError(
            f"--train_size {size}: the training split has {len(split)} samples of {classes} "
            f"classes, give a number from {classes} to {len(split)}"
        )
    indices = resample(
        range(len(split)), n_samples=size, replace=False, stratify=split.targets, random_state=seed
    )
    return split.subset(sorted(indices))


class ShuffledBatches:
    """Whole batches of shuffled indices; the order follows from (seed, epoch) alone."""

    def __init__(self, size: int, batch_size: int, seed: int):
        self.size, self.batch_size, self.seed, self.epoch = size, batch_size, seed, 1

    def __len__(self) -> int:
        return self.size // self.batch_size

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.size, generator=generator)[: len(self) * self.batch_size]
        return iter(order.view(-1, self.batch_size).tolist())


def loader(split: Split, batches, *, workers: int = 0, pin_memory: bool = False) -> DataLoader:
    """Batches of split; batches yields lists of indices, or is the size of consecutive ones."""
    if isinstance(batches, int):
        indices = list(range(len(split)))
        batches = [indices[i : i + batches] for i in range(0, len(split), batches)]
    return DataLoader(
        split,
        batch_sampler=batches,
        collate_fn=_as_is,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # so that loading draws nothing from the global generator
    )


def to_device(inputs: dict, device: torch.device) -> dict:
    return {name: values.to(device, non_blocking=True) for name, values in inputs.items()}


def _as_is(batch):
    return batch
