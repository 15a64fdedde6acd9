"""Small models for tests of the core, in float64 so that parity is a matter of 1e-10."""

from collections.abc import Iterator
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmpareto.core.integrator import Integrator
from mmpareto.data.samples import Batch
from mmpareto.methods.base import Decision, Method
from mmpareto.models.encoders import base as encoders
from mmpareto.models.fusions.base import Fusion, Output
from mmpareto.models.fusions.concat import Concat
from mmpareto.models.fusions.mmtm import MMTM

CLASSES, SIZE = 3, 6


class Encoder(nn.Sequential):
    out_dim = 5

    def __init__(self):
        super().__init__(nn.Linear(SIZE, 7), nn.BatchNorm1d(7), nn.Tanh(), nn.Linear(7, 5))


class Followed(nn.Module):
    """The encoder, and what a subclass does after it."""

    out_dim = 5

    def __init__(self):
        super().__init__()
        self.layers = Encoder()

    def forward(self, inputs):
        return self.after(self.layers(inputs))


class Mixing(Concat):
    """Every feature also sees the mean of all: modalities meet before their heads."""

    late = False

    def __init__(self, encoders: dict[str, nn.Module], classes: int):
        super().__init__(encoders, classes)
        self.exchange = nn.Linear(5, 5)

    def encode(self, inputs):
        features, taps = super().encode(inputs)
        shared = self.exchange(sum(features.values()) / len(features))
        return {name: torch.tanh(z + shared) for name, z in features.items()}, taps


class Staged(encoders.Encoder):
    """Three stages on vectors."""

    widths, out_dim = (7, 6, 5), 5

    def __init__(self):
        super().__init__()
        sizes = [SIZE, *self.widths]
        self.stages = nn.Sequential(
            *(nn.Sequential(nn.Linear(a, b), nn.Tanh()) for a, b in pairwise(sizes))
        )


def mmtm(modalities: int = 2) -> MMTM:
    return MMTM({name: Staged() for name in "abcde"[:modalities]}, CLASSES).double()


def build(fusion: type[Fusion] = Concat, modalities: int = 2) -> Fusion:
    return fusion({name: Encoder() for name in "abcde"[:modalities]}, CLASSES).double()


def twins(fusion: type[Fusion], modalities: int) -> tuple[Fusion, Fusion, torch.optim.SGD]:
    """Two equal models, and one optimizer of both."""
    ours, theirs = build(fusion, modalities), build(fusion, modalities)
    theirs.load_state_dict(ours.state_dict())
    both = [*ours.parameters(), *theirs.parameters()]
    return ours, theirs, torch.optim.SGD(both, lr=0.05, momentum=0.9)


def batch(model: Fusion, size: int = 12) -> tuple[dict[str, Tensor], Tensor]:
    """Inputs without any relation to the targets: conflict is then common."""
    inputs = {name: torch.randn(size, SIZE, dtype=torch.float64) for name in model.encoders}
    return inputs, torch.randint(CLASSES, (size,))


def micro_batches(inputs: dict[str, Tensor], targets: Tensor, parts: int) -> Iterator[tuple]:
    """A batch in equal parts: inputs, targets, and what a method's `backward` is told of each."""
    size = len(targets) // parts
    for part in range(parts):
        rows = slice(part * size, (part + 1) * size)
        chunk = {modality: x[rows] for modality, x in inputs.items()}
        yield chunk, targets[rows], {"share": 1 / parts, "last": part == parts - 1}


def step(method: Method, inputs: dict[str, Tensor], targets: Tensor, **told) -> Decision:
    """What the training loop does with a batch."""
    batch = Batch(inputs, targets)
    return method.backward(method.decide(method.forward(batch), batch), **told)


def losses(output: Output, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    unimodal = {name: F.cross_entropy(logits, targets) for name, logits in output.unimodal.items()}
    return F.cross_entropy(output.joint, targets), unimodal


def backward(integrator: Integrator, inputs: dict[str, Tensor], targets: Tensor) -> dict:
    """A forward pass and a `backward`; what was decided for each encoder."""
    output = integrator.model(inputs)
    features = None if integrator.gramian == "parameters" else output.features
    return integrator.backward(*losses(output, targets), features)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all gradients that there are."""
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
