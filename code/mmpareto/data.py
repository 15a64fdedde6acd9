"""What a dataset is, and the batches that training and evaluation read from it."""

import hashlib
import json
import multiprocessing
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from resource import RLIM_INFINITY, RLIMIT_NOFILE, getrlimit
from typing import Any, NamedTuple

import torch
from sklearn.utils import resample
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, get_worker_info

from . import distributed
from .errors import UserError, reason
from .interrupts import held_back
from .orphans import end_after

_TAKEN = nn.ModuleDict()  # whose attributes cannot be names of its members


class Modality(NamedTuple):
    """kind: "image", "frames", "flow", "spectrogram", "array" or "tokens". shape: of one sample.

    Images and spectrograms are (C, H, W), frames (T, C, H, W), optical flow (T, 2, H, W), arrays
    anything; tokens are L integers below vocabulary, 0 where a text has ended.
    """

    kind: str
    shape: tuple[int, ...]
    vocabulary: int | None = None


class Split(Dataset):
    """Samples read in whole batches: `read([3, 1, 4])` is ({modality: (3, ...)}, targets (3,))."""

    targets: Tensor  # int64 (number of samples,), or (number of samples, number of tasks)

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def ids(self) -> list[str]:
        """What the samples are called; without names of their own, numbers from 0."""
        return [str(index) for index in range(len(self))]

    def read(self, indices: list[int], draw: int | None = None) -> tuple[dict[str, Tensor], Tensor]:
        """draw: decides, with the sample, what is random about it; None, nothing is random."""
        raise NotImplementedError

    def subset(self, indices: Sequence[int]) -> "Split":
        raise NotImplementedError

    def __getitems__(self, batch: tuple[list[int], int | None]):
        """What a DataLoader's process calls; it would wrap an error in its stack trace.

        There the batch goes into shared memory at once. Left to the thread that sends it, an error
        would be known to that thread only, and the main process would wait for ever.
        """
        try:
            inputs, targets = self.read(*batch)
            if get_worker_info():
                for tensor in (*inputs.values(), targets):
                    tensor.share_memory_()
            return inputs, targets
        except UserError as error:
            return error
        except RuntimeError as error:
            if "shared memory" not in str(error):
                raise
            return UserError(
                f"--workers: no room for a batch in shared memory ({reason(error)}): give fewer, a "
                "smaller --batch_size, or more room in /dev/shm (docker run --shm-size 8g)"
            )


class TensorSplit(Split):
    """Samples held in memory as {modality: (number of samples, ...)}."""

    def __init__(self, inputs: dict[str, Tensor], targets: Tensor):
        self.inputs, self.targets = inputs, targets

    def read(self, indices: list[int], draw: int | None = None) -> tuple[dict[str, Tensor], Tensor]:
        inputs = {name: values[indices] for name, values in self.inputs.items()}
        return inputs, self.targets[indices]

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
    tasks: tuple[str, ...] = ()  # of multi-task learning, one column of the targets each
    notes: tuple[str, ...] = ()  # further lines for the header of a log
    # From a dataset it stands for what the files hold; from build.load_data, for all samples.
    identity: str = ""


def choosing_split(splits: Iterable[str], select: str) -> str:
    """The split whose accuracies rows show and choose best.pt: validation, if there is one."""
    return "test" if select == "best-test" or "val" not in splits else "val"


def own_targets(targets: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
    """{name: targets (B,)} of targets that all share (B,), or with a column for each (B, N)."""
    columns = targets.unbind(1) if targets.dim() == 2 else repeat(targets)
    return dict(zip(names, columns, strict=False))


def is_modality_name(name: str) -> bool:
    """Whether a modality can be called so: a word as in Python that torch does not use itself."""
    return name.isidentifier() and name[0] != "_" and name != "joint" and not hasattr(_TAKEN, name)


def recipe_hash(recipe: dict[str, Any]) -> str:
    """Twelve hex digits that stand for a recipe in logs."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:12]


def identity(data: Data) -> str:
    """Twelve hex digits that stand for all samples: recipe, names, order, labels, files."""
    known = [data.recipe, data.classes, data.identity, list(data.splits)]
    found = hashlib.sha256(json.dumps(known, sort_keys=True).encode())
    for split in data.splits.values():
        found.update("\n".join(split.ids).encode())
        found.update(split.targets.numpy().tobytes())
    return found.hexdigest()[:12]


def digest_of(tensors: Iterable[Tensor]) -> str:
    """Twelve hex digits that stand for the bytes of tensors on the CPU."""
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.contiguous().numpy())
    return found.hexdigest()[:12]


def stratified(split: Split, size: int, seed: int) -> Split:
    """A subset of size samples with the classes in their proportions, drawn by seed.

    Of several tasks it is the first one's classes.
    """
    targets = split.targets if split.targets.dim() == 1 else split.targets[:, 0]
    classes = len(targets.unique())
    if not classes <= size <= len(split):
        raise UserError(
            f"--train_size {size}: the training split has {len(split)} samples of {classes} "
            f"classes, give a number from {classes} to {len(split)}"
        )
    indices = resample(
        range(len(split)), n_samples=size, replace=False, stratify=targets, random_state=seed
    )
    return split.subset(sorted(indices))


class ShuffledBatches:
    """This process's share of whole batches of shuffled indices.

    Order and draw follow from (seed, epoch) alone, whatever the number of processes.
    """

    def __init__(self, size: int, batch_size: int, seed: int):
        self.size, self.batch_size, self.seed, self.epoch = size, batch_size, seed, 1

    def __len__(self) -> int:
        return self.size // self.batch_size

    def __iter__(self) -> Iterator[tuple[list[int], int]]:
        draw = self.seed * 1_000_003 + self.epoch
        generator = torch.Generator().manual_seed(draw)
        order = torch.randperm(self.size, generator=generator)[: len(self) * self.batch_size]
        batches = order.view(-1, self.batch_size).tolist()
        return ((distributed.own(batch), draw) for batch in batches)


class ConsecutiveBatches:
    """All indices in order, the last batch smaller; nothing is drawn.

    Of several processes each has its share of the batches.
    """

    def __init__(self, size: int, batch_size: int):
        self.starts = distributed.own(range(0, size, batch_size))
        self.size, self.batch_size = size, batch_size

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[tuple[list[int], None]]:
        for start in self.starts:
            yield list(range(start, min(start + self.batch_size, self.size))), None


class Loader(DataLoader):
    """A DataLoader whose processes report bad input, and their own death, in one line."""

    def __iter__(self) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        try:
            with held_back():
                batches = super().__iter__()
        except OSError as error:
            raise self._limited(error) from None
        try:
            for batch in batches:
                if isinstance(batch, UserError):
                    try:
                        raise batch
                    finally:  # an error that held its own frame would keep the processes waiting
                        del batch
                yield batch
        except RuntimeError as error:
            if str(error).startswith("Too many open files"):
                raise self._limited(error) from None
            if "DataLoader worker" not in str(error):
                raise
            raise UserError(
                f"--workers {self.num_workers}: a process that loads data has died "
                f"({str(error).splitlines()[0]}): give it more memory, or fewer --workers"
            ) from None

    def _limited(self, error: Exception) -> UserError:
        return UserError(
            f"--workers {self.num_workers}: processes that load data cannot be started, or heard "
            f"({reason(error)}): give fewer, or raise the limit (ulimit -a shows it; of /dev/shm "
            "docker run --shm-size 8g)"
        )


def loader(split: Split, batches, *, workers: int = 0, pin_memory: bool = False) -> Loader:
    """Batches of split; batches yields (indices, draw), or is the size of consecutive ones."""
    _check_files(workers)
    if isinstance(batches, int):
        batches = ConsecutiveBatches(len(split), batches)
    return Loader(
        split,
        batch_sampler=batches,
        collate_fn=_as_is,
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=_begin,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # so that loading draws nothing from the global generator
    )


def _check_files(workers: int) -> None:
    """UserError where so many processes would run out of open files: some of them never end then.

    A process has two pipes, and some batches on their way, each of whose tensors is a file.
    """
    needed, limit = 32 + 12 * workers, getrlimit(RLIMIT_NOFILE)[0]
    if workers and limit != RLIM_INFINITY and limit < needed:
        raise UserError(
            f"--workers {workers}: needs about {needed} open files, the limit is {limit}: give "
            f"fewer, or raise it (ulimit -n {needed})"
        )


def _begin(worker: int) -> None:
    """In a loading process: it ends with the main one, in silence."""
    end_after(multiprocessing.parent_process().join)
    shown = sys.excepthook

    def hook(kind, error, trace) -> None:
        if not issubclass(kind, ConnectionError | EOFError):  # that is the main process, gone
            shown(kind, error, trace)

    sys.excepthook = hook


def to_device(inputs: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Move a batch. RGB pictures travel as bytes (..., 3, H, W), a quarter of the traffic, and
    arrive as floats normalised by ImageNet's mean and standard deviation."""
    moved = {name: values.to(device, non_blocking=True) for name, values in inputs.items()}
    return {name: _normalised(v) if v.dtype == torch.uint8 else v for name, v in moved.items()}


def _normalised(pictures: Tensor) -> Tensor:
    mean, deviation = (
        torch.tensor(values, device=pictures.device).view(3, 1, 1) * 255
        for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    return pictures.float().sub_(mean).div_(deviation)


def _as_is(batch):
    return batch
