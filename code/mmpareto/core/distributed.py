"""One run on several processes, as torchrun starts them; rank r trains on its share of every batch.

In a single process nothing here does anything. Every function is called by all ranks alike.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")
PATIENCE = timedelta(minutes=30)  # for a rank that neither answers nor is known to have ended


class Lost(Exception):
    """Another process of the run has ended, or cannot be reached."""


def size() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def is_first() -> bool:
    """Whether this process writes the files and the console."""
    return rank() == 0


def is_launched() -> bool:
    """Whether torchrun has started this process."""
    return "LOCAL_RANK" in os.environ and "WORLD_SIZE" in os.environ


@contextmanager
def joined() -> Iterator[None]:
    """Together with the other processes that torchrun has started, if it has."""
    if not is_launched() or dist.is_initialized():
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    _call(dist.init_process_group, backend, timeout=PATIENCE)
    yield
    dist.destroy_process_group()  # after an error the others may not come to it


def own(items: Sequence[T]) -> Sequence[T]:
    """This rank's share, every size-th of the items."""
    return items[rank() :: size()]


def barrier() -> None:
    gather(None)


def gather(value: T) -> list[T]:
    """What every rank has, in the order of ranks."""
    values = [value] * size()
    if size() > 1:
        _call(dist.all_gather_object, values, value)
    return values


def same(value: T) -> T:
    """What the first rank has."""
    return gather(value)[0]


def total(x: Tensor) -> Tensor:
    """The sum over ranks of a tensor that is small."""
    if size() > 1:
        x = x.clone()
        _call(dist.all_reduce, x)
    return x


def mean(x: Tensor) -> Tensor:
    return total(x) / size() if size() > 1 else x


def average(tensors: list[Tensor]) -> None:
    """Put the mean over ranks in the place of every tensor, by one reduction of all together."""
    _change(tensors, lambda flat: _call(dist.all_reduce, flat.div_(size())))


def copy_from_first(tensors: list[Tensor]) -> None:
    """Put what the first rank has in the place of every tensor."""
    _change(tensors, lambda flat: _call(dist.broadcast, flat, 0))


@torch.no_grad()
def _change(tensors: list[Tensor], change: Callable[[Tensor], None]) -> None:
    """Change tensors in place, as one vector for each dtype."""
    if size() == 1:
        return
    for dtype in dict.fromkeys(t.dtype for t in tensors):
        alike = [t for t in tensors if t.dtype == dtype]
        flat = torch.cat([t.reshape(-1) for t in alike])
        change(flat)
        for t, part in zip(alike, flat.split([t.numel() for t in alike]), strict=True):
            t.copy_(part.view(t.shape))


def _call(collective: Callable, *arguments, **settings) -> None:
    """Call a function of torch.distributed; Lost where it fails."""
    try:
        collective(*arguments, **settings)
    except (RuntimeError, ConnectionError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise Lost(
            f"this process has lost the others of its run ({reason}): one has ended or cannot be "
            "reached, its own message says why"
        ) from None
