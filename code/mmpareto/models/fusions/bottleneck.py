"""Transformers that meet in a few tokens: the bottleneck fusion of MBT (Nagrani et al., 2021)."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...system.errors import UserError
from ...system.flags import non_negative, positive
from ..encoders.base import Encoder
from ..encoders.transformer import Transformer
from .base import NO_TAPS, Taps
from .sum import Mean


class Bottleneck(Mean):
    """o = mean_k (W_k z_k + b_k), with z_k of transformers that exchange in shared tokens.

    From layer fusion_layer on, counted from 0, modality k attends to its own tokens and to the
    shared ones. Each modality updates the shared tokens; the mean of these updates goes to the
    next layer. An encoder is its modality's embedding, layers and last norm; the shared tokens and
    the heads belong to none. Every loss reaches every encoder through the tokens.

    The joint loss is the cross-entropy of the mean logits; MBT takes the mean of the modalities'
    cross-entropies. MBT's released code differs further: one head and one last norm serve all
    modalities, the head starts at zero, GELU is its tanh form, norms add 1e-6 (here torch's 1e-5),
    and layers are dropped at random (stochastic depth). Here each modality has its own.
    """

    late = False
    masks = False
    default_encoder = "transformer"

    @staticmethod
    def add_flags(parser) -> None:
        # fmt: off
        parser.add_argument("--fusion_layer", type=non_negative(int), default=2,
            help="first layer with shared tokens, from 0; the number of layers means that no layer "
                 "has them")
        parser.add_argument("--bottlenecks", type=positive(int), default=4,
            help="number of shared tokens, >= 1")
        # fmt: on

    def __init__(
        self, encoders: dict[str, Encoder], classes: int, *, fusion_layer: int = 2, bottlenecks=4
    ):
        super().__init__(encoders, classes)
        for name, encoder in encoders.items():
            if not isinstance(encoder, Transformer):
                raise UserError(
                    f"--fusion bottleneck: the encoder of {name} ({type(encoder).__name__}) makes "
                    "no tokens: choose transformer"
                )
        first = next(iter(encoders.values()))
        self.depth = len(first.stages)
        if fusion_layer > self.depth:
            raise UserError(
                f"--fusion_layer {fusion_layer}: the encoders have {self.depth} layers, give 0 to "
                f"{self.depth}"
            )
        self.fusion_layer = fusion_layer
        self.tokens = nn.Parameter(torch.randn(1, bottlenecks, first.out_dim) * 0.02)

    def encode(self, inputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], Taps]:
        encoders = cast(dict[str, Transformer], self.encoders)
        own, padding = {}, {}
        for name, encoder in encoders.items():
            own[name], padding[name] = encoder.embed(inputs[name])
        shared = self.tokens.expand(len(next(iter(own.values()))), -1, -1)
        for level in range(self.depth):
            met = shared if level >= self.fusion_layer else shared[:, :0]
            updated = []
            for name, encoder in encoders.items():
                tokens, mask = torch.cat([own[name], met], dim=1), padding[name]
                if mask is not None:
                    mask = F.pad(mask, (0, met.shape[1]))  # shared tokens are never padding
                tokens = encoder.stages[level](tokens, src_key_padding_mask=mask)
                own[name], seen = tokens.split([own[name].shape[1], met.shape[1]], dim=1)
                updated.append(seen)
            if level >= self.fusion_layer:
                shared = torch.stack(updated).mean(0)
        return {name: encoder.summary(own[name]) for name, encoder in encoders.items()}, NO_TAPS
