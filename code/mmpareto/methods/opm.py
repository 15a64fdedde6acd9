"""OPM: on-the-fly prediction modulation (Wei et al., TPAMI 2024)."""

import torch
from torch import Tensor

from ..core import distributed
from ..data.samples import Batch
from ..models.fusions.base import Output
from ..system.flags import non_negative, share
from .base import Decision
from .read_out import ReadOutMethod, scores_of


class OPM(ReadOutMethod):
    """Trains the joint loss, and drops features of a leading modality at random.

    s_k sums the softmax of the true class over a batch, in what the joint head makes of modality k
    alone. rho_k = tanh(max(0, mean over j != k of s_k / s_j - 1)); the mean for N > 2 is the
    authors' answer to a question. With q = --drop_rate and lambda = --growth, the features of
    modality k are dropped, sample by sample, with probability q_k = min(1, q (1 + lambda rho_k)) if
    rho_k > 0, else 0. All features are then divided by 1 - sum_k d_k q_k / sum_k d_k, with d_k
    their widths. This happens in a share --drop_chance of the batches, after --warmup_epochs.

    The weakest modality is never dropped (its q_k is 0), so no sample loses all features. With
    --accumulate each micro-batch counts as a batch. The defaults are those of the release's script.
    """

    @classmethod
    def add_flags(cls, parser) -> None:
        super().add_flags(parser)
        # fmt: off
        add = parser.add_argument
        add("--drop_rate", type=share, default=0.5,
            help="probability with which a barely leading modality is dropped, in [0, 1]")
        add("--growth", type=non_negative(float), default=0.5,
            help="how much the probability grows with the lead, >= 0")
        add("--drop_chance", type=share, default=0.7,
            help="share of the batches in which features are dropped, in [0, 1]")
        add("--warmup_epochs", type=non_negative(int), default=6,
            help="first epochs, in which nothing is dropped, >= 0")
        # fmt: on

    def decide(self, output: Output, batch: Batch) -> Decision:
        flags, names = self.flags, list(output.features)
        acts = self.epoch > flags.warmup_epochs and bool(torch.rand(()) < flags.drop_chance)
        rates = output.logits["joint"].new_zeros(len(names))
        if acts:
            rates = drop_rates(self.scores(output, batch), flags.drop_rate, flags.growth)
            output = output._replace(joint=self.model.joint(modulated(output.features, rates)))
        measures = {f"drop_{name}": q for name, q in zip(names, rates, strict=True)}
        return super().decide(output, batch)._replace(measures=measures)

    @torch.no_grad()
    def scores(self, output: Output, batch: Batch) -> Tensor:
        """Returns s_k (N,) over the batch of all processes."""
        logits = self.model.read_out(output.features)
        return distributed.total(scores_of(logits, batch.targets))


def modulated(features: dict[str, Tensor], rates: Tensor) -> dict[str, Tensor]:
    """Returns the features (B, d_k), some dropped with probabilities rates (N,), rescaled.

    Drawn for the batch of all processes, of which this one takes its own rows.
    """
    widths = rates.new_tensor([z.shape[1] for z in features.values()])
    left = 1 - (widths * rates).sum() / widths.sum()
    processes = distributed.size()
    samples = len(next(iter(features.values()))) * processes
    drawn = torch.rand(samples, len(rates), device=rates.device)
    factors = (drawn[distributed.rank() :: processes] >= rates) / left
    pairs = zip(features.items(), factors.unbind(1), strict=True)
    return {name: z * factor[:, None] for (name, z), factor in pairs}


def drop_rates(scores: Tensor, base: float, growth: float) -> Tensor:
    """Returns q_k (N,) from scores (N,)."""
    ratios = scores[:, None] / scores.clamp(min=torch.finfo(scores.dtype).tiny)
    lead = (ratios.sum(1) - ratios.diagonal()) / max(len(scores) - 1, 1)
    rho = (lead - 1).clamp(min=0).tanh()
    return torch.where(rho > 0, (base * (1 + growth * rho)).clamp(max=1), 0.0)
