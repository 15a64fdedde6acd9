"""Late fusion by concatenation: one linear layer on all features. The paper's model."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..encoders.base import Encoder
from .base import Fusion


class Concat(Fusion):
    """o = W [z_1; ...; z_N] + b. Without modality k its part of W z drops out."""

    masks = True

    def __init__(self, encoders: dict[str, Encoder], classes: int):
        super().__init__(encoders, classes)
        self.joint_head = nn.Linear(sum(e.out_dim for e in encoders.values()), classes)

    def read_out(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return W_k z_k + b / N, with W_k the columns of modality k: the parts add up to o."""
        widths = [features[name].shape[1] for name in self.encoders]
        parts = zip(self.encoders, self.joint_head.weight.split(widths, dim=1), strict=True)
        bias = self.joint_head.bias / len(widths)
        return {name: F.linear(features[name], weight, bias) for name, weight in parts}

    def joint(self, features: dict[str, Tensor]) -> Tensor:
        return self.joint_head(torch.cat([features[name] for name in self.encoders], dim=1))
