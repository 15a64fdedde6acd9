"""UW: uncertainty weighting (Kendall et al., CVPR 2018)."""

from argparse import Namespace

import torch
from torch import Tensor, nn

from ..data.samples import Batch
from ..models.fusions.base import Fusion, Output
from ..system.flags import positive
from .base import Decision
from .weighted import WeightedMethod


class UW(WeightedMethod):
    """L = sum_i exp(-s_i) L_i + c s_i, where s_i = log sigma_i^2 starts at 0 and is learned.

    c = 1/2 is the paper's loss of a classification, L_i / sigma_i^2 + log sigma_i. Its loss of a
    regression has half of the first term; multi-task codes take it for every loss, which is c = 1
    up to a factor of 2. With L_i held fixed, the weight exp(-s_i) goes to c / L_i.

    The optimizer trains s_i with the flags of all other parameters. Weight decay thus pulls the
    weights towards 1. --clip_grad leaves s_i alone.
    """

    @classmethod
    def add_flags(cls, parser) -> None:
        # fmt: off
        parser.add_argument("--penalty", type=positive(float), default=0.5, metavar="C",
            help="factor on each s, > 0: 0.5 gives the paper's loss of a classification, 1 twice "
                 "its loss of a regression")
        # fmt: on

    def __init__(self, model: Fusion, flags: Namespace):
        super().__init__(model, flags)
        self.s = nn.Parameter(torch.zeros_like(self.ones))
        self.state["s"] = self.s.data

    def parameters(self) -> list[nn.Parameter]:
        return [self.s]

    def weights(self) -> Tensor:
        return (-self.s).exp()

    def decide(self, output: Output, batch: Batch) -> Decision:
        decision = super().decide(output, batch)
        return decision._replace(loss=decision.loss + self.flags.penalty * self.s.sum())
