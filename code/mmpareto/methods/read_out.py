"""What the methods share that look at the joint head's prediction from each modality alone."""

import torch
from torch import Tensor

from ..models.fusions.base import Fusion
from .base import JointMethod


class ReadOutMethod(JointMethod):
    """A method that needs `Fusion.read_out`."""

    @staticmethod
    def runs_with(fusion: type[Fusion]) -> bool:
        return fusion.read_out is not Fusion.read_out


@torch.no_grad()
def scores_of(logits: dict[str, Tensor], targets: Tensor) -> Tensor:
    """Returns (N,): the softmax of the true class, summed over a batch, from N logits (B, C)."""
    right = [u.softmax(1).gather(1, targets[:, None]).sum() for u in logits.values()]
    return torch.stack(right)
