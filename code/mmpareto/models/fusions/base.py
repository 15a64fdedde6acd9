"""The face of every model: encoders, a joint prediction, and one unimodal head per modality."""

from argparse import Namespace
from collections.abc import Iterable
from functools import reduce
from itertools import repeat
from operator import add
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ...data.samples import Data
from ...system.errors import UserError
from ..encoders.base import Encoder, Encoders

Taps = dict[str, list[Tensor]]
NO_TAPS: Taps = {}


class Output(NamedTuple):
    """What a model says of a batch of B samples; C classes."""

    joint: Tensor | None  # logits (B, C); None of a multi-task model
    unimodal: dict[str, Tensor]  # logits (B, C) of each modality's own head, or of each task's
    features: dict[str, Tensor]  # (B, out_dim) of each encoder
    taps: Taps = NO_TAPS  # what else of each encoder the joint prediction reads

    @property
    def logits(self) -> dict[str, Tensor]:
        """{"joint": the joint logits, where there are some, modality or task: its own}."""
        joint = {} if self.joint is None else {"joint": self.joint}
        return joint | self.unimodal

    def joint_loss(self, targets: Tensor) -> Tensor:
        """Cross-entropy of the joint prediction; targets (B,)."""
        return F.cross_entropy(self.logits["joint"], targets)

    def unimodal_losses(self, targets: Tensor) -> dict[str, Tensor]:
        """The loss of each own prediction, of a modality or a task; targets (B,) or (B, tasks)."""
        own = own_targets(targets, self.unimodal)
        return {name: F.cross_entropy(u, own[name]) for name, u in self.unimodal.items()}

    def losses(self, targets: Tensor) -> dict[str, Tensor]:
        """The joint loss, where there is a joint prediction, and the unimodal ones."""
        joint = {} if self.joint is None else {"joint": self.joint_loss(targets)}
        return joint | self.unimodal_losses(targets)


class Objectives(NamedTuple):
    """The two losses that meet in each encoder."""

    joint: Tensor  # the loss that all encoders have in common
    own: dict[str, Tensor]  # {encoder: its own loss}
    features: dict[str, Tensor]  # {encoder: what it has made of the batch}


def own_targets(targets: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
    """{name: targets (B,)} of targets that all share (B,), or with a column for each (B, N)."""
    columns = targets.unbind(1) if targets.dim() == 2 else repeat(targets)
    return dict(zip(names, columns, strict=False))


class Fusion(nn.Module):
    """Encoders whose features meet in `joint`; a subclass defines that method and its layers.

    encoders: {modality: encoder}. What a subclass says of itself:

    late: whether modalities meet only after the encoders; one that lets them exchange earlier says
        False and replaces `encode`.
    tapped: whether the joint prediction reads taps of the encoders instead of their features; such
        a fusion replaces `encode`, and defines `joint_of_taps` in place of `joint`.
    multitask: whether it learns tasks from one input instead (`multitask.MultiTask`).
    """

    late = True
    tapped = False
    multitask = False
    precision = "fp32"  # or "bf16": forward passes under autocast
    default_encoder: str | None = None  # for every modality; None: by the modality's kind
    settings: tuple[str, ...] = ()  # keyword arguments of the class that are flags of their name

    def __init__(self, encoders: dict[str, Encoder], classes: int):
        super().__init__()
        self.encoders = Encoders(encoders)
        self.unimodal_heads = heads(encoders, classes)

    @staticmethod
    def add_flags(parser) -> None:
        """Add the fusion's own flags to an argparse parser."""

    @classmethod
    def build(cls, encoders: dict[str, Encoder], data: Data, flags: Namespace) -> "Fusion":
        """The fusion that the parsed flags, its own among them, ask for."""
        settings = {name: getattr(flags, name) for name in cls.settings}
        return cls(encoders, len(data.classes), **settings)

    def objectives(self, output: Output, losses: dict[str, Tensor]) -> Objectives:
        """What meets in the encoders, of a batch's output and its losses."""
        own = {name: losses[name] for name in self.encoders}
        return Objectives(losses["joint"], own, output.features)

    def joint(self, features: dict[str, Tensor]) -> Tensor:
        """Joint logits (B, C)."""
        raise NotImplementedError

    def joint_of_taps(self, taps: Taps) -> Tensor:
        """Joint logits (B, C) of a tapped fusion."""
        raise NotImplementedError

    def read_out(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """{modality: logits (B, C)}, what the joint head itself makes of each modality.

        That is its part where the joint logits are a sum or a mean of such parts, else the joint
        logits with the features of all others at zero. Methods that score modalities by it run
        with no fusion that does not define it.
        """
        raise NotImplementedError

    def encode(self, inputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], Taps]:
        """The features, and the taps where the joint prediction reads some."""
        return {name: encoder(inputs[name]) for name, encoder in self.encoders.items()}, NO_TAPS

    def read(self, features: dict[str, Tensor], taps: Taps = NO_TAPS) -> Output:
        """All predictions from given features and taps; from detached ones it trains probes."""
        unimodal = {name: head(features[name]) for name, head in self.unimodal_heads.items()}
        if self.multitask:
            return Output(None, unimodal, features, taps)
        joint = self.joint_of_taps(taps) if self.tapped else self.joint(features)
        return Output(joint, unimodal, features, taps)

    def forward(self, inputs: dict[str, Tensor]) -> Output:
        """All predictions, in float32 whatever the precision.

        Features are what the predictions were made of, so that gradients can be taken there.
        """
        if self.precision == "fp32":
            return self.read(*self.encode(inputs))
        with torch.autocast(next(iter(inputs.values())).device.type, torch.bfloat16):
            features, taps = self.encode(inputs)
            output = self.read(tree_map_only(Tensor, _widened, features), taps)
        return tree_map_only(Tensor, _widened, output)

    def compile(self) -> None:
        """Compile `encode`, and `read` if tapped, apart: the features between them stay tensors."""
        self.encode = torch.compile(self.encode)
        if self.tapped:
            self.read = torch.compile(self.read)

    def __getstate__(self) -> dict:
        """A copy leaves out the compiled parts: they call the layers of this model."""
        kept = super().__getstate__()
        return {name: value for name, value in kept.items() if name not in ("encode", "read")}


def heads(encoders: dict[str, Encoder], classes: int) -> nn.ModuleDict:
    """One linear layer (out_dim, classes) for each modality."""
    return nn.ModuleDict({name: nn.Linear(e.out_dim, classes) for name, e in encoders.items()})


def total(tensors: Iterable[Tensor]) -> Tensor:
    """Their sum; that of Python begins with a zero, which is one kernel more."""
    return reduce(add, tensors)


def _widened(x: Tensor) -> Tensor:
    return x.float() if x.dtype == torch.bfloat16 else x


def check_stages(encoders: dict[str, Encoder], fusion: str) -> None:
    """UserError where an encoder has no stages of feature maps that a fusion could tap."""
    for name, encoder in encoders.items():
        if not (isinstance(encoder, Encoder) and encoder.widths):
            raise UserError(
                f"--fusion {fusion}: the encoder of {name} ({type(encoder).__name__}) does not "
                "say the widths of its stages: choose resnet18, cnn or mlp"
            )
