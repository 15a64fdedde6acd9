"""What the methods share that minimise a weighted sum of all losses."""

from argparse import Namespace

from torch import Tensor

from ..data.samples import Batch
from ..models.fusions.base import Fusion, Output, total
from .base import Decision, Method


class WeightedMethod(Method):
    """L = sum_i w_i L_i, in one backward pass; a subclass defines `weights`.

    The K = N + 1 losses are the joint one and every modality's; with two tasks they are the tasks'.
    """

    masks = True

    @staticmethod
    def runs_with(fusion: type[Fusion]) -> bool:
        return True

    def __init__(self, model: Fusion, flags: Namespace):
        super().__init__(model, flags)
        self.names = [*([] if model.multitask else ["joint"]), *model.unimodal_heads]
        self.ones = next(model.parameters()).new_ones(len(self.names))

    def weights(self) -> Tensor:
        """Returns w (K,), in the order of `names`; called once for every micro-batch."""
        raise NotImplementedError

    def decide(self, output: Output, batch: Batch) -> Decision:
        losses = output.losses(batch.targets)
        weights = dict(zip(self.names, self.weights(), strict=True))
        loss = total(weights[name] * value for name, value in losses.items())
        measures = {f"weight_{name}": weight.detach() for name, weight in weights.items()}
        return Decision(loss, losses, measures=measures)
