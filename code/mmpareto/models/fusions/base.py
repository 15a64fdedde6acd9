"""The face of every model: encoders, a joint prediction, and one unimodal head per modality."""

from argparse import Namespace
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor, nn

from ...data.samples import Data
from ...system.errors import UserError

Taps = dict[str, list[Tensor]]
NO_TAPS: Taps = {}


class Output(NamedTuple):
    """What a model says of a batch of B samples; C classes."""

    joint: Tensor | None  # logits (B, C); None of a multi-task model
    unimodal: dict[str, Tensor]  # logits (B, C) of each modality's own head, or of each task's
    features: dict[str, Tensor]  # (B, out_dim) of each encoder
    taps: Taps = NO_TAPS  # what else of each encoder the joint prediction reads

    def map(self, change: Callable[[Tensor], Tensor]) -> "Output":
        """The same with every tensor changed."""
        joint, unimodal, features, taps = self
        return Output(
            None if joint is None else change(joint),
            {name: change(logits) for name, logits in unimodal.items()},
            {name: change(z) for name, z in features.items()},
            {name: [change(x) for x in maps] for name, maps in taps.items()},
        )


class Fusion(nn.Module):
    """Encoders whose features meet in `joint`; a subclass defines that method and its layers.

    encoders: {modality: encoder}. What a subclass says of itself:

    late: whether modalities meet only after the encoders; one that lets them exchange earlier says
        False and replaces `encode`.
    tapped: whether the joint prediction reads more of the encoders than their features; such a
        fusion replaces `encode` and has a `joint(features, taps)`.
    multitask: whether it learns tasks from one input instead (`multitask.MultiTask`).

    `read_out(features) -> {modality: logits (B, C)}` is what the joint head itself makes of each
    modality: its part where the joint logits are a sum or a mean of such parts, else the joint
    logits with the features of all others at zero. Methods that score modalities by it run with
    no fusion that does not define it.
    """

    late = True
    tapped = False
    multitask = False
    default_encoder: str | None = None  # for every modality; None: by the modality's kind

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
    def build(cls, encoders: dict[str, nn.Module], data: Data, options: Namespace) -> "Fusion":
        """The fusion that the parsed flags, its own among them, ask for."""
        return cls(encoders, len(data.classes))

    def objectives(self, losses: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss that all encoders have in common, and each encoder's own, under its name."""
        return losses["joint"], {name: losses[name] for name in self.encoders}

    def features_of(self, output: Output) -> dict[str, Tensor]:
        """What each encoder has made of a batch, under the encoder's name."""
        return output.features

    def joint(self, features: dict[str, Tensor]) -> Tensor:
        """Joint logits (B, C)."""
        raise NotImplementedError

    def encode(self, inputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], Taps]:
        """The features, and the taps where the joint prediction reads some."""
        return {name: encoder(inputs[name]) for name, encoder in self.encoders.items()}, NO_TAPS

    def read(self, features: dict[str, Tensor], taps: Taps = NO_TAPS) -> Output:
        """All predictions from given features and taps; from detached ones it trains probes."""
        unimodal = {name: head(features[name]) for name, head in self.unimodal_heads.items()}
        joint = self.joint(features, taps) if self.tapped else self.joint(features)
        return Output(joint, unimodal, features, taps)

    def forward(self, inputs: dict[str, Tensor]) -> Output:
        return self.read(*self.encode(inputs))


def check_stages(encoders: dict[str, nn.Module], fusion: str) -> None:
    """UserError where an encoder has no stages of feature maps that a fusion could tap."""
    for name, encoder in encoders.items():
        if not hasattr(encoder, "widths"):
            raise UserError(
                f"--fusion {fusion}: the encoder of {name} ({type(encoder).__name__}) does not "
                "say the widths of its stages: choose resnet18, cnn or mlp"
            )
