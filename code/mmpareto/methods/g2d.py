"""G2D: gradient-guided distillation (ICCV 2025)."""

from argparse import Namespace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core import distributed
from ..data.samples import Batch
from ..models.fusions.base import Fusion, Output, total
from ..system.flags import non_negative, positive
from .base import Decision
from .ogm_ge import modulated
from .read_out import scores_of
from .taught import TaughtMethod, distances


class G2D(TaughtMethod):
    """L = L_joint + sum_k [T^2 KL(p_k^T || p) + MSE(z_k, z_k^T)].

    p is the softmax of the joint logits over T, p_k^T that of teacher k's logits over T; KL is a
    mean over samples, MSE over all entries. The joint logits are the mean of the modalities'.

    score_k sums teacher k's softmax of the true class over the batches of a step. In the first
    --freeze_epochs, the convolutions of the encoder with the highest score get zero gradients; with
    equal highest scores none do (the release stops with an error). Freezing one modality only is
    ours for N > 2, and so are matrices in encoders without convolutions. As in the release,
    momentum and weight decay go on, and BatchNorm learns.
    """

    default_fusion = "mean"
    fixed_on_resume = frozenset({"epochs"})  # its half is the default of --freeze_epochs

    @classmethod
    def add_flags(cls, parser) -> None:
        super().add_flags(parser)
        # fmt: off
        add = parser.add_argument
        add("--temperature", type=positive(float), default=1.0,
            help="T, which divides the logits that are compared, > 0")
        add("--freeze_epochs", type=non_negative(int), metavar="EPOCHS",
            help="number of first epochs in which the leading modality's convolutions rest, >= 0 "
                 "(default: half of --epochs)")
        # fmt: on

    def __init__(self, model: Fusion, flags: Namespace):
        super().__init__(model, flags)
        self._scores: list[Tensor] = []  # of the micro-batches since the last step

    def decide(self, output: Output, batch: Batch) -> Decision:
        decision, taught = super().decide(output, batch), self.ask(batch)
        self._scores.append(scores_of(taught.unimodal, batch.targets))
        t, logits = self.flags.temperature, output.logits["joint"]
        kl = {name: t**2 * divergence(u / t, logits / t) for name, u in taught.unimodal.items()}
        apart = distances(output, taught)
        measures = {f"kl_{name}": x.detach() for name, x in kl.items()}
        measures |= {f"distance_{name}": x.detach() for name, x in apart.items()}
        loss = total([decision.loss, *kl.values(), *apart.values()])
        return decision._replace(loss=loss, measures=measures)

    @torch.no_grad()
    def adjust(self) -> dict[str, Tensor]:
        scores, self._scores = distributed.total(total(self._scores)), []
        limit = self.flags.freeze_epochs
        if self.epoch > (self.flags.epochs / 2 if limit is None else limit):
            return {}
        frozen = leading(scores)
        for encoder, rests in zip(self.model.encoders.values(), frozen, strict=True):
            for gradient in modulated(encoder):
                gradient.mul_(~rests)
        return {f"frozen_{n}": f.float() for n, f in zip(self.model.encoders, frozen, strict=True)}


def divergence(teacher: Tensor, logits: Tensor) -> Tensor:
    """Returns KL(softmax(teacher) || softmax(logits)) of logits (B, C), a mean over samples."""
    return F.kl_div(
        logits.log_softmax(1), teacher.log_softmax(1), reduction="batchmean", log_target=True
    )


def leading(scores: Tensor) -> Tensor:
    """Returns which modality (N,) has the highest of scores (N,), bool; with a tie none."""
    highest = scores == scores.max()
    return highest & (highest.sum() == 1)
