"""Gradients of a model that stands still (Figure 1d): their magnitudes, batch by batch.

The encoders are frozen at a checkpoint, no step is taken, and one pass over the training set
records the norm of both losses' gradients. What the figure calls covariance is the variance of
these norms; the trace of the gradients' covariance, which the argument is about, stands beside it.
"""

import statistics
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from ...core import integrate
from ...core.integrator import Integrator
from ...data.batches import ShuffledBatches, loader
from ...run.checkpoint import Trained
from ...run.setup import criterion
from ...system.errors import UserError


class Unfit(UserError):
    """A checkpoint whose gradients cannot be compared."""


class Moments:
    """Moments of one loss's gradients over batches; sums are kept in float64."""

    def __init__(self):
        self.norms: list[float] = []
        self._sum: list[Tensor] = []

    def add(self, gradient: list[Tensor], norm: float) -> None:
        if not self.norms:
            self._sum = [torch.zeros_like(x, dtype=integrate.widest(x.device)) for x in gradient]
        for total, x in zip(self._sum, gradient, strict=True):
            total.add_(x)
        self.norms.append(norm)

    def numbers(self) -> dict[str, float]:
        """Mean and variance (n - 1) of the norms, trace of the gradients' covariance.

        The trace is E ||g||^2 - ||E g||^2 over these batches.
        """
        square = statistics.fmean(norm**2 for norm in self.norms)
        return {
            "mean": statistics.fmean(self.norms),
            "variance": statistics.variance(self.norms),
            "trace": square - sum((x / len(self.norms)).square().sum().item() for x in self._sum),
        }


class Fixed(NamedTuple):
    """Statistics of one encoder's two gradients."""

    joint: Moments
    unimodal: Moments
    cosines: list[float | None]  # None where a gradient is zero

    @property
    def conflict(self) -> float:
        """The share of batches with cos <= 0."""
        return statistics.fmean(c is not None and c <= 0 for c in self.cosines)


class Looked(NamedTuple):
    """A checkpoint whose encoders were held fixed."""

    label: str
    batch_size: int
    objectives: tuple[str, ...]  # both losses' names
    encoders: dict[str, Fixed]

    def numbers(self) -> list[dict[str, Any]]:
        """A row for each encoder and loss."""
        return [
            {"encoder": name, "loss": objective, "batches": len(moments.norms),
             "batch_size": self.batch_size, **moments.numbers(), "conflict": found.conflict}
            for name, found in self.encoders.items()
            for objective, moments in zip(self.objectives, found[:2], strict=True)
        ]  # fmt: skip

    def batches(self) -> list[dict[str, Any]]:
        """A row for each encoder and batch."""
        return [
            {"encoder": name, "batch": i + 1, "joint_norm": joint.norms[i],
             "unimodal_norm": unimodal.norms[i], "cos": cos}
            for name, (joint, unimodal, cosines) in self.encoders.items()
            for i, cos in enumerate(cosines)
        ]  # fmt: skip


def look(trained: Trained, checkpoint: Path, workers: int, limit: int | None) -> dict[str, Fixed]:
    """Return {encoder: statistics of its gradients} over the batches of the next epoch.

    BatchNorm uses its training statistics; the model is left unchanged, bit for bit.
    checkpoint: where the model comes from, for messages. limit: only so many batches.
    """
    model, flags = trained.model, trained.flags
    if model.multitask and model.late:
        raise Unfit(
            f"{checkpoint}: in --fusion {flags.fusion} no encoder has two losses: its gradients "
            "cannot be compared"
        )
    split = trained.data.splits["train"]
    order = ShuffledBatches(len(split), flags.batch_size, flags.random_seed)
    order.epoch = trained.epoch + 1
    total = min(len(order), limit or len(order))
    if total < 2:
        raise Unfit(
            f"{checkpoint}: a variance needs 2 batches, here is {total} of {flags.batch_size} "
            "samples: raise --limit_batches"
        )
    model.criterion = criterion(flags, trained.data, trained.device)
    integrator = Integrator(model, model.encoders, integrate.uniform_rule, late=model.late)
    was_training, found = model.training, {}
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    model.train()
    batches = iter(loader(split, order, workers=workers))
    for _ in tqdm(range(total), "gradients", leave=False, disable=None):
        batch = next(batches).to(trained.device)
        output = model(batch.inputs, batch.present)
        objectives = model.objectives(output, output.losses(batch.targets))
        pairs = integrator.observe(objectives.joint, objectives.own)
        del output, objectives
        for name, (j, g) in pairs.items():
            jj, jg, gg = integrate.gramian(j, g).sum(1).tolist()  # sync
            if not isfinite(jj + gg):
                raise Unfit(
                    f"{checkpoint}: the gradients of {name} are not finite: give one "
                    "from before the training went astray"
                )
            fixed = found.setdefault(name, Fixed(Moments(), Moments(), []))
            fixed.joint.add(j, jj**0.5)
            fixed.unimodal.add(g, gg**0.5)
            fixed.cosines.append(jg / (jj * gg) ** 0.5 if jj and gg else None)
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
    model.train(was_training)
    return found
