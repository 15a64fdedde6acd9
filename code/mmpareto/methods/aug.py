"""AUG: boosting the weak modality by layers of its own (Jiang et al., NeurIPS 2025)."""

from argparse import Namespace
from math import ceil
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core import distributed
from ..data.samples import Batch
from ..models.fusions.base import Fusion, Output, total
from ..models.fusions.growing import Growing, Head
from ..system.errors import UserError
from ..system.flags import positive
from .base import Decision, Method


class AUG(Method):
    """Each batch trains one modality after the other; the one that lags gets a layer more.

    With one layer, L_k = CE(o_k). With more, o_k = old + new, where new is the newest layer's part:

        L_k = CE(o_k) + CE(old) + CE(new) - 1/2 mean_b(-p_old,y log p_new,y).

    p_y is the softmax of the true class, p_old is a constant. The last term takes a part of CE(new)
    back where the older layers are already right. After the first epoch and every --grow_every
    epochs, each modality's sum of p_y over the epoch, by o_k in training, decides: if the first
    one's is above 1.01 times the second's, the second gets a layer, below 0.99 times the first.
    Neither loss reaches the other modality's parameters, except for the shared classifier.

    The released code never gives the added layers to its optimizer, so they stay at their random
    initial values (--frozen_layers).
    """

    turns = 2
    default_fusion = "growing"
    fixed_on_resume = frozenset({"epochs"})  # it says when layers are added

    @classmethod
    def add_flags(cls, parser) -> None:
        # fmt: off
        add = parser.add_argument
        add("--grow_every", type=positive(int), metavar="EPOCHS",
            help="epochs between two added layers, >= 1 (default: a tenth of --epochs, rounded up)")
        add("--frozen_layers", action="store_true",
            help="leave the added layers untrained, as the released code does")
        # fmt: on

    @staticmethod
    def runs_with(fusion: type[Fusion]) -> bool:
        return issubclass(fusion, Growing)

    def __init__(self, model: Fusion, flags: Namespace):
        super().__init__(model, flags)
        self.names = list(model.encoders)
        if len(self.names) != 2:
            raise UserError(
                f"--method aug compares two modalities, found {', '.join(self.names)}: choose data "
                "of two modalities, or another --method"
            )
        self.every = flags.grow_every or ceil(flags.epochs / 10)
        self.heads = [cast(Head, model.unimodal_heads[name]) for name in self.names]
        most = 1 + ceil((flags.epochs - 1) / self.every)
        if most > (layers := len(self.heads[0].layers)):
            raise UserError(
                f"--layers {layers}: with a new one every {self.every} of {flags.epochs} epochs, a "
                f"modality may get {most}: give --layers {most}, or a larger --grow_every"
            )
        if flags.frozen_layers:
            for head in self.heads:
                head.layers[1:].requires_grad_(False)
        self._right: list[Tensor] = []  # sums of p_y of the micro-batches since the last step
        one = next(model.parameters())
        self.state["scores"] = one.new_zeros(2)  # sums of p_y over the epoch

    def start_epoch(self, trainer) -> None:
        super().start_epoch(trainer)
        scores = self.state["scores"]
        if trainer.epoch and (trainer.epoch - 1) % self.every == 0:
            first, second = scores.tolist()
            if first > 1.01 * second:
                self.heads[1].grow()
            elif first < 0.99 * second:
                self.heads[0].grow()
        scores.zero_()

    def forward(self, batch: Batch) -> Output:
        name = self.names[self.turn]
        return self.model({name: batch.inputs[name]})

    def decide(self, output: Output, batch: Batch) -> Decision:
        ((name, z),), targets = output.features.items(), batch.targets
        losses = output.unimodal_losses(targets)
        right = output.unimodal[name].detach().softmax(1).gather(1, targets[:, None])
        self._right.append(right.sum())
        loss, head = losses[name], self.heads[self.turn]
        if head.count == 1:
            return Decision(loss, losses)
        *older, new = head.parts(z)
        more = newest(total(older), new, targets, self.model.criterion)
        return Decision(loss, losses, minimised=loss + more, measures={"newest": more.detach()})

    def adjust(self) -> dict[str, Tensor]:
        right, self._right = total(self._right), []
        self.state["scores"][self.turn] += distributed.total(right)
        layers = {f"layers_{n}": h.count for n, h in zip(self.names, self.heads, strict=True)}
        return {name: torch.tensor(float(count)) for name, count in layers.items()}


def newest(old: Tensor, new: Tensor, targets: Tensor, criterion=F.cross_entropy) -> Tensor:
    """Returns CE(old) + CE(new) - 1/2 mean(-p_old,y log p_new,y) of logits (B, C)."""
    known = -F.cross_entropy(old, targets, reduction="none").detach()
    each = criterion(new, targets, reduction="none")
    return criterion(old, targets) + ((1 - known.exp() / 2) * each).mean()
