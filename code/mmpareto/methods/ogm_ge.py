"""OGM-GE: on-the-fly gradient modulation (Peng et al., CVPR 2022)."""

from argparse import Namespace

import torch
from torch import Tensor, nn

from ..core import distributed
from ..data.samples import Batch
from ..models.fusions.base import Fusion, Output
from ..system.flags import non_negative
from .base import Decision, JointMethod, add_window_flag


class OGMGE(JointMethod):
    """The joint loss; convolutions of encoders that lead take a smaller gradient, all take noise.

    score_k is the sum over a batch of the true class's softmax in what the joint head makes of
    modality k alone, rho_k its ratio to the mean of the others' scores (ours for N > 2). Gradients
    of encoder k's convolutions are multiplied by c_k = 1 - tanh(alpha rho_k) where rho_k > 1, and
    get noise N(0, std^2), std over the entries of each tensor before (GE). BatchNorm, biases and
    heads are left alone; an encoder without convolutions is modulated in its matrices (ours).

    The released code damps the first of two modalities whose scores are equal; here nobody is.
    """

    @staticmethod
    def add_flags(parser) -> None:
        JointMethod.add_flags(parser)
        parser.add_argument(
            "--alpha",
            type=non_negative(float),
            default=0.8,
            help="how hard a leading modality is damped, >= 0; the authors advise 0.8 for CREMA-D, "
            "0.1 for VGGSound",
        )
        parser.add_argument("--without_ge", action="store_true", help="no noise: OGM alone")
        add_window_flag(parser, "1-51")

    @staticmethod
    def runs_with(fusion: type[Fusion]) -> bool:
        return hasattr(fusion, "read_out")

    def __init__(self, model: Fusion, flags: Namespace):
        super().__init__(model, flags)
        self._scores: list[Tensor] = []  # of the micro-batches since the last step

    def decide(self, output: Output, batch: Batch) -> Decision:
        joint, probes = output.joint_loss(batch.targets), self.probe_losses(output, batch.targets)
        self._scores.append(self.scores(output, batch.targets))
        return Decision(joint, {"joint": joint, **probes}, joint + sum(probes.values()))

    def adjust(self) -> dict[str, Tensor]:
        scores, self._scores = sum(self._scores), []
        return self.modulate(distributed.total(scores)) if self.in_window() else {}

    @torch.no_grad()
    def scores(self, output: Output, targets: Tensor) -> Tensor:
        """score_k of every modality (N,)."""
        logits = self.model.read_out(output.features)
        right = [u.softmax(1).gather(1, targets[:, None]).sum() for u in logits.values()]
        return torch.stack(right)

    @torch.no_grad()
    def modulate(self, scores: Tensor) -> dict[str, Tensor]:
        damping = coefficients(scores, self.flags.alpha)
        for encoder, c in zip(self.model.encoders.values(), damping, strict=True):
            for weight in modulated(encoder):
                noise = torch.zeros_like(weight) if self.flags.without_ge else noise_of(weight)
                weight.grad.mul_(c).add_(noise)
        names = self.model.encoders
        return {f"coefficient_{name}": c for name, c in zip(names, damping, strict=True)}


def coefficients(scores: Tensor, alpha: float) -> Tensor:
    """c_k (N,) of scores (N,): 1 for all that do not lead."""
    others = (scores.sum() - scores) / (len(scores) - 1)
    ratio = scores / others.clamp(min=torch.finfo(scores.dtype).tiny)
    return torch.where(ratio > 1, 1 - torch.tanh(alpha * ratio), 1.0)


def modulated(encoder: nn.Module) -> list[nn.Parameter]:
    """The convolutions' weights; without any, the matrices. Only those with a gradient."""
    params = [p for p in encoder.parameters() if p.grad is not None]
    return [p for p in params if p.dim() == 4] or [p for p in params if p.dim() >= 2]


def noise_of(weight: nn.Parameter) -> Tensor:
    """Gaussian noise as large as the gradient's entries vary."""
    return torch.randn_like(weight.grad) * (weight.grad.std() + 1e-8)
