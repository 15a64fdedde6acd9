"""AGM: adaptive gradient modulation (Li et al., ICCV 2023)."""

from argparse import Namespace
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core import distributed
from ..core.integrate import Stats
from ..data.samples import Batch
from ..models.fusions.base import Fusion, Output, total
from ..models.shapley import Coalition, coalitions, shapley
from ..system.flags import non_negative
from .base import Decision, JointMethod

LARGEST = 10.0  # largest exponent, before alpha, as in the authors' code
FLOOR = 1e-8  # smallest probability, as there


class AGM(JointMethod):
    """Trains the joint loss, and scales the gradient through each modality's share of the logits.

    phi_k is the Shapley value of modality k in the joint logits T, with absent inputs set to zero,
    so that sum_k phi_k = T. q_k is the cross-entropy of phi_k (small: strong), and
    r_k = exp(mean over n != k of (q_n - q_k)). tau_k is the same of q's running means before this
    batch, and kappa_k = exp(alpha min(tau_k - r_k, 10)) the factor: a modality that is stronger
    than usual takes a smaller gradient, in the encoders and in the joint head. If an entry of the
    joint head's weight gradient exceeds 1, all gradients are clipped to norm 1.

    Logits without any modality count as zero, as in the authors' code. --bn_mode says which
    statistics BatchNorm uses where inputs are zeroed. With its running means (the released code)
    they do not cancel between the shares, with the batch's own they do. Passes with zeroed inputs
    never change the running means. A step costs two passes for any number of modalities if the
    joint head reads features alone, else 2^N - 1. With --accumulate every micro-batch counts as a
    step for q's means and has its own kappa_k.

    Outside --window the joint loss is trained alone, with no factors and no clipping. The release
    keeps the last factors after its window, and clips always.
    """

    window = "1-20"

    @classmethod
    def add_flags(cls, parser) -> None:
        super().add_flags(parser)
        # fmt: off
        add = parser.add_argument
        add("--alpha", type=non_negative(float), default=1.0, help="strength of modulation, >= 0")
        add("--bn_mode", choices=("running", "batch"), default="running",
            help="statistics of BatchNorm in passes with zeroed inputs")
        # fmt: on

    def __init__(self, model: Fusion, flags: Namespace):
        super().__init__(model, flags)
        inside = {*model.encoders.parameters(), *model.probed()}
        self._kept: list[tuple[Tensor, Tensor]] = []  # buffers, and their values before the passes
        self.head = [p for p in model.parameters() if p not in inside and p.dim() > 1]
        device = self.head[0].device
        self.state["mean_score"] = torch.zeros(len(model.encoders), device=device)
        self.state["steps"] = torch.zeros((), device=device)

    def decide(self, output: Output, batch: Batch) -> Decision:
        decision = super().decide(output, batch)
        if not self.in_window():
            return decision
        training = self.flags.bn_mode == "batch"  # only such passes change buffers
        self._kept = [(b, b.clone()) for b in self.model.buffers()] if training else []
        self.model.train(training)
        whole = output.logits["joint"]
        parts = shares(list(self.model.encoders), whole, self.coalitions(batch.inputs))
        self.model.train()
        scores = torch.stack([score(phi, batch.targets) for phi in parts.values()])
        scores = distributed.mean(scores)
        mean, steps = self.state["mean_score"], self.state["steps"].add_(1)
        kappa = modulation(scores, mean, self.flags.alpha)
        mean.mul_((steps - 1) / steps).add_(scores / steps)
        one_hot = F.one_hot(batch.targets, whole.shape[1])
        delta = (whole.detach().softmax(1) - one_hot) / len(whole)  # of the mean cross-entropy
        modulated = (k * (delta * phi).sum() for k, phi in zip(kappa, parts.values(), strict=True))
        measures = {f"kappa_{name}": k for name, k in zip(parts, kappa, strict=True)}
        return decision._replace(minimised=total(modulated), measures=measures)

    def differentiate(self, decision: Decision, share: float, last: bool) -> dict[str, Stats]:
        stats = super().differentiate(decision, share, last)
        for buffer, before in self._kept:  # only now: the backward pass may need them
            buffer.copy_(before)
        self._kept = []
        return stats

    def adjust(self) -> dict[str, Tensor]:
        if self.in_window():
            gradients = [p.grad for p in self.head if p.grad is not None]
            if torch.stack([x.abs().max() for x in gradients]).max() > 1:  # sync
                torch.nn.utils.clip_grad_norm_(self.clip_groups()[0], 1.0)
        return {}

    def coalitions(self, inputs: dict[str, Tensor]) -> Callable[[Coalition], Tensor]:
        """Returns a function: coalition -> joint logits (B, C), with all other inputs zero."""
        if not self.model.late or self.model.tapped:

            def mixed(present: Coalition) -> Tensor:
                away = {n: torch.zeros_like(x) for n, x in inputs.items() if n not in present}
                return self.model({**inputs, **away}).logits["joint"]

            return mixed
        real = self.model(inputs).features
        two = {n: x.new_zeros(2, *x.shape[1:]) for n, x in inputs.items()}  # BatchNorm's least
        absent = self.model(two).features

        def late(present: Coalition) -> Tensor:
            away = {n: absent[n][:1].expand_as(z) for n, z in real.items() if n not in present}
            return self.model.joint({**real, **away})

        return late


def shares(
    names: list[str], whole: Tensor, logits: Callable[[Coalition], Tensor]
) -> dict[str, Tensor]:
    """Returns each modality's share of the joint logits, whole (B, C); the shares add up to it.

    A share is the modality's Shapley value if no modality at all gives logits of zero.
    """
    *some, everyone = coalitions(names)
    f = {coalition: logits(coalition) for coalition in some}
    return shapley(names, {**f, frozenset(): torch.zeros_like(whole), everyone: whole})


def score(phi: Tensor, targets: Tensor) -> Tensor:
    """Returns q, the mean cross-entropy of one share, detached."""
    probability = phi.detach().softmax(1).gather(1, targets[:, None])
    return -probability.clamp(min=FLOOR).log().mean()


def discrepancy(scores: Tensor) -> Tensor:
    """Returns r_k = exp(mean over n != k of (q_n - q_k)) from scores (N,)."""
    number = len(scores)
    return ((scores.sum() - number * scores) / max(number - 1, 1)).exp()


def modulation(scores: Tensor, mean_scores: Tensor, alpha: float) -> Tensor:
    """Returns kappa_k (N,) from q_k (N,) and their means over the batches before."""
    excess = discrepancy(mean_scores) - discrepancy(scores)
    return (alpha * excess.clamp(max=LARGEST)).exp()
