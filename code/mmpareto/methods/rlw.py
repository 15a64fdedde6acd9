"""RLW: random loss weighting (Lin et al., TMLR 2022)."""

from argparse import Namespace

import torch
from torch import Tensor

from ..core import distributed
from ..models.fusions.base import Fusion
from ..system.flags import positive
from .weighted import WeightedMethod


class RLW(WeightedMethod):
    """L = sum_i w_i L_i with w = c softmax(z), and new z ~ N(0, 1) for every optimizer step.

    The paper's weights sum to c = 1. With c = K, the number of losses, they have the mean 1, as in
    `uniform`.
    """

    @classmethod
    def add_flags(cls, parser) -> None:
        # fmt: off
        parser.add_argument("--weight_sum", type=positive(float), default=1.0,
            help="sum of all weights, > 0; in uniform it is the number of losses")
        # fmt: on

    def __init__(self, model: Fusion, flags: Namespace):
        super().__init__(model, flags)
        self._drawn: Tensor | None = None  # for the micro-batches of this step

    def weights(self) -> Tensor:
        if self._drawn is None:
            z = torch.randn_like(self.ones)
            distributed.copy_from_first([z])
            self._drawn = self.flags.weight_sum * z.softmax(0)
        return self._drawn

    def adjust(self) -> dict[str, Tensor]:
        self._drawn = None
        return {}
