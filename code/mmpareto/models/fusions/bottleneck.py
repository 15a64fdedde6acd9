"""Transformers that meet in a few tokens: the bottleneck fusion of MBT (Nagrani et al., 2021)."""

from argparse import Namespace
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from ...data.samples import Data
from ...system.errors import UserError
from ...system.flags import non_negative, positive
from ..encoders.base import Encoder
from ..encoders.transformer import Transformer
from .base import NO_TAPS, Taps
from .sum import Mean


class Bottleneck(Mean):
    """o = mean_k (W_k z_k + b_k), with z_k of transformers that exchange in shared tokens.

    In layer fusion_layer and those after it, counted from 0, modality k attends to its own tokens
    and to the shared ones, and the mean over the modalities of what they make of these goes on to
    the next layer. An encoder is its modality's embedding, layers and last norm; the shared tokens
    and the heads belong to none. Every loss reaches every encoder through the tokens.

    Training takes the cross-entropy of the mean logits as the joint loss, where the MBT paper
    takes the mean of each modality's; its stochastic depth is left out.
    """

    late = False
    default_encoder = "transformer"

    @staticmethod
    def add_flags(parser) -> None:
        # fmt: off
        parser.add_argument("--fusion_layer", type=non_negative(int), default=2,
            help="first layer with shared tokens, from 0; the number of layers: none")
        parser.add_argument("--bottlenecks", type=positive(int), default=4,
            help="number of shared tokens, >= 1")
        # fmt: on

    @classmethod
    def build(cls, encoders: dict[str, Encoder], data: Data, flags: Namespace) -> "Bottleneck":
        settings = {"fusion_layer": flags.fusion_layer, "bottlenecks": flags.bottlenecks}
        return cls(encoders, len(data.classes), **settings)

    def __init__(
        self,
        encoders: dict[str, Encoder],
        classes: int,
        *,
        fusion_layer: int = 2,
        bottlenecks: int = 4,
    ):
        super().__init__(encoders, classes)
        transformers(encoders.items())
        self.depth = len(next(iter(encoders.values())).stages)
        if fusion_layer > self.depth:
            raise UserError(
                f"--fusion_layer {fusion_layer}: the encoders have {self.depth} layers, give 0 to "
                f"{self.depth}"
            )
        self.fusion_layer = fusion_layer
        width = next(iter(encoders.values())).out_dim
        self.tokens = nn.Parameter(torch.randn(1, bottlenecks, width) * 0.02)

    def encode(self, inputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], Taps]:
        encoders = transformers(self.encoders.items())
        own, padding = {}, {}
        for name, encoder in encoders.items():
            own[name], padding[name] = encoder.embed(inputs[name])
        samples = len(next(iter(own.values())))
        shared = self.tokens.expand(samples, -1, -1)
        for level in range(self.depth):
            met = shared if level >= self.fusion_layer else shared[:, :0]
            updated = []
            for name, encoder in encoders.items():
                tokens = torch.cat([own[name], met], dim=1)
                tokens = encoder.stages[level](
                    tokens, src_key_padding_mask=extended(padding[name], met)
                )
                own[name], seen = tokens.split([own[name].shape[1], met.shape[1]], dim=1)
                updated.append(seen)
            if level >= self.fusion_layer:
                shared = torch.stack(updated).mean(0)
        return {name: encoder.summary(own[name]) for name, encoder in encoders.items()}, NO_TAPS


def transformers(encoders: Iterable[tuple[str, Encoder]]) -> dict[str, Transformer]:
    """Encoders under their names; UserError where one is no transformer."""
    found = {}
    for name, encoder in encoders:
        if not isinstance(encoder, Transformer):
            raise UserError(
                f"--fusion bottleneck: the encoder of {name} ({type(encoder).__name__}) makes "
                "no tokens: choose transformer"
            )
        found[name] = encoder
    return found


def extended(padding: Tensor | None, more: Tensor) -> Tensor | None:
    """A mask (B, L), True where a token is padding, for more tokens (B, M, D) that are none."""
    if padding is None:
        return None
    return torch.cat([padding, padding.new_zeros(more.shape[:2])], dim=1)
