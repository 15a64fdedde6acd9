"""LFM: dynamically learning the modality gap (Yang et al., NeurIPS 2024)."""

from argparse import Namespace
from functools import partial
from itertools import combinations
from math import exp, log

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core import distributed, integrate
from ..core.integrate import Stats
from ..data.samples import Batch
from ..models.fusions.base import Fusion, Output, common_width, total
from ..models.fusions.sum import Mean
from ..system.flags import positive
from .base import Decision, JointMethod

# Of the release: the weight of the joint loss is sum_i c_i e^i in epoch e = 0, 1, ... of 200.
FITTED = 0.204623704, 3.35472727e-3, 1.22989557e-4, -2.92947416e-6, 2.23835486e-8, -5.39717505e-11


class LFM(JointMethod):
    """L = (1 - alpha) L_joint + alpha A: modalities are first aligned, then trained to classify.

    A is a sum over the pairs of modalities (k, n). --alignment contrastive: InfoNCE of the
    features at length 1, the mean of both directions; z_k of a sample is to be more similar to its
    own z_n than to those of the other samples in the batch, of all processes. --alignment labels:
    the mean over samples of (KL(m | p_k) + KL(m | p_n)) / 2, with p_k = softmax(o_k) and
    m = (p_k + p_n) / 2.

    --schedule heuristic: alpha = exp(-0.3 e) between 0.05 and 0.95, with e epochs trained before.
    --schedule fitted: 1 - alpha is a polynomial in e, stretched to --epochs. --schedule minnorm: in
    each step the alpha for which the sum of the two weighted gradients of all parameters is
    shortest, or 1/2 if the gradients oppose each other; it costs one more backward pass.

    The abstract proposes contrastive; which schedule gave the paper's numbers is not said. The last
    version of the release takes labels, twice the loss, and either fitted, or weights learned by a
    second derivative, whose steps are so small that alpha stays at 0.95; these are not here.
    With --accumulate, negatives come from the micro-batch.
    """

    default_fusion = "mean"
    fixed_on_resume = frozenset({"epochs"})  # --schedule fitted depends on it

    @classmethod
    def add_flags(cls, parser) -> None:
        super().add_flags(parser)
        # fmt: off
        add = parser.add_argument
        add("--alignment", choices=("contrastive", "labels"), default="contrastive",
            help="what is aligned between modalities: features, or predictions")
        add("--schedule", choices=("heuristic", "fitted", "minnorm"), default="heuristic",
            help="the weight of the alignment: a curve over epochs, that of the release's last "
                 "version, or what the gradients of each step say")
        add("--temperature", type=positive(float), default=0.07,
            help="temperature of the contrastive alignment, > 0")
        # fmt: on

    @staticmethod
    def runs_with(fusion: type[Fusion]) -> bool:
        return issubclass(fusion, Mean) and fusion.late

    def __init__(self, model: Fusion, flags: Namespace):
        super().__init__(model, flags)
        if flags.alignment == "contrastive":
            common_width(dict(model.encoders), flags.fusion, ", or --alignment labels")
        probes = model.probed()
        self.trained = [p for p in model.parameters() if p.requires_grad and p not in probes]
        self._alignment: Tensor | None = None  # of this micro-batch
        self._gradients: list[Tensor] = []  # of A, summed over the micro-batches of a step

    def decide(self, output: Output, batch: Batch) -> Decision:
        decision, alignment = super().decide(output, batch), self.alignment(output)
        measures = {"alignment": alignment.detach()}
        if self.flags.schedule == "minnorm":
            self._alignment = alignment
            return decision._replace(measures=measures)
        alpha = self.alpha()
        loss = (1 - alpha) * decision.loss + alpha * alignment
        measures["alpha"] = loss.new_tensor(alpha)
        return decision._replace(loss=loss, measures=measures)

    def alpha(self) -> float:
        """Returns alpha of this epoch."""
        epoch = self.epoch - 1
        if self.flags.schedule == "heuristic":
            return min(max(exp(-0.3 * epoch), 0.05), 0.95)
        epoch *= 200 / self.flags.epochs
        return 1 - sum(c * epoch**power for power, c in enumerate(FITTED))

    def alignment(self, output: Output) -> Tensor:
        if self.flags.alignment == "labels":
            parts, distance = self.model.read_out(output.features), disagreement
        else:
            parts = {name: distributed.rows(z) for name, z in output.features.items()}
            distance = partial(contrast, temperature=self.flags.temperature)
        pairs = combinations(parts.values(), 2)
        return total([output.logits["joint"].new_zeros(()), *(distance(*pair) for pair in pairs)])

    def differentiate(self, decision: Decision, share: float, last: bool) -> dict[str, Stats]:
        if self._alignment is not None and self._alignment.requires_grad:
            settings = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
            own = torch.autograd.grad(self._alignment * share, self.trained, **settings)
            so_far = self._gradients or [0.0] * len(own)
            self._gradients = [x + y for x, y in zip(own, so_far, strict=True)]
        self._alignment = None
        return super().differentiate(decision, share, last)

    @torch.no_grad()
    def adjust(self) -> dict[str, Tensor]:
        if not self._gradients:
            return {}
        align, self._gradients = self._gradients, []
        distributed.average(align)
        joint = [p.grad for p in self.trained if p.grad is not None]  # all of them
        alpha = shortest(*integrate.gramian(joint, align).sum(1))
        for x, y in zip(joint, align, strict=True):
            x.lerp_(y, alpha.to(x.dtype))
        return {"alpha": alpha}


def contrast(one: Tensor, other: Tensor, temperature: float) -> Tensor:
    """Returns the InfoNCE of features (B, D), the mean of both directions.

    It asks for samples, not for classes: the model's `criterion` does not apply.
    """
    similar = F.normalize(one) @ F.normalize(other).T / temperature
    right = torch.arange(len(one), device=one.device)
    return (F.cross_entropy(similar, right) + F.cross_entropy(similar.T, right)) / 2


def disagreement(one: Tensor, other: Tensor) -> Tensor:
    """Returns the mean of (KL(m | p) + KL(m | q)) / 2 over samples, from logits (B, C)."""
    log_p, log_q = one.log_softmax(1), other.log_softmax(1)
    log_m = torch.logaddexp(log_p, log_q) - log(2)
    return (log_m.exp() * (log_m - (log_p + log_q) / 2)).sum(1).mean()


def shortest(jj: Tensor, jg: Tensor, gg: Tensor) -> Tensor:
    """Returns alpha for which (1 - alpha) j + alpha g is shortest; 1/2 where <j, g> < 0."""
    return torch.where(jg < 0, 0.5, 1 - integrate.min_norm(jj, jg, gg))
