"""InfoReg: regulation of how fast a modality takes in information (Huang et al., CVPR 2025)."""

from argparse import Namespace

import torch
from torch import Tensor

from ..core import distributed
from ..data.samples import Batch
from ..models.fusions.base import Fusion, Output, total
from ..system.flags import non_negative
from .base import Decision
from .read_out import ReadOutMethod, scores_of

WINDOW = 10  # epochs whose traces are compared


class InfoReg(ReadOutMethod):
    """L = CE(o) + sum_k CE(o_k), with a pull towards the epoch's start for the modality that leads.

    o_k is what the joint head makes of modality k alone, score_k the sum of the true class's
    softmax(o_k) over a batch, lead_k the score minus the mean of the others. T_k is the trace of
    the Fisher information of encoder k in an epoch: the mean squared entry of the gradient of each
    weight matrix or convolution, summed over these and over steps. Before epoch e
    growth_k = 1 - (sum of T_k over the last ten epochs but one) / (sum over the last ten), with
    T = 0 before the first epoch, and growth 1 then. While growth_k > --least_growth and
    lead_k > 0, the gradient of encoder k gets beta exp(tanh(lead_k)) (theta_k - theta_k(start of
    the epoch)) added.

    The sums make tanh nearly a step; --scores mean takes means over the batch (ours). With
    --variant release the first modality's trace opens and shuts the window of all, and beta is a
    tenth (0.1 / 0.95) for all but the first. In the first ten epochs the window is open for nearly
    every trace. The paper's equations could not be read; they are known at second hand.
    """

    @classmethod
    def add_flags(cls, parser) -> None:
        super().add_flags(parser)
        # fmt: off
        add = parser.add_argument
        add("--beta", type=non_negative(float), default=0.95, help="strength of the pull, >= 0")
        add("--least_growth", type=non_negative(float), default=0.05,
            help="growth of the trace above which an encoder is pulled, >= 0")
        add("--scores", choices=("sum", "mean"), default="sum",
            help="a modality's score: the sum over a batch, or the mean, of the true class's "
                 "probability")
        add("--variant", choices=("paper", "release"), default="paper",
            help="release: the first modality's trace counts for all; the others are pulled less")
        # fmt: on

    def __init__(self, model: Fusion, flags: Namespace):
        super().__init__(model, flags)
        self._scores: list[Tensor] = []  # of the micro-batches since the last step
        self._samples = 0
        traces = next(model.parameters()).new_zeros(len(model.encoders))
        self.state["trace"] = traces  # of this epoch so far
        self.lasting["traces"] = traces.repeat(WINDOW + 1, 1)  # of the epochs before, oldest first
        self.lasting["epochs"] = torch.zeros((), dtype=torch.int64)
        for name, param in model.encoders.named_parameters():
            self.lasting[f"start {name}"] = param.detach().clone()

    def start_epoch(self, trainer) -> None:
        super().start_epoch(trainer)
        if trainer.epoch > self.lasting["epochs"]:
            traces = self.lasting["traces"]
            traces.copy_(torch.cat([traces[1:], self.state["trace"][None]]))
            self.state["trace"].zero_()
            self.lasting["epochs"].fill_(trainer.epoch)
        for name, param in self.model.encoders.named_parameters():
            self.lasting[f"start {name}"].copy_(param.detach())

    def decide(self, output: Output, batch: Batch) -> Decision:
        decision = super().decide(output, batch)
        logits = self.model.read_out(output.features)
        own = [self.model.criterion(u, batch.targets) for u in logits.values()]
        self._scores.append(scores_of(logits, batch.targets))
        self._samples += len(batch.targets)
        return decision._replace(loss=total([decision.loss, *own]))

    @torch.no_grad()
    def adjust(self) -> dict[str, Tensor]:
        flags, names = self.flags, list(self.model.encoders)
        scores = distributed.total(total(self._scores))
        if flags.scores == "mean":
            scores = scores / (self._samples * distributed.size())
        self._scores, self._samples = [], 0
        grown = (
            growth(self.lasting["traces"]) if self.lasting["epochs"] else torch.ones_like(scores)
        )
        beta = scores.new_full((len(names),), flags.beta)
        if flags.variant == "release":
            grown = grown[:1].expand(len(names))
            beta[1:] *= 0.1 / 0.95
        pull = strength(scores, beta) * (grown > flags.least_growth)
        for i, (name, encoder) in enumerate(self.model.encoders.items()):
            for place, p in encoder.named_parameters():
                if p.grad is not None:
                    p.grad += pull[i] * (p - self.lasting[f"start {name}.{place}"])
            grads = [p.grad for p in encoder.parameters() if p.grad is not None]
            self.state["trace"][i] += sum(x.square().mean() for x in grads if x.dim() >= 2)
        shown = (("pull", pull), ("growth", grown))
        return {
            f"{what}_{name}": x for what, xs in shown for name, x in zip(names, xs, strict=True)
        }


def growth(traces: Tensor) -> Tensor:
    """Returns (N,) from traces (WINDOW + 1, N): how much the sum over a window has grown."""
    last, before = traces[1:].sum(0), traces[:-1].sum(0)
    return (last - before) / last.clamp(min=torch.finfo(last.dtype).tiny)


def strength(scores: Tensor, beta: Tensor) -> Tensor:
    """Returns (N,): beta exp(tanh(lead)) for modalities whose score is above the others' mean."""
    lead = scores - (scores.sum() - scores) / max(len(scores) - 1, 1)
    return torch.where(lead > 0, beta * lead.tanh().exp(), 0.0) if len(scores) > 1 else beta * 0
