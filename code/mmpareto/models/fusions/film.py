"""FiLM: one modality scales and shifts the others' features (Perez et al., AAAI 2018)."""

from functools import reduce
from operator import add

from torch import Tensor, nn

from ...system.errors import UserError
from ..encoders.base import Encoder
from .conditioned import Conditioned


class FiLM(Conditioned):
    """o = W_o sum_k (gamma_k * z_k + beta_k) + b_o, with (gamma_k; beta_k) = W_k z_1 + b_k.

    z_1 are the conditioner's features, k runs over the others; more than one is ours.
    """

    def __init__(self, encoders: dict[str, Encoder], classes: int, **settings):
        super().__init__(encoders, classes, **settings)
        widths = {name: encoders[name].out_dim for name in self.others}
        if len(set(widths.values())) > 1:
            found = ", ".join(f"{name} {width}" for name, width in widths.items())
            raise UserError(
                f"--fusion film: it adds features of one width, found {found}: choose encoders of "
                "one width, another --conditioner, or --fusion gated"
            )
        width = widths[self.others[0]]
        self.condition = nn.ModuleDict(
            {name: nn.Linear(encoders[self.conditioner].out_dim, 2 * width) for name in self.others}
        )
        self.joint_head = nn.Linear(width, classes)

    def joint(self, features: dict[str, Tensor]) -> Tensor:
        parts = []
        for name, layer in self.condition.items():
            gamma, beta = layer(features[self.conditioner]).chunk(2, dim=1)
            parts += [gamma * features[name], beta]
        return self.joint_head(reduce(add, parts))
