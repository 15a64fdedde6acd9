"""Gated fusion: one modality opens and closes the others' features (Kiela et al., AAAI 2018)."""

from functools import reduce
from operator import add

import torch
from torch import Tensor, nn

from ..encoders.base import Encoder
from .conditioned import Conditioned


class Gated(Conditioned):
    """o = W_o sum_k sigmoid(W_1 z_1 + b_1) * (W_k z_k + b_k) + b_o.

    z_1 are the conditioner's features, whose width all projections have; k runs over the others,
    more than one is ours.
    """

    def __init__(self, encoders: dict[str, Encoder], classes: int, **settings):
        super().__init__(encoders, classes, **settings)
        width = encoders[self.conditioner].out_dim
        self.project = nn.ModuleDict(
            {name: nn.Linear(encoder.out_dim, width) for name, encoder in encoders.items()}
        )
        self.joint_head = nn.Linear(width, classes)

    def joint(self, features: dict[str, Tensor]) -> Tensor:
        projected = {name: layer(features[name]) for name, layer in self.project.items()}
        gate = torch.sigmoid(projected[self.conditioner])
        return self.joint_head(reduce(add, (gate * projected[name] for name in self.others)))
