"""CML: calibrating multimodal learning (Ma et al., ICML 2023)."""

from argparse import Namespace

import torch

from ..core import distributed
from ..data.samples import Batch
from ..models.fusions.base import Fusion, Output, total
from ..system.flags import non_negative
from .base import Decision
from .read_out import ReadOutMethod


class CML(ReadOutMethod):
    """Trains all predictions of ever fewer modalities: losing one must not raise confidence.

    Each epoch draws an order of the modalities. o_0 are the joint logits, o_i those with the
    features of the first i modalities at zero, and c_i their largest probability.
    L = sum_i CE(o_i) / N + lambda sum_i sum_b max(0, c_i - c_(i-1)), summed over the batch.

    --compare released does as the authors' code (QingyangZhang/CML at 85075b5, miwae/train.py): a
    rise counts where o_(i-1) is right, and where both are wrong, then without a gradient of
    c_(i-1). That code draws an order for each sample, and fills in the mean of the training data.
    --compare batch takes the maximum after the sum over the batch, as BalanceBenchmark does: rises
    and falls then cancel. With --accumulate the sums run over the samples of a step, but each
    micro-batch has its own maximum.
    """

    @classmethod
    def add_flags(cls, parser) -> None:
        super().add_flags(parser)
        # fmt: off
        add = parser.add_argument
        add("--calibration", type=non_negative(float), default=0.1,
            help="weight lambda of the rises in confidence, >= 0")
        add("--compare", choices=("samples", "released", "batch"), default="samples",
            help="samples: each sample's rise counts; released: not where the prediction from more "
                 "modalities alone is wrong; batch: only the sum over the batch counts")
        # fmt: on

    def __init__(self, model: Fusion, flags: Namespace):
        super().__init__(model, flags)
        self.order = list(model.encoders)

    def start_epoch(self, trainer) -> None:
        super().start_epoch(trainer)
        names = list(self.model.encoders)
        self.order = [names[k] for k in torch.randperm(len(names)).tolist()]

    def decide(self, output: Output, batch: Batch) -> Decision:
        decision = super().decide(output, batch)
        features, logits = dict(output.features), [output.logits["joint"]]
        for name in self.order[:-1]:
            features[name] = torch.zeros_like(features[name])
            logits.append(self.model.joint(features))
        losses = [self.model.criterion(u, batch.targets) for u in logits]
        confidence, chosen = torch.stack([u.softmax(1) for u in logits]).max(2)  # (N, B)
        rises = confidence.diff(dim=0)
        if self.flags.compare == "released":
            right = chosen == batch.targets
            both_wrong = ~right[:-1] & ~right[1:]
            beside = confidence[1:] - confidence[:-1].detach()
            rises = rises * right[:-1] + beside * both_wrong
        if self.flags.compare == "batch":
            sums = rises.sum(1)
            rises = torch.where(distributed.total(sums.detach()) > 0, sums, 0.0)
        samples = distributed.size() * self.flags.accumulate  # in a step, for each one here
        penalty = rises.sum() if self.flags.compare == "batch" else rises.clamp(min=0).sum()
        loss = total(losses) / len(losses) + self.flags.calibration * samples * penalty
        return decision._replace(loss=loss, measures={"rise": samples * penalty.detach()})
