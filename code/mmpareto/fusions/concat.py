"""Late fusion by concatenation: one linear layer on all features. The paper's model."""

import torch
from torch import Tensor, nn

from .base import Fusion


class Concat(Fusion):
    """o = W [z_1; ...; z_N] + b."""

    def __init__(self, encoders: dict[str, nn.Module], classes: int):
        super().__init__(encoders, classes)
        self.joint_head = nn.Linear(sum(e.out_dim for e in encoders.values()), classes)

    def joint(self, features: dict[str, Tensor]) -> Tensor:
        return self.joint_head(torch.cat([features[name] for name in self.encoders], dim=1))
