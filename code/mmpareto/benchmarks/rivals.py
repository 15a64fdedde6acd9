"""Other ways of taking MMPareto's step, as literally as their authors describe them.

Each has the face of a method, and decides nothing before `backward` fills `.grad`.
"""

import torch
from torch import Tensor

from ..data.samples import Batch
from ..models.fusions.base import Fusion, Output

GAMMA = 1.5
Losses = tuple[Tensor, dict[str, Tensor]]


class Rival:
    """The parts that both rivals share."""

    turns = 1

    def __init__(self, model: Fusion):
        self.model = model

    def forward(self, batch: Batch) -> Output:
        return self.model(batch.inputs)

    def decide(self, output: Output, batch: Batch) -> Losses:
        return output.joint_loss(batch.targets), output.unimodal_losses(batch.targets)


class Released(Rival):
    """The authors' released procedure: four backward passes, one after another.

    One for the joint loss and one for each modality's, each with the graph retained and gradients
    copied out; cosine and min-norm weights in float32 on each encoder's concatenated gradient; a
    fourth pass of the sum, whose gradients the heads keep and whose norms rescale the encoders'
    tensor by tensor. Decisions are taken on the host. Optimised by plain SGD.
    """

    def backward(self, losses: Losses) -> None:
        joint, unimodal = losses
        encoders = {name: list(e.parameters()) for name, e in self.model.encoders.items()}
        first, second = {}, {}
        joint.backward(retain_graph=True)
        for name, params in encoders.items():
            first[name] = [p.grad.clone() for p in params]
        self.model.zero_grad()
        for name, params in encoders.items():
            unimodal[name].backward(retain_graph=True)
            second[name] = [p.grad.clone() for p in params]
            self.model.zero_grad()
        (joint + sum(unimodal.values())).backward()
        for name, params in encoders.items():
            weight = weight_of(first[name], second[name])
            for p, j, g in zip(params, first[name], second[name], strict=True):
                new = 2 * weight * j + 2 * (1 - weight) * g
                wanted, found = p.grad.norm(), new.norm()
                if wanted > found:
                    new = new * wanted / found
                p.grad = new * GAMMA


def weight_of(j: list[Tensor], g: list[Tensor]) -> float:
    """The weight of j: 0.5 without conflict, else that of the shortest convex combination."""
    x, y = (torch.cat([part.flatten() for part in gradients]) for gradients in (j, g))
    if torch.nn.functional.cosine_similarity(x, y, dim=0) > 0:
        return 0.5
    xx, xy, yy = float(x @ x), float(x @ y), float(y @ y)
    if xy >= xx:
        return 1.0
    return 0.0 if xy >= yy else (yy - xy) / (xx + yy - 2 * xy)


class TorchJD(Rival):
    """torchjd: both losses' Jacobian by one call, then MGDA on each encoder's part of it."""

    def __init__(self, model: Fusion):
        super().__init__(model)
        from torchjd.aggregation import MGDA, Sum

        self.encoders = [list(encoder.parameters()) for encoder in model.encoders.values()]
        inside = {p for params in self.encoders for p in params}
        self.heads = [p for p in model.parameters() if p not in inside]
        self.mgda, self.sum = MGDA(), Sum()

    def backward(self, losses: Losses) -> None:
        from torchjd import autojac

        joint, unimodal = losses
        autojac.backward([joint, sum(unimodal.values())])
        for params in self.encoders:
            autojac.jac_to_grad(params, self.mgda)
        autojac.jac_to_grad(self.heads, self.sum)
