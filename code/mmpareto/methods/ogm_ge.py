"""OGM-GE: on-the-fly gradient modulation (Peng et al., CVPR 2022)."""

from argparse import Namespace

import torch
from torch import Tensor, nn

from ..core import distributed
from ..data.samples import Batch
from ..models.fusions.base import Fusion, Output, total
from ..system.flags import non_negative
from .base import Decision
from .read_out import ReadOutMethod, scores_of


class OGMGE(ReadOutMethod):
    """Trains the joint loss; a leading encoder gets smaller gradients, and all encoders get noise.

    score_k sums the softmax of the true class over a batch, in what the joint head makes of
    modality k alone. rho_k is score_k over the mean of the other scores (ours for N > 2). Gradients
    of encoder k's convolutions are multiplied by c_k = 1 - tanh(alpha rho_k) where rho_k > 1. Then
    each gets noise N(0, std^2), with std over its entries before that (GE). BatchNorm, biases and
    heads are left alone; in an encoder without convolutions the matrices are modulated (ours).

    The released code damps the first of two modalities with equal scores; here neither is damped.
    """

    window = "1-51"

    @classmethod
    def add_flags(cls, parser) -> None:
        super().add_flags(parser)
        # fmt: off
        add = parser.add_argument
        add("--alpha", type=non_negative(float), default=0.8,
            help="how hard a leading modality is damped, >= 0; the authors advise 0.8 for CREMA-D, "
                 "0.1 for VGGSound")
        add("--without_ge", action="store_true", help="no noise: OGM alone")
        # fmt: on

    def __init__(self, model: Fusion, flags: Namespace):
        super().__init__(model, flags)
        self._scores: list[Tensor] = []  # of the micro-batches since the last step

    def decide(self, output: Output, batch: Batch) -> Decision:
        with torch.no_grad():
            logits = self.model.read_out(output.features)
        self._scores.append(scores_of(logits, batch.targets))
        return super().decide(output, batch)

    @torch.no_grad()
    def adjust(self) -> dict[str, Tensor]:
        scores, self._scores = total(self._scores), []
        if not self.in_window():
            return {}
        damping = coefficients(distributed.total(scores), self.flags.alpha)
        for encoder, c in zip(self.model.encoders.values(), damping, strict=True):
            for gradient in modulated(encoder):
                noise = 0 if self.flags.without_ge else noise_of(gradient)
                gradient.mul_(c).add_(noise)
        names = self.model.encoders
        return {f"coefficient_{name}": c for name, c in zip(names, damping, strict=True)}


def coefficients(scores: Tensor, alpha: float) -> Tensor:
    """Returns c_k (N,) from scores (N,): 1 for a modality that does not lead."""
    others = (scores.sum() - scores) / (len(scores) - 1)
    ratio = scores / others.clamp(min=torch.finfo(scores.dtype).tiny)
    return torch.where(ratio > 1, 1 - torch.tanh(alpha * ratio), 1.0)


def modulated(encoder: nn.Module) -> list[Tensor]:
    """Returns the gradients of convolutions; of all matrices if there is one at most.

    One alone cuts a transformer's patches.
    """
    gradients = [p.grad for p in encoder.parameters() if p.grad is not None]
    convolutions = [x for x in gradients if x.dim() >= 4]
    return convolutions if len(convolutions) > 1 else [x for x in gradients if x.dim() >= 2]


def noise_of(gradient: Tensor) -> Tensor:
    """Returns Gaussian noise with the standard deviation of the gradient's entries."""
    noise = torch.empty_like(gradient)
    # In the order of memory, where torch draws several times as fast as in that of channels_last.
    noise.as_strided((noise.numel(),), (1,)).normal_()
    return noise.mul_(gradient.std() + 1e-8)
