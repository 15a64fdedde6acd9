"""Fusions in which one modality acts on all others, as in OGM-GE: FiLM and gated."""

import torch
from torch import Tensor, nn

from ...system.errors import UserError
from ..encoders.base import Encoder
from .base import Fusion, common_width, heads, total


class Conditioned(Fusion):
    """A fusion in which the features of the modality `conditioner` act on all others.

    The joint logits are no sum of parts; `read_out` gives them with all other features at zero.
    """

    @staticmethod
    def add_flags(parser) -> None:
        # fmt: off
        parser.add_argument("--conditioner", metavar="MODALITY",
            help="the modality that acts on the others (default: the first)")
        # fmt: on

    def __init__(
        self, encoders: dict[str, Encoder], classes: int, *, conditioner: str | None = None
    ):
        super().__init__(encoders, classes)
        self.conditioner = conditioner or next(iter(encoders))
        if self.conditioner not in encoders or len(encoders) < 2:
            raise UserError(
                f"--conditioner {self.conditioner}: one of two or more modalities expected, the "
                f"data has {', '.join(encoders)}"
            )
        self.others = [name for name in encoders if name != self.conditioner]

    def read_out(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return {modality: the joint logits (B, C) of its features alone}."""
        absent = {name: torch.zeros_like(z) for name, z in features.items()}
        return {name: self.joint({**absent, name: z}) for name, z in features.items()}


class FiLM(Conditioned):
    """One modality scales and shifts the others' features (Perez et al., AAAI 2018).

    o = W_o sum_k (gamma_k * z_k + beta_k) + b_o, with (gamma_k; beta_k) = W_k z_1 + b_k. z_1 are
    the conditioner's features, k runs over the others; more than one of them is our extension.
    """

    def __init__(self, encoders: dict[str, Encoder], classes: int, **settings):
        super().__init__(encoders, classes, **settings)
        remedies = ", another --conditioner, or --fusion gated"
        width = common_width({name: encoders[name] for name in self.others}, "film", remedies)
        self.condition = nn.ModuleDict(
            {name: nn.Linear(encoders[self.conditioner].out_dim, 2 * width) for name in self.others}
        )
        self.joint_head = nn.Linear(width, classes)

    def joint(self, features: dict[str, Tensor]) -> Tensor:
        parts = []
        for name, layer in self.condition.items():
            gamma, beta = layer(features[self.conditioner]).chunk(2, dim=1)
            parts += [gamma * features[name], beta]
        return self.joint_head(total(parts))


class Gated(Conditioned):
    """One modality opens and closes the others' features (Kiela et al., AAAI 2018).

    o = W_o sum_k sigmoid(W_1 z_1 + b_1) * (W_k z_k + b_k) + b_o. z_1 are the conditioner's
    features, whose width all projections have; k runs over the others; more than one is ours.
    """

    def __init__(self, encoders: dict[str, Encoder], classes: int, **settings):
        super().__init__(encoders, classes, **settings)
        width = encoders[self.conditioner].out_dim
        self.project = heads(encoders, width)
        self.joint_head = nn.Linear(width, classes)

    def joint(self, features: dict[str, Tensor]) -> Tensor:
        projected = {name: layer(features[name]) for name, layer in self.project.items()}
        gate = torch.sigmoid(projected[self.conditioner])
        return self.joint_head(total(gate * projected[name] for name in self.others))
