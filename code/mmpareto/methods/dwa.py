"""DWA: dynamic weight average (Liu et al., CVPR 2019)."""

from argparse import Namespace

import torch
from torch import Tensor

from ..core import distributed
from ..data.samples import Batch
from ..models.fusions.base import Fusion, Output, total
from ..system.flags import positive
from .base import Decision
from .weighted import WeightedMethod


class DWA(WeightedMethod):
    """L = sum_i w_i L_i with w = K softmax(r / T): a loss that falls slower weighs more.

    r_i = L_i(t - 1) / L_i(t - 2), where L_i(t) is the mean of the training loss i over the steps of
    epoch t. In the first two epochs, and where a ratio is not finite, all weights are 1 (the second
    is ours).
    """

    @classmethod
    def add_flags(cls, parser) -> None:
        # fmt: off
        parser.add_argument("--temperature", type=positive(float), default=2.0,
            help="T, > 0: the larger, the more equal are the weights")
        # fmt: on

    def __init__(self, model: Fusion, flags: Namespace):
        super().__init__(model, flags)
        self._seen: list[Tensor] = []  # losses of the micro-batches since the last step
        self.state["sums"] = torch.zeros_like(self.ones)  # of the losses in this epoch
        self.state["steps"] = torch.zeros_like(self.ones[0])
        # The losses of the two epochs before this one, the later one first.
        self.lasting["means"] = self.ones.repeat(2, 1).fill_(torch.nan)

    def start_epoch(self, trainer) -> None:
        super().start_epoch(trainer)
        mean = self.state["sums"] / self.state["steps"]
        self.lasting["means"].copy_(torch.stack([mean, self.lasting["means"][0]]))
        self.state["sums"].zero_(), self.state["steps"].zero_()

    def weights(self) -> Tensor:
        last, before = self.lasting["means"]
        weights = len(self.names) * (last / before / self.flags.temperature).softmax(0)
        return torch.where(weights.isfinite().all(), weights, 1.0)

    def decide(self, output: Output, batch: Batch) -> Decision:
        decision = super().decide(output, batch)
        self._seen.append(torch.stack([x.detach() for x in decision.losses.values()]))
        return decision

    def adjust(self) -> dict[str, Tensor]:
        seen, self._seen = self._seen, []
        self.state["sums"] += distributed.mean(total(seen) / len(seen))
        self.state["steps"] += 1
        return {}
