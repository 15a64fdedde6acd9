"""What checkpoints tell beyond their logs: gradients at rest, and samples that two arms part."""

from argparse import Namespace
from pathlib import Path
from typing import NamedTuple

from mmpareto.data.batches import loader
from mmpareto.results.analysis import fixed
from mmpareto.run import checkpoint
from mmpareto.run.scores import predict

CPU = Namespace(device="cpu", gpu_ids=None, data_root=None)


class Gradient(NamedTuple):
    """One loss's gradient of one encoder, over a pass of the training split without a step."""

    set: str
    encoder: str
    epoch: int
    seed: int
    loss: str
    magnitude: float  # mean norm over the batches
    trace: float  # of the covariance over the batches


class Parted(NamedTuple):
    """How many test samples two arms of one seed judge differently."""

    set: str
    arms: str  # "E-A"
    seed: int
    samples: int
    first: int  # that only the first arm gets right
    second: int


def gradients(name: str, path: Path) -> list[Gradient]:
    """Look at the gradients of a checkpoint of the uniform baseline."""
    trained = checkpoint.load(path, CPU)
    found = fixed.look(trained, path, workers=0, limit=None)
    return [
        Gradient(name, encoder, trained.epoch, trained.flags.random_seed, loss,
                 numbers["mean"], numbers["trace"])
        for encoder, both in found.items()
        for loss, moments in (("joint", both.joint), ("unimodal", both.unimodal))
        for numbers in [moments.numbers()]
    ]  # fmt: skip


def parted(name: str, arms: str, first: Path, second: Path) -> Parted:
    """Compare the joint predictions of two checkpoints of one seed on the test split."""
    seed, rights = 0, []
    for path in (first, second):
        trained = checkpoint.load(path, CPU)
        split, seed = trained.part("test"), trained.flags.random_seed
        batches = loader(split, batches=trained.flags.batch_size, workers=0)
        found = predict(trained.model, batches, trained.device, trained.flags.limit_batches)
        predicted, targets = found.predictions["joint"], found.targets["joint"]
        rights.append([p == y for p, y in zip(predicted, targets, strict=True)])
    pairs = list(zip(*rights, strict=True))
    return Parted(
        name, arms, seed, len(pairs), pairs.count((True, False)), pairs.count((False, True))
    )
