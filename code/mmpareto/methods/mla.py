"""MLA: multimodal learning with alternating unimodal adaptation (Zhang et al., CVPR 2024)."""

from argparse import Namespace

import torch
from torch import Tensor

from ..core import distributed
from ..data.samples import Batch
from ..models.fusions.base import Fusion, Output, total
from ..models.fusions.shared_head import SharedHead
from .base import Decision, Method


class MLA(Method):
    """Each batch trains one modality after the other: encoder k and the shared head, by L_k.

    What the head has learnt from the features before is protected. Its weight takes the gradient
    G P instead of G (C, D). P (D, D) is the identity at first. After each turn, with r (D,) the
    mean of the turn's features z_k and v = P r,

        P <- P - v v^T / (alpha + r^T v), then P <- P / ||P||_F, with alpha = 0.1^(1 + t),

    where t in [0, 1) is the share of the epoch that has passed. P is kept for the whole run. Its
    length 1 shortens the head's steps to about 1 / sqrt(D) of plain ones. The joint prediction,
    which nothing here trains, is the fusion's.

    The released code takes k's own features before k's gradient (--head_gradient current), so that
    they damp it. But it looks for a parameter of another name, so that in effect the head takes G
    (--head_gradient plain). It would divide by alpha + r v^T elementwise, and would keep the graph.
    """

    default_fusion = "shared_head"

    @classmethod
    def add_flags(cls, parser) -> None:
        # fmt: off
        parser.add_argument("--head_gradient", choices=("previous", "current", "plain"),
            default="previous",
            help="the features whose directions the head's gradient spares: those of the turns "
                 "before, also those of the current turn, or none, as the released code does")
        # fmt: on

    @staticmethod
    def runs_with(fusion: type[Fusion]) -> bool:
        return issubclass(fusion, SharedHead)

    def __init__(self, model: SharedHead, flags: Namespace):
        super().__init__(model, flags)
        self.weight, self.names = model.head.weight, list(model.encoders)
        self.turns = len(self.names)
        self.batches, self.steps = 0, 1  # groups of batches of this epoch: begun before, all
        self._means: list[Tensor] = []  # of the micro-batches' features since the last step
        self.state["P"] = torch.eye(self.weight.shape[1]).to(self.weight)

    def start_epoch(self, trainer) -> None:
        super().start_epoch(trainer)
        self.batches, self.steps = 0, trainer.steps

    def forward(self, batch: Batch) -> Output:
        name = self.names[self.turn]
        return self.model({name: batch.inputs[name]})

    def decide(self, output: Output, batch: Batch) -> Decision:
        losses = output.unimodal_losses(batch.targets)
        self._means.append(total(output.features.values()).detach().mean(0))
        return Decision(total(losses.values()), losses)

    @torch.no_grad()
    def adjust(self) -> dict[str, Tensor]:
        mean, self._means = torch.stack(self._means).mean(0), []
        rule, past = self.flags.head_gradient, self.batches
        self.batches += self.turn == self.turns - 1
        if rule == "plain":
            return {}
        seen, gradient = self.state["P"], self.weight.grad
        assert gradient is not None
        length = gradient.norm()
        if rule == "previous":
            gradient.copy_(gradient @ seen)
        is_first = self.epoch == 1 and past == self.turn == 0
        if rule == "previous" or not is_first:  # the release leaves the first turn out
            alpha = 0.1 ** (1 + past / self.steps)
            seen.copy_(updated(seen, distributed.mean(mean), alpha))
        if rule == "current":
            gradient.copy_(gradient @ seen)
        left = gradient.norm() / length.clamp(min=torch.finfo(length.dtype).tiny)
        return {f"head_gradient_{self.names[self.turn]}": left}


def updated(seen: Tensor, mean: Tensor, alpha: float) -> Tensor:
    """Returns the next P (D, D), from P and the mean features (D,); P stays if nothing is left."""
    v = seen @ mean
    new = seen - torch.outer(v, v) / (alpha + (mean @ v).clamp(min=0))
    length = new.norm()
    return torch.where(length > 0, new / length, seen)
