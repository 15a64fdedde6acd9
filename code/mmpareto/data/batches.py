"""The batches that training and evaluation read from a split."""

from collections.abc import Iterator
from resource import RLIM_INFINITY, RLIMIT_NOFILE, getrlimit

import torch
from torch.utils.data import DataLoader

from ..core import distributed
from ..system.errors import UserError, reason
from ..system.processes import begin_worker, held_back
from .samples import Batch, Split


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
        return ((list(distributed.own(batch)), draw) for batch in batches)


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
    begin_worker()


def _as_is(batch):
    return batch
