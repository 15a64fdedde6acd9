"""Late fusion by a scaled sum of the modalities' own predictions: an ensemble, as in boosting."""

import torch
from torch import Tensor, nn

from ..encoders.base import Encoder
from .base import Fusion, total

WIDTH = 256  # of the hidden layer


class Boosted(Fusion):
    """F = beta sum_k o_k, with o_k = B_k relu(A_k z_k + a_k) + b_k (Hua et al., ICML 2024).

    beta is a parameter, 1 at first. The released code may also share one head between modalities.
    """

    own_heads = False

    def __init__(self, encoders: dict[str, Encoder], classes: int):
        super().__init__(encoders, classes)
        for name, encoder in encoders.items():
            layers = nn.Linear(encoder.out_dim, WIDTH), nn.ReLU(), nn.Linear(WIDTH, classes)
            self.unimodal_heads[name] = nn.Sequential(*layers)
        self.beta = nn.Parameter(torch.ones(()))

    def read_out(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return beta o_k of each modality."""
        return {name: self.beta * self.unimodal_heads[name](z) for name, z in features.items()}

    def joint(self, features: dict[str, Tensor]) -> Tensor:
        return total(self.read_out(features).values())
