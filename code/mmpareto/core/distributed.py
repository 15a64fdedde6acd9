"""One run on several processes, as torchrun starts them; rank r trains on its share of every batch.

In a single process these functions change nothing. All ranks call every function alike.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")
PATIENCE = timedelta(minutes=30)  # how long to wait for a rank that is silent


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
    """Join the other processes, if torchrun has started any."""
    if not is_launched() or dist.is_initialized():
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    _call(dist.init_process_group, backend, timeout=PATIENCE)
    yield
    dist.destroy_process_group()  # not after an error: the others may never get here


def own(items: Sequence[T]) -> Sequence[T]:
    """Return this rank's share: every size-th item."""
    return items[rank() :: size()]


def barrier() -> None:
    gather(None)


def gather(value: T) -> list[T]:
    """Return the values of all ranks, in their order."""
    values = [value] * size()
    if size() > 1:
        _call(dist.all_gather_object, values, value)
    return values


def joined_lists(part: list[T]) -> list[T]:
    """Return the lists of all ranks as one, in the order in which `own` has shared items out."""
    parts = gather(part)
    return [p[turn] for turn in range(max(map(len, parts))) for p in parts if turn < len(p)]


def same(value: T) -> T:
    """Return the first rank's value."""
    return gather(value)[0]


def total(x: Tensor) -> Tensor:
    """Return the sum of a small tensor over the ranks."""
    if size() > 1:
        x = x.clone()
        _call(dist.all_reduce, x)
    return x


def mean(x: Tensor) -> Tensor:
    return total(x) / size() if size() > 1 else x


def rows(x: Tensor) -> Tensor:
    """Return the rows (B, ...) of all ranks, (size B, ...), for a loss that compares them all.

    If every rank computes that loss, the mean of the ranks' gradients is its gradient.
    """
    if size() == 1:
        return x
    every = x.new_zeros(size(), *x.shape)
    every[rank()] = x.detach()
    every = total(every)
    every[rank()] = x.detach() + size() * (x - x.detach())  # x, but size times its gradient
    return every.flatten(0, 1)


def average(tensors: Iterable[Tensor]) -> None:
    """Replace every tensor by its mean over the ranks, with one reduction for all of them."""
    _change(tensors, lambda flat: _call(dist.all_reduce, flat.div_(size())))


def copy_from_first(tensors: Iterable[Tensor]) -> None:
    """Replace every tensor by the first rank's."""
    _change(tensors, lambda flat: _call(dist.broadcast, flat, 0))


@torch.no_grad()
def _change(tensors: Iterable[Tensor], change: Callable[[Tensor], None]) -> None:
    """Change tensors in place, joined to one vector for each dtype."""
    if size() == 1:
        return
    tensors = list(tensors)
    for dtype in dict.fromkeys(t.dtype for t in tensors):
        alike = [t for t in tensors if t.dtype == dtype]
        flat = torch.cat([t.reshape(-1) for t in alike])
        change(flat)
        for t, part in zip(alike, flat.split([t.numel() for t in alike]), strict=True):
            t.copy_(part.view(t.shape))


def _call(collective: Callable, *arguments, **settings) -> None:
    """Call a function of torch.distributed; raise Lost if it fails."""
    try:
        collective(*arguments, **settings)
    except (RuntimeError, ConnectionError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise Lost(
            f"this process has lost the others of its run ({reason}): one has ended or cannot be "
            "reached: read that process's own message"
        ) from None
