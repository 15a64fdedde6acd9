"""A small transformer for any modality: patches of pictures, sequences, or text as integers."""

from functools import partial
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...data.samples import Modality
from .base import Encoder, without_padding

LAYERS, WIDTH, HEADS = 4, 64, 4
PICTURES = ("image", "spectrogram", "frames", "flow")


class Transformer(Encoder):
    """Four pre-norm layers of width 64 on tokens with learned positions; a class token comes first.

    Pictures, spectrograms, frames and flow are cut into patches of 16x16, of 4x4 if they are no
    larger than 64 pixels; an array (L, ...) is L tokens, a vector one; text is one token for each
    integer. No token attends to padding.
    """

    out_dim = WIDTH
    takes_padding = True

    def __init__(self, modality: Modality):
        super().__init__()
        self.kind = modality.kind
        if modality.vocabulary:
            self.embedding = nn.Embedding(modality.vocabulary, WIDTH, padding_idx=0)
            count = modality.shape[0]
        else:
            kind = Patches if modality.kind in PICTURES else Sequence
            self.embedding = embedding = kind(modality)
            count = embedding.count
        self.start = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.positions = nn.Parameter(torch.randn(1, 1 + count, WIDTH) * 0.02)
        style = {"activation": "gelu", "batch_first": True, "norm_first": True}
        layer = partial(nn.TransformerEncoderLayer, WIDTH, HEADS, 4 * WIDTH, 0.0, **style)
        self.stages = nn.Sequential(*(layer() for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(WIDTH)

    def embed(self, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return tokens (B, 1 + L, D), and which are padding (B, 1 + L), None without padding."""
        padding = None
        if self.kind == "sequence":
            inputs, padding = without_padding(inputs)
        elif self.kind == "tokens":
            padding = inputs.eq(0)
        tokens = self.embedding(inputs)
        start = self.start.expand(len(tokens), -1, -1)
        padding = padding if padding is None else F.pad(padding, (1, 0))
        return torch.cat([start, tokens], dim=1) + self.positions, padding

    def summary(self, tokens: Tensor) -> Tensor:
        """Return the features (B, D) of tokens after the last layer."""
        return self.norm(tokens[:, 0])

    def forward(self, inputs: Tensor) -> Tensor:
        tokens, padding = self.embed(inputs)
        for layer in self.stages:
            tokens = layer(tokens, src_key_padding_mask=padding)
        return self.summary(tokens)


class Patches(nn.Module):
    """Tokens (B, T * patches, D) of pictures (B, [T,] C, H, W), padded with zeros at their ends."""

    def __init__(self, modality: Modality):
        super().__init__()
        *frames, channels, height, width = modality.shape
        self.side = 4 if max(height, width) <= 64 else 16
        self.margin = (0, -width % self.side, 0, -height % self.side)
        patches = -(-height // self.side) * -(-width // self.side)
        self.count = prod(frames) * patches
        self.project = nn.Linear(channels * self.side**2, WIDTH)

    def forward(self, inputs: Tensor) -> Tensor:
        pictures = F.pad(inputs if inputs.dim() == 4 else inputs.flatten(0, 1), self.margin)
        patches = F.pixel_unshuffle(pictures, self.side).flatten(2).transpose(1, 2)
        return self.project(patches).reshape(len(inputs), self.count, WIDTH)


class Sequence(nn.Module):
    """Tokens (B, L, D) of arrays (B, L, ...), or one token of a vector."""

    def __init__(self, modality: Modality):
        super().__init__()
        self.count = modality.shape[0] if len(modality.shape) > 1 else 1
        self.project = nn.Linear(prod(modality.shape) // self.count, WIDTH)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.project(inputs.reshape(len(inputs), self.count, -1))
