"""MBSD: balanced self-distillation between modalities, as BalanceBenchmark describes it."""

from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.samples import Batch
from ..models.fusions.base import Output, total
from .base import Decision
from .read_out import ReadOutMethod


class MBSD(ReadOutMethod):
    """L = CE(o) + sum_k CE(o_k) + mean_b w_b (||o_1 - o_2||^2 / C + KL(p_strong || p_weak)).

    o_k is what the joint head makes of modality k alone, and p_k its softmax. w_b is the distance
    between both probabilities of the true class if at least one of the two is right about sample
    b, else 0; it has no gradient. The strong one gives the true class more, and teaches without a
    gradient. For N > 2 the last term is the mean over all pairs. The unimodal heads are probes.

    No code of the authors was found. BalanceBenchmark lets w_b have a gradient, takes probabilities
    instead of o_k for three modalities, and computes the divergence from the true class alone, with
    a missing logarithm, so that it can be negative.
    """

    def decide(self, output: Output, batch: Batch) -> Decision:
        decision = super().decide(output, batch)
        logits = self.model.read_out(output.features)
        own = {name: self.model.criterion(u, batch.targets) for name, u in logits.items()}
        pairs = list(combinations(logits.values(), 2))
        distilled = [x / len(pairs) for pair in pairs for x in distillation(*pair, batch.targets)]
        hard = total([decision.loss, *own.values()])
        loss = total([hard, *distilled])
        measures = {f"alone_{name}": x.detach() for name, x in own.items()}
        measures["distillation"] = (loss - hard).detach()
        return decision._replace(loss=loss, measures=measures)


def distillation(one: Tensor, other: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the weighted means of distance and divergence, from logits (B, C)."""
    logs = [u.log_softmax(1) for u in (one, other)]
    p, q = (log.gather(1, targets[:, None])[:, 0].exp() for log in logs)
    right = (one.argmax(1) == targets) | (other.argmax(1) == targets)
    weights = ((p - q).abs() * right).detach()
    leads = (p >= q)[:, None]
    strong = torch.where(leads, logs[0], logs[1]).detach()
    weak = torch.where(leads, logs[1], logs[0])
    divergence = F.kl_div(weak, strong, reduction="none", log_target=True).sum(1)
    return (weights * (one - other).square().mean(1)).mean(), (weights * divergence).mean()
