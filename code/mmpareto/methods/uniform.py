"""Uniform baseline: every loss has weight 1."""

from torch import Tensor

from ..fusions.base import Fusion
from .base import Method, Record, all_losses


class Uniform(Method):
    """L = L_joint + sum_k L_k, in one backward pass; of tasks, the sum of theirs."""

    @staticmethod
    def runs_with(fusion: type[Fusion]) -> bool:
        return True

    def backward(self, inputs: dict, targets: Tensor, *, share=1.0, last=True) -> Record:
        output = self.forward(inputs)
        losses = all_losses(output, targets)
        loss = sum(losses.values())
        self.descend(loss, share, last)
        return Record(loss, losses)
