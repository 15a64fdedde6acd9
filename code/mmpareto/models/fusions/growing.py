"""Late fusion of layers that join one by one, with one classifier for all of them."""

import torch
from torch import Tensor, nn

from ...system.flags import positive
from ..encoders.base import Encoder
from .base import total
from .shared_head import Weighted, weights

WIDTH = 256  # of each layer


class Growing(Weighted):
    """o_k = sum_j g(relu(A_kj z_k + c_kj)), with one linear g for all (Jiang et al., NeurIPS 2025).

    j runs over the layers of modality k that are in use: one at first. `Head.grow` adds one.
    """

    @staticmethod
    def add_flags(parser) -> None:
        # fmt: off
        add = parser.add_argument
        add("--layers", type=positive(int), default=11,
            help="the most layers that a modality can have, >= 1; all of them take memory")
        add("--weights", type=weights, metavar="RULE",
            help="weights of the modalities in the joint prediction: entropy, equal, or one number "
                 "for each with commas between them (default: 0.4,0.6 for two, equal for others)")
        # fmt: on

    def __init__(
        self,
        encoders: dict[str, Encoder],
        classes: int,
        *,
        layers: int = 11,
        weights: str | None = None,
    ):
        weights = weights or ("0.4,0.6" if len(encoders) == 2 else "equal")
        super().__init__(encoders, classes, weights=weights)
        classifier = nn.Linear(WIDTH, classes)
        for name, encoder in encoders.items():
            self.unimodal_heads[name] = Head(encoder.out_dim, layers, classifier)


class Head(nn.Module):
    """The layers of one modality. Those that are not in use get no gradient and keep still.

    They exist from the start, so that optimizers and checkpoints hold all of them.
    """

    def __init__(self, width: int, layers: int, classifier: nn.Linear):
        super().__init__()
        linear = [nn.Linear(width, WIDTH) for _ in range(layers)]
        for added in linear[1:]:
            nn.init.xavier_uniform_(added.weight)
            nn.init.zeros_(added.bias)
        self.layers = nn.ModuleList(linear)
        self.classifier = classifier
        self.register_buffer("used", torch.ones((), dtype=torch.int64))
        self.count = 1  # `used`, without a wait for the device
        self.register_load_state_dict_post_hook(lambda head, _: head._count())

    def _count(self) -> None:
        self.count = int(self.get_buffer("used"))

    def grow(self) -> None:
        """Put one more layer in use, if there is one."""
        self.get_buffer("used").add_(1).clamp_(max=len(self.layers))
        self._count()

    def parts(self, z: Tensor) -> list[Tensor]:
        """Return the logits (B, C) of each layer in use, from features (B, D)."""
        return [self.classifier(layer(z).relu()) for layer in self.layers[: self.count]]

    def forward(self, z: Tensor) -> Tensor:
        return total(self.parts(z))
