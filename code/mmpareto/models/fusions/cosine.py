"""Late fusion by cosines: neither the length of features nor that of weights counts."""

import torch.nn.functional as F
from torch import Tensor, nn

from ...system.flags import positive
from ..encoders.base import Encoder
from .base import Fusion, total

SHORTEST = 1e-12  # a vector that is no longer has no direction


class Cosine(Fusion):
    """o_c = s sum_k cos(z_k, W_k,c), without bias (MMCosine; Xu et al., ICASSP 2023).

    W_k,c are the weights of class c for the features of modality k. A vector of zeros has the
    cosine 0 with all others, and no gradient; so has an absent modality.
    """

    masks = True

    @staticmethod
    def add_flags(parser) -> None:
        # fmt: off
        parser.add_argument("--logit_scale", type=positive(float), default=10.0,
            help="factor s on the cosines, > 0")
        # fmt: on

    def __init__(self, encoders: dict[str, Encoder], classes: int, *, logit_scale: float = 10.0):
        super().__init__(encoders, classes)
        self.logit_scale = logit_scale
        width = sum(encoder.out_dim for encoder in encoders.values())
        self.joint_head = nn.Linear(width, classes, bias=False)

    def read_out(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return s cos(z_k, W_k,c) of each modality."""
        widths = [features[name].shape[1] for name in self.encoders]
        parts = zip(self.encoders, self.joint_head.weight.split(widths, dim=1), strict=True)
        return {
            name: self.logit_scale * F.linear(directions(features[name]), directions(weight))
            for name, weight in parts
        }

    def joint(self, features: dict[str, Tensor]) -> Tensor:
        return total(self.read_out(features).values())


def directions(rows: Tensor) -> Tensor:
    """Return rows (n, d) at length 1; a row of zeros stays."""
    length = rows.norm(dim=1, keepdim=True)
    return rows / length.clamp(min=SHORTEST) * (length > SHORTEST)
