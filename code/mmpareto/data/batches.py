"""The batches that training and evaluation read from a split."""

from collections.abc import Iterator
from resource import RLIM_INFINITY, RLIMIT_NOFILE, getrlimit
from typing import Any

import torch
from torch.utils.data import DataLoader

from ..core import distributed
from ..system.errors import UserError, reason
from ..system.processes import begin_worker, held_back
from .samples import Batch, Present, Split


class ShuffledBatches:
    """Yields this process's share of whole batches of shuffled indices.

    Order and draw follow from (seed, epoch, copies) alone, whatever the number of processes.
    copies: integers (size, modalities), how often sample i comes once more with modality k alone,
    under the number i + (k + 1) size; None: never.
    """

    def __init__(self, size: int, batch_size: int, seed: int):
        self.size, self.batch_size, self.seed, self.epoch = size, batch_size, seed, 1
        self.copies: torch.Tensor | None = None

    def __len__(self) -> int:
        more = 0 if self.copies is None else int(self.copies.sum())
        return (self.size + more) // self.batch_size

    def __iter__(self) -> Iterator[tuple[list[int], int]]:
        draw = self.seed * 1_000_003 + self.epoch
        generator = torch.Generator().manual_seed(draw)
        numbers = torch.arange(self.size)
        if self.copies is not None:
            copied = torch.repeat_interleave(self.copies.T.flatten())  # {k size + i, as often}
            numbers = torch.cat([numbers, copied + self.size])
        order = numbers[torch.randperm(len(numbers), generator=generator)]
        batches = order[: len(self) * self.batch_size].view(-1, self.batch_size).tolist()
        return ((list(distributed.own(batch)), draw) for batch in batches)


def shared_out(parts: list[Batch]) -> list[Batch]:
    """Return the batches of one step, in which samples may lack modalities, with other shares.

    The step's losses are means over its batches and over processes. With these shares, the loss
    of a modality is the mean over all of the step's samples that have it.
    """
    every = [part.present or Present.of_all(part.inputs) for part in parts]
    counts = torch.tensor([[len(rows) for rows in one.rows.values()] for one in every]).sum(0)
    whole, terms = distributed.total(counts).tolist(), len(parts) * distributed.size()
    shares = {name: terms / max(n, 1) for name, n in zip(every[0].rows, whole, strict=True)}
    every = [one._replace(shares=shares) for one in every]
    return [part._replace(present=one) for part, one in zip(parts, every, strict=True)]


def consecutive(size: int, batch_size: int) -> list[Any]:
    """Return this process's (indices, None) in order, batch_size each; the last has the rest."""
    starts = distributed.own(range(0, size, batch_size))
    return [(list(range(start, min(start + batch_size, size))), None) for start in starts]


class Loader(DataLoader):
    """A DataLoader whose processes report bad input, and their own death, in one line."""

    # torch gives away the type of its own iterators, which is private.
    def __iter__(self) -> Iterator[Batch]:  # pyrefly: ignore[bad-override]
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
            f"--workers {self.num_workers}: processes that load data cannot be started or reached "
            f"({reason(error)}): give fewer, or raise the limit (ulimit -a shows it; of /dev/shm "
            "docker run --shm-size 8g)"
        )


def loader(split: Split, batches, *, workers: int = 0, pin_memory: bool = False) -> Loader:
    """Load split; batches yields (indices, draw), or is the size of consecutive batches.

    Samples that fit are read into memory here, so that the processes that load data share them.
    """
    if split.hold():
        workers = 0
    # Each process opens two pipes, and one file for each tensor of a batch on its way.
    # If there are not enough, some processes never end.
    needed, limit = 32 + 12 * workers, getrlimit(RLIMIT_NOFILE)[0]
    if workers and limit != RLIM_INFINITY and limit < needed:
        raise UserError(
            f"--workers {workers}: needs about {needed} open files, the limit is {limit}: give "
            f"fewer, or raise it (ulimit -n {needed})"
        )
    return Loader(
        split,
        batch_sampler=consecutive(len(split), batches) if isinstance(batches, int) else batches,
        collate_fn=_as_is,
        num_workers=workers,
        persistent_workers=workers > 0,
        worker_init_fn=begin_worker,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # so that loading draws nothing from the global generator
    )


def _as_is(batch):
    return batch
