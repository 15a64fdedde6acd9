"""A dataset: splits of samples, their modalities, and their identity in logs."""

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cache
from random import Random
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from torch.utils.data import Dataset, get_worker_info

from ..system.errors import UserError, reason

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and standard deviation of RGB
_TAKEN = nn.ModuleDict()  # its attributes cannot be names of its members


class Modality(NamedTuple):
    """Kind (image, frames, flow, spectrogram, array, sequence or tokens) and shape of one sample.

    Images and spectrograms are (C, H, W), frames (T, C, H, W), optical flow (T, 2, H, W), arrays
    anything; sequences are arrays (T, ...), with steps of NaN for padding at the end; tokens are L
    integers below vocabulary, 0 for padding. A tokenizer whose own number for padding is pad has
    that number and 0 exchanged here.
    """

    kind: str
    shape: tuple[int, ...]
    vocabulary: int | None = None
    pad: int = 0
    tokenizer: str = ""  # its name, where prepare.py has made the tokens


class Present(NamedTuple):
    """Which samples of a batch have which modality."""

    rows: dict[str, Tensor]  # {modality: int64 (n,), the numbers of the samples that have it}
    shares: dict[str, float]  # {modality: what such a sample weighs in the mean of their losses}

    @classmethod
    def of(cls, table: Tensor, names: Iterable[str]) -> "Present":
        """Read a table, bool (B, modalities); the modalities are called names."""
        pairs = zip(names, table.unbind(1), strict=True)
        rows = {name: column.nonzero().squeeze(1) for name, column in pairs}
        return cls(rows, {name: 1 / max(len(own), 1) for name, own in rows.items()})

    @classmethod
    def of_all(cls, inputs: dict[str, Tensor]) -> "Present":
        """Return that of inputs {modality: (B, ...)} whose samples have all modalities."""
        size = len(next(iter(inputs.values())))
        return cls.of(torch.ones(size, len(inputs), dtype=torch.bool), inputs)

    def only(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return {modality: values (B, D)}, zero in samples that lack the modality."""
        return {
            name: x * x.new_zeros(len(x), 1).index_fill(0, self.rows[name], 1)
            for name, x in values.items()
        }


class Batch(NamedTuple):
    """Samples as a loader yields them."""

    inputs: dict[str, Tensor]  # {modality: (B, ...)}; anything for samples that lack it
    targets: Tensor  # int64 (B,), or (B, tasks)
    present: Present | None = None  # None: every sample has all modalities

    def to(self, device: torch.device) -> "Batch":
        """This batch on a device, in the form that the model reads.

        RGB pictures (..., 3, H, W) travel as bytes and arrive as floats, normalised as ImageNet's.
        """
        others = self._replace(inputs={})
        others = tree_map_only(Tensor, lambda x: x.to(device, non_blocking=True), others)
        return others._replace(inputs=to_device(self.inputs, device))


def to_device(inputs: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Move a batch's inputs to a device, as `Batch.to` describes."""
    moved = {name: values.to(device, non_blocking=True) for name, values in inputs.items()}
    for name, values in moved.items():
        if values.dtype == torch.uint8:
            mean, deviation = _imagenet(device)
            moved[name] = values.float().sub_(mean).div_(deviation)
    return moved


@cache  # to move them to a GPU for every batch would make the host wait for it
def _imagenet(device: torch.device) -> list[Tensor]:
    return [torch.tensor(v, device=device).view(3, 1, 1) * 255 for v in IMAGENET]


class Split(Dataset):
    """Samples read in whole batches: `read([3, 1, 4])` is ({modality: (3, ...)}, targets (3,))."""

    targets: Tensor  # int64 (number of samples,), or (number of samples, number of tasks)
    present: Tensor | None = None  # bool (number of samples, modalities); None: all are there
    dropout = 0.0  # the probability with which a training sample loses each modality

    @property
    def lacks(self) -> bool:
        """Return whether samples can lack modalities in training."""
        return self.present is not None or self.dropout > 0

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def ids(self) -> list[str]:
        """Return the names of the samples; here numbers from 0."""
        return [str(index) for index in range(len(self))]

    def read(self, indices: list[int], draw: int | None = None) -> tuple[dict[str, Tensor], Tensor]:
        """Read samples. draw and the sample decide what is random; None: nothing is random."""
        raise NotImplementedError

    def values(self, modality: str, indices: Sequence[int]) -> Tensor:
        """Read one modality; a split whose files take long to read replaces this."""
        return self.read(list(indices))[0][modality]

    def subset(self, indices: Sequence[int]) -> "Split":
        raise NotImplementedError

    def hold(self) -> bool:
        """Read into memory what fits and is the same in every epoch; return whether that is all.

        If it is all, processes that load data would only cost time.
        """
        return False

    def __getitems__(self, batch: tuple[list[int], int | None]):
        """Return a batch, or a UserError without a stack trace, to a process of a DataLoader.

        Number i + (k + 1) len(self) means sample i, of which only modality k counts.
        The batch goes into shared memory here: the thread that sends it would keep an error to
        itself, and the main process would wait for ever.
        """
        try:
            numbers, draw = batch
            size = len(self)
            indices = [number % size for number in numbers]
            found, table = Batch(*self.read(indices, draw)), self.present
            drops = self.dropout > 0 and draw is not None
            if table is not None or max(numbers) >= size or drops:
                every = torch.ones(len(numbers), len(found.inputs), dtype=torch.bool)
                table = every if table is None else table[indices]
                for row, number in zip(table, numbers, strict=True):
                    if alone := number // size:
                        row[: alone - 1], row[alone:] = False, False
                if drops:
                    table = dropped(table, self.dropout, [f"{draw} {n} present" for n in numbers])
                found = found._replace(present=Present.of(table, found.inputs))
            if get_worker_info():
                tree_map_only(Tensor, Tensor.share_memory_, found)
            return found
        except UserError as error:
            return error
        except RuntimeError as error:
            if "shared memory" not in str(error):
                raise
            return UserError(
                f"--workers: no room for a batch in shared memory ({reason(error)}): give fewer, a "
                "smaller --batch_size, or more room in /dev/shm (docker run --shm-size 8g)"
            )


def dropped(table: Tensor, share: float, seeds: Iterable[str]) -> Tensor:
    """Return what samples keep of table, bool (B, modalities); each loses it with this probability.

    A sample that would lose all that it has keeps one, drawn uniformly. Each has its own seed.
    """
    draws = [[random.random() for _ in range(table.shape[1])] for random in map(Random, seeds)]
    drawn = torch.tensor(draws).where(table, -1)  # the largest is uniform among them
    return table & ((drawn >= share) | (drawn == drawn.amax(1, keepdim=True)))


class Changed(Split):
    """Samples of another split, changed when read; a subclass defines `read` and `subset`."""

    def __init__(self, split: Split):
        self.split, self.targets, self.present = split, split.targets, split.present

    @property
    def ids(self) -> list[str]:
        return self.split.ids

    def hold(self) -> bool:
        return self.split.hold()


class TensorSplit(Split):
    """Samples held in memory as {modality: (number of samples, ...)}."""

    def __init__(self, inputs: dict[str, Tensor], targets: Tensor):
        self.inputs, self.targets = inputs, targets

    def read(self, indices: list[int], draw: int | None = None) -> tuple[dict[str, Tensor], Tensor]:
        inputs = {name: values[indices] for name, values in self.inputs.items()}
        return inputs, self.targets[indices]

    def subset(self, indices: Sequence[int]) -> "TensorSplit":
        return type(self)(*TensorSplit.read(self, list(indices)))


class Data(NamedTuple):
    """A dataset ready to train on."""

    name: str
    classes: list[str]
    modalities: dict[str, Modality]
    splits: dict[str, Split]  # "train" and "test", and "val" where there is one
    recipe: dict[str, Any]  # how the samples were made, as JSON
    tasks: tuple[str, ...] = ()  # of multi-task learning, one column of the targets each
    notes: tuple[str, ...] = ()  # further lines for the header of a log
    # mean and deviation of its arrays, see `data.standard`; empty: they are as they were prepared
    standard: dict[str, Tensor] = {}
    # A dataset sets it from the contents of its files; setup.load_data then from all samples.
    identity: str = ""


def choosing_split(splits: Iterable[str], select: str) -> str:
    """Return the split that rows show and that chooses best.pt: validation, if there is one."""
    return "test" if select == "best-test" or "val" not in splits else "val"


def is_modality_name(name: str) -> bool:
    """Return whether a modality can have this name: an identifier that has no other meaning."""
    has_other = name in ("joint", "heads", "fusion") or hasattr(_TAKEN, name)
    return name.isidentifier() and name[0] != "_" and not has_other


def recipe_hash(recipe: dict[str, Any]) -> str:
    """Return twelve hex digits that stand for a recipe in logs."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]


def identity(data: Data) -> str:
    """Return twelve hex digits that stand for all samples: recipe, names, order, labels, files."""
    known = [data.recipe, data.classes, data.identity, list(data.splits)]
    found = hashlib.sha256(json.dumps(known, sort_keys=True).encode())
    for split in data.splits.values():
        found.update("\n".join(split.ids).encode())
        found.update(split.targets.numpy().tobytes())
    return found.hexdigest()[:12]


def digest_of(tensors: Iterable[Tensor]) -> str:
    """Return twelve hex digits that stand for the bytes of tensors on the CPU."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.contiguous().numpy().data)
    return found.hexdigest()[:12]


def stratified(split: Split, size: int, seed: int) -> Split:
    """Return size samples drawn by seed; the (first task's) classes keep their shares."""
    targets = split.targets if split.targets.dim() == 1 else split.targets[:, 0]
    classes = len(targets.unique())
    if not classes <= size <= len(split):
        raise UserError(
            f"--train_size {size}: the training split has {len(split)} samples of {classes} "
            f"classes, give a number from {classes} to {len(split)}"
        )
    from sklearn.utils import resample  # here: most runs do without, and it takes a second

    indices: Any = resample(
        range(len(split)), n_samples=size, replace=False, stratify=targets, random_state=seed
    )
    return split.subset(sorted(indices))
