"""The face of every model: encoders, a joint prediction, and one unimodal head per modality."""

from argparse import Namespace
from typing import NamedTuple

from torch import Tensor, nn


class Output(NamedTuple):
    """What a model says of a batch of B samples; C classes."""

    joint: Tensor  # logits (B, C)
    unimodal: dict[str, Tensor]  # logits (B, C) of each modality's own head
    features: dict[str, Tensor]  # (B, out_dim) of each encoder


class Fusion(nn.Module):
    """Encoders whose features meet in `joint`; a subclass defines that method and its layers.

    encoders: {modality: encoder}. late: whether modalities meet only in `joint`, after the
    encoders; a subclass that lets them exchange earlier says False and replaces `encode`.

    A fusion whose joint logits are the sum or the mean of one part per modality also defines
    `read_out(features) -> {modality: logits (B, C)}`, those parts: what the joint head itself
    makes of each modality. Methods that score modalities by it run with no other fusion.
    """

    late = True

    def __init__(self, encoders: dict[str, nn.Module], classes: int):
        super().__init__()
        self.encoders = nn.ModuleDict(encoders)
        self.unimodal_heads = nn.ModuleDict(
            {name: nn.Linear(encoder.out_dim, classes) for name, encoder in encoders.items()}
        )

    @staticmethod
    def add_flags(parser) -> None:
        """Add the fusion's own flags to an argparse parser."""

    @classmethod
    def build(cls, encoders: dict[str, nn.Module], classes: int, options: Namespace) -> "Fusion":
        """The fusion that the parsed flags, its own among them, ask for."""
        return cls(encoders, classes)

    def joint(self, features: dict[str, Tensor]) -> Tensor:
        """Joint logits (B, C)."""
        raise NotImplementedError

    def encode(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: encoder(inputs[name]) for name, encoder in self.encoders.items()}

    def read(self, features: dict[str, Tensor]) -> Output:
        """All predictions from given features; from detached ones it trains probes only."""
        unimodal = {name: head(features[name]) for name, head in self.unimodal_heads.items()}
        return Output(self.joint(features), unimodal, features)

    def forward(self, inputs: dict[str, Tensor]) -> Output:
        return self.read(self.encode(inputs))
