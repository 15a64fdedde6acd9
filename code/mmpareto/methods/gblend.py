"""G-Blend: gradient blending (Wang et al., CVPR 2020)."""

from argparse import Namespace

import torch
from torch import Tensor

from ..data.batches import loader
from ..models.fusions.base import Fusion
from ..models.predict import mean_losses
from ..system.flags import positive
from .weighted import WeightedMethod

FLAT = 1e-12  # a squared change of the overfitting gap below this counts as none


class GBlend(WeightedMethod):
    """L = w_J L_joint + sum_k w_k L_k: a loss that generalises more and overfits less weighs more.

    The weights are estimated once (offline), or before every --super_epoch epochs (online). Each
    loss trains a copy of the model alone, for as many epochs. The loss's fall on the validation
    split is its generalisation G, the growth of its gap between both splits its overfitting O. Its
    weight is max(G, 0) / O^2, and all weights are made to sum to --weight_sum. Losses are means
    over samples in evaluation mode, first measured before the copies train. The copies start with
    the optimizer's state and are thrown away. All unimodal losses train one copy, in which they do
    not touch each other. Clamping at zero is ours; if nothing generalises, all weights are equal.

    In the paper the weights sum to 1; a sum of N + 1 is that of the uniform baseline.
    """

    needs_validation = True
    fixed_on_resume = frozenset({"epochs"})  # an estimate trains as long as the run

    @classmethod
    def add_flags(cls, parser) -> None:
        # fmt: off
        add = parser.add_argument
        add("--super_epoch", type=positive(int), metavar="EPOCHS",
            help="epochs between two estimates of the weights, >= 1 (default: all, one estimate)")
        add("--weight_sum", type=positive(float), default=1.0, help="sum of all weights, > 0")
        # fmt: on

    @staticmethod
    def runs_with(fusion: type[Fusion]) -> bool:
        return fusion.late and fusion.own_heads and not fusion.multitask

    def __init__(self, model: Fusion, flags: Namespace):
        super().__init__(model, flags)
        self.names = [*model.encoders, "joint"]
        device = next(model.parameters()).device
        self.state["weights"] = torch.full((len(self.names),), torch.nan, device=device)

    def start_epoch(self, trainer) -> None:
        super().start_epoch(trainer)
        last = trainer.flags.epochs
        length = self.flags.super_epoch or last
        if trainer.epoch % length == 0:
            weights = self.estimate(trainer, min(length, last - trainer.epoch))
            self.state["weights"].copy_(weights * self.flags.weight_sum)

    def weights(self) -> Tensor:
        return self.state["weights"]

    def estimate(self, trainer, epochs: int) -> Tensor:
        """Returns weights that sum to 1, after training each loss alone for epochs."""
        before = self.gap(trainer)
        after: dict[str, dict[str, float]] = {"train": {}, "val": {}}
        for method, names in (("unimodal", self.names[:-1]), ("joint", self.names[-1:])):
            copy = trainer.fork(method, no_probes=True)
            for _ in range(epochs):
                copy.train_epoch()
                copy.scheduler.step()
                copy.epoch += 1
            for split, losses in self.gap(copy).items():
                after[split] |= {name: losses[name] for name in names}
        rows = (losses[split] for losses in (before, after) for split in ("train", "val"))
        return blend(*(torch.tensor([row[name] for name in self.names]) for row in rows))

    @staticmethod
    def gap(trainer) -> dict[str, dict[str, float]]:
        """Returns {split: every loss on it}, for train and val."""
        flags, found = trainer.flags, {}
        for split in ("train", "val"):
            batches = loader(trainer.data.splits[split], flags.batch_size, workers=flags.workers)
            found[split] = mean_losses(trainer.model, batches, trainer.device, flags.limit_batches)
        return found


def blend(train_before: Tensor, val_before: Tensor, train_after: Tensor, val_after: Tensor):
    """Returns weights that sum to 1, from the losses before and after (one entry a loss)."""
    generalisation = val_before - val_after
    overfitting = (val_after - train_after) - (val_before - train_before)
    raw = generalisation.clamp(min=0) / overfitting.square().clamp(min=FLAT)
    equal = torch.full_like(raw, 1 / len(raw))
    return torch.where(raw.sum() > 0, raw / raw.sum(), equal)
