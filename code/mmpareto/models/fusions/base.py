"""The interface of every model: encoders, a joint prediction, one unimodal head per modality."""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterable
from functools import reduce
from itertools import repeat
from operator import add
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ...data.samples import Data, Present
from ...system.errors import UserError
from ..encoders.base import Encoder, Encoders, without_padding

Taps = dict[str, list[Tensor]]
NO_TAPS: Taps = {}


class Criterion(NamedTuple):
    """The cross-entropy that trains predictions; without settings it is torch's."""

    weights: Tensor | None = None  # float32 (C,), what a sample of each class weighs
    smoothing: float = 0.0  # label_smoothing of torch, which weighs each class's part by its weight

    def __call__(self, logits: Tensor, targets: Tensor, reduction: str = "mean") -> Tensor:
        """Return the cross-entropy of logits (n, C) with targets (n,).

        A mean divides by n. torch would divide by the sum of the weights, which differs between
        micro-batches and processes: the mean over these would not be that of the step.
        """
        is_weighted_mean = self.weights is not None and reduction == "mean"
        loss = F.cross_entropy(
            logits, targets, self.weights, label_smoothing=self.smoothing,
            reduction="sum" if is_weighted_mean else reduction,
        )  # fmt: skip
        return loss / len(targets) if is_weighted_mean else loss


class Output(NamedTuple):
    """A model's output for a batch of B samples and C classes."""

    joint: Tensor | None  # logits (B, C); None in a multi-task model
    unimodal: dict[str, Tensor]  # logits (B, C) of each modality's own head, or each task's
    features: dict[str, Tensor]  # (B, out_dim) of each encoder
    taps: Taps = NO_TAPS  # further outputs of each encoder for the joint prediction
    present: Present | None = None  # of the batch; the features of absent modalities are zero
    criterion: Criterion = Criterion()  # the model's

    def having(self, name: str, rows: Tensor) -> Tensor:
        """Return the rows (n, ...) of samples that have the modality; of "joint" and tasks, all."""
        own = self.present.rows.get(name) if self.present is not None else None
        return rows if own is None else rows[own]

    @property
    def logits(self) -> dict[str, Tensor]:
        """Return {"joint": joint logits, if there are any, modality or task: its own logits}."""
        joint = {} if self.joint is None else {"joint": self.joint}
        return joint | self.unimodal

    def joint_loss(self, targets: Tensor) -> Tensor:
        """Return the cross-entropy of the joint prediction; targets (B,)."""
        return self.criterion(self.logits["joint"], targets)

    def unimodal_losses(self, targets: Tensor) -> dict[str, Tensor]:
        """Return the loss of each modality or task; targets (B,) or (B, tasks).

        That of a modality is a mean over the samples that have it, and 0 if none has.
        """
        own = own_targets(targets, self.unimodal)
        if self.present is None:
            return {name: self.criterion(u, own[name]) for name, u in self.unimodal.items()}
        return {
            k: self.present.shares[k]
            * self.criterion(self.having(k, u), self.having(k, own[k]), reduction="sum")
            for k, u in self.unimodal.items()
        }

    def losses(self, targets: Tensor) -> dict[str, Tensor]:
        """Return the joint loss, if there is a joint prediction, and the unimodal ones."""
        joint = {} if self.joint is None else {"joint": self.joint_loss(targets)}
        return joint | self.unimodal_losses(targets)


class Objectives(NamedTuple):
    """The two losses that meet in each encoder."""

    joint: Tensor  # the loss that all encoders have in common
    own: dict[str, Tensor]  # {encoder: its own loss}
    features: dict[str, Tensor]  # {encoder: its output for the batch}


def own_targets(targets: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
    """Return {name: targets (B,)}; targets (B,) are shared, targets (B, N) have a column each."""
    columns = targets.unbind(1) if targets.dim() == 2 else repeat(targets)
    return dict(zip(names, columns, strict=False))


class Fusion(nn.Module):
    """Encoders whose features meet in `joint`; a subclass defines that method and its layers.

    encoders: {modality: encoder}. A subclass may set:

    late: whether modalities meet only after the encoders. A fusion in which they exchange earlier
        sets False and replaces `encode`.
    tapped: whether the joint prediction reads taps of the encoders instead of their features. Such
        a fusion replaces `encode`, and defines `joint_of_taps` instead of `joint`.
    multitask: whether it learns tasks from one input (see `multitask.MultiTask`).
    masks: whether it can predict from a part of the modalities, whose absent ones have features of
        zero. Only such a fusion trains on samples that lack a modality.
    own_heads: whether the unimodal heads serve nothing but their own modality's prediction. A
        fusion whose joint prediction is made of theirs sets False.
    """

    late = True
    tapped = False
    multitask = False
    masks = False
    own_heads = True
    precision = "fp32"  # or "bf16": forward passes under autocast
    default_encoder: str | None = None  # for every modality; None: by the modality's kind
    frozen: frozenset[str] = frozenset()  # names of the encoders that do not learn
    criterion = Criterion()  # a method that computes a loss from logits takes it, too

    def __init__(self, encoders: dict[str, Encoder], classes: int):
        super().__init__()
        self.encoders, self.classes = Encoders(encoders), classes
        self.filled = [k for k, e in encoders.items() if getattr(e, "fills_padding", False)]
        self.unimodal_heads = heads(encoders, classes) if self.own_heads else nn.ModuleDict()

    @staticmethod
    def add_flags(parser) -> None:
        """Add the fusion's own flags to an argparse parser."""

    @classmethod
    def build(cls, encoders: dict[str, Encoder], data: Data, flags: Namespace) -> "Fusion":
        """Build the fusion; each of its own flags is the keyword argument of that name."""
        cls.add_flags(parser := ArgumentParser())
        own = {name: getattr(flags, name) for name in vars(parser.parse_args([]))}
        return cls(encoders, len(data.classes), **own)

    def objectives(self, output: Output, losses: dict[str, Tensor]) -> Objectives:
        """Return the losses and features that meet in the encoders."""
        own = {name: losses[name] for name in self.encoders}
        return Objectives(losses["joint"], own, output.features)

    def joint(self, features: dict[str, Tensor]) -> Tensor:
        """Return joint logits (B, C)."""
        raise NotImplementedError

    def joint_of_present(self, features: dict[str, Tensor], present: Present) -> Tensor:
        """Return joint logits (B, C) where samples lack modalities, whose features are zero."""
        return self.joint(features)

    def joint_of_taps(self, taps: Taps) -> Tensor:
        """Return the joint logits (B, C) of a tapped fusion."""
        raise NotImplementedError

    def read_out(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return {modality: logits (B, C)}, the joint head's own prediction from each modality.

        If the joint logits are a sum or mean of parts, it is the modality's part; else it is the
        joint logits with all other features at zero. Methods that score modalities by it run only
        with fusions that define it.
        """
        raise NotImplementedError

    def encode(self, inputs: dict[str, Tensor]) -> tuple[dict[str, Tensor], Taps]:
        """Return features of the inputs given, and the taps if the joint prediction reads some."""
        given = {name: encoder for name, encoder in self.encoders.items() if name in inputs}
        features = {name: encoder(inputs[name]) for name, encoder in given.items()}
        for name, z in features.items():
            expected = len(inputs[name]), given[name].out_dim
            if not isinstance(z, Tensor) or z.shape != expected:
                found = tuple(z.shape) if isinstance(z, Tensor) else type(z).__name__
                raise UserError(
                    f"the encoder of {name} ({type(given[name]).__name__}) returned {found}, "
                    f"{expected} expected, the batch and its out_dim: change its forward or out_dim"
                )
        return features, NO_TAPS

    def _encode(
        self, inputs: dict[str, Tensor], present: Present | None
    ) -> tuple[dict[str, Tensor], Taps]:
        """Return what `encode` does, with zeros for the features of absent modalities.

        Encoders see the samples that have the modality and nothing else: others would change
        BatchNorm's statistics. A single one comes twice, for there are no statistics of one. If no
        sample has it, the encoder's parameters get a gradient of zero.
        """
        if present is None:
            return self.encode(inputs)
        given = {}
        for name, rows in present.rows.items():
            if len(rows):
                given[name] = inputs[name][rows if len(rows) > 1 else rows.repeat(2)]
        found, features = self.encode(given)[0], {}
        for name, rows in present.rows.items():
            if name in found:
                own, size = found[name][: len(rows)], len(inputs[name])
                features[name] = own.new_zeros(size, own.shape[1]).index_copy(0, rows, own)
            else:
                encoder, zero = self.encoders[name], torch.zeros((), device=rows.device)
                zero = total([zero, *(0 * p.sum() for p in encoder.parameters())])
                features[name] = zero.expand(len(inputs[name]), encoder.out_dim)
        return features, NO_TAPS

    def read(
        self, features: dict[str, Tensor], taps: Taps = NO_TAPS, present: Present | None = None
    ) -> Output:
        """Return all predictions from features and taps; from detached ones it trains probes.

        Without the features of every modality there is no joint prediction.
        """
        unimodal = {name: self.unimodal_heads[name](z) for name, z in features.items()}
        if self.multitask or len(unimodal) < len(self.unimodal_heads):
            return Output(None, unimodal, features, taps, criterion=self.criterion)
        if present is not None:
            # `only` once more, so that the features of absent modalities get no gradient
            joint = self.joint_of_present(present.only(features), present)
        else:
            joint = self.joint_of_taps(taps) if self.tapped else self.joint(features)
        return Output(joint, unimodal, features, taps, present, self.criterion)

    def forward(self, inputs: dict[str, Tensor], present: Present | None = None) -> Output:
        """Return all predictions, in float32 whatever the precision.

        The predictions were computed from these very features, so gradients can be taken there.
        A method that trains one modality at a time gives that one's inputs alone.
        """
        short = {name: without_padding(inputs[name])[0] for name in self.filled if name in inputs}
        inputs = inputs | short
        if self.precision == "fp32":
            return self.read(*self._encode(inputs, present), present)
        with torch.autocast(next(iter(inputs.values())).device.type, torch.bfloat16):
            features, taps = self._encode(inputs, present)
            output = self.read(tree_map_only(Tensor, widened, features), taps, present)
        return tree_map_only(Tensor, widened, output)

    def freeze(self, names: Iterable[str]) -> None:
        """Keep encoders as they are: they take no gradient, and stay in evaluation mode."""
        self.frozen = frozenset(names)
        for name in self.frozen:
            self.encoders[name].requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for name in self.frozen:
            self.encoders[name].eval()
        return self

    def probed(self) -> set[nn.Parameter]:
        """Return the parameters that no joint prediction uses."""
        return set(self.unimodal_heads.parameters()) if self.own_heads else set()

    def compile(self) -> None:
        """Compile `encode` and, if tapped, `read` apart, so that features stay plain tensors."""
        self.encode = torch.compile(self.encode)
        if self.tapped:
            self.read = torch.compile(self.read)

    def __getstate__(self) -> dict:
        """Leave the compiled parts out of a copy: they call this model's layers."""
        kept = super().__getstate__()
        return {name: value for name, value in kept.items() if name not in ("encode", "read")}


def heads(encoders: dict[str, Encoder], classes: int) -> nn.ModuleDict:
    """Return one linear layer (out_dim, classes) for each modality."""
    return nn.ModuleDict({name: nn.Linear(e.out_dim, classes) for name, e in encoders.items()})


def total(tensors: Iterable[Tensor]) -> Tensor:
    """Return the sum; Python's own begins with a zero, which costs one kernel more."""
    return reduce(add, tensors)


def widened(x: Tensor) -> Tensor:
    return x.float() if x.dtype == torch.bfloat16 else x


def common_width(encoders: dict[str, Encoder], fusion: str, others: str = "") -> int:
    """Return the out_dim of all encoders; UserError, with other remedies, if they differ."""
    if len({encoder.out_dim for encoder in encoders.values()}) > 1:
        found = ", ".join(f"{name} {encoder.out_dim}" for name, encoder in encoders.items())
        raise UserError(
            f"--fusion {fusion}: features of one width expected, found {found}: give --encoder "
            f"transformer, whose width is the same for every kind, or others of one width{others}"
        )
    return next(iter(encoders.values())).out_dim


def check_stages(encoders: dict[str, Encoder], fusion: str) -> None:
    """Raise UserError if an encoder does not tell the widths of its stages."""
    for name, encoder in encoders.items():
        if not (isinstance(encoder, Encoder) and encoder.widths):
            raise UserError(
                f"--fusion {fusion}: the encoder of {name} ({type(encoder).__name__}) does not "
                "say the widths of its stages: choose resnet18, cnn or mlp"
            )
