"""PMR: prototypical modal rebalance (Fan et al., CVPR 2023)."""

from argparse import Namespace
from math import ceil

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..core import distributed
from ..data.batches import loader
from ..data.samples import Batch, Split
from ..models import predict
from ..models.fusions.base import Fusion, Output
from ..system.flags import fraction, non_negative
from .base import Decision, JointMethod

SHARE = 0.1  # share of the training samples that make the prototypes
FAR = 1e4  # distance to a class without a prototype; its probability becomes zero


class PMR(JointMethod):
    """L_joint + alpha sum_k w_k PCE_k - mu max_k w_k H(p_fastest).

    p_k is the softmax of the negative Euclidean distances of features z_k to the prototypes of the
    classes, PCE_k its cross-entropy, H its entropy, and score_k the sum of the true class's p_k
    over a batch. w_k = clip(max_n score_n / score_k - 1, 0, 1) gives the paper's two coefficients
    for two modalities; more are ours. The entropy term acts in the first --entropy_epochs only
    (the paper leaves their number open). Before every epoch the prototypes are the class means of
    a random tenth of the training set, in evaluation mode, blended with those before.

    --variant release does as the authors' code: w_k = 1 for all but the fastest, no entropy term,
    and the second epoch's prototypes are not blended. That code takes prototypes from test samples
    on one dataset; here they always come from training. With --accumulate every micro-batch has its
    own w_k. --class_weights and --label_smoothing act on L_joint, not on PCE_k.
    """

    window = "1-101"

    @classmethod
    def add_flags(cls, parser) -> None:
        super().add_flags(parser)
        add = parser.add_argument
        # fmt: off
        add("--alpha", type=non_negative(float), default=1.0,
            help="weight of the prototypes' cross-entropy, >= 0; the paper takes 1 or 2")
        add("--mu", type=non_negative(float), default=0.01,
            help="weight of the entropy, >= 0; the paper takes 0.01 or 0.001")
        add("--entropy_epochs", type=non_negative(int), default=10,
            help="number of first epochs with the entropy term, >= 0")
        add("--prototype_momentum", type=fraction, default=0.2,
            help="share of the last epoch's prototypes in the new ones, in [0, 1)")
        add("--variant", choices=("paper", "release"), default="paper",
            help="release: hard weights, no entropy term, no blending before epoch 2")
        # fmt: on

    def __init__(self, model: Fusion, flags: Namespace):
        super().__init__(model, flags)
        one = next(model.parameters())
        for name, encoder in model.encoders.items():
            self.state[f"prototypes_{name}"] = one.new_zeros(model.classes, encoder.out_dim)
        self.state["known"] = one.new_zeros(model.classes, dtype=torch.bool)

    @torch.no_grad()
    def start_epoch(self, trainer) -> None:
        super().start_epoch(trainer)
        if not self.in_window():
            return
        split = trainer.data.splits["train"]
        chosen = split.subset(sample(split, trainer.flags.random_seed, self.epoch))
        batches = loader(chosen, trainer.flags.batch_size)
        found, targets = predict.features(self.model, batches, trainer.device)
        targets = targets.to(trainer.device)
        known = self.state["known"]
        blends = known & (self.flags.variant == "paper" or self.epoch > 2)
        for name, z in found.items():
            old = self.state[f"prototypes_{name}"]
            new, seen = class_means(z.to(trainer.device), targets, len(known))
            momentum = torch.where(blends, self.flags.prototype_momentum, 0.0)[:, None]
            old.copy_(torch.where(seen[:, None], momentum * old + (1 - momentum) * new, old))
        known[targets] = True

    def decide(self, output: Output, batch: Batch) -> Decision:
        decision = super().decide(output, batch)
        if not self.in_window():
            return decision
        rebalance, measures = self.rebalance(output.features, batch.targets)
        return decision._replace(loss=decision.loss + rebalance, measures=measures)

    def rebalance(self, features: dict[str, Tensor], targets: Tensor) -> tuple[Tensor, dict]:
        """Returns the term that is added to the joint loss, and the weights w_k."""
        flags, known = self.flags, self.state["known"]
        logs = []
        for name, z in features.items():
            distance = distances(z, self.state[f"prototypes_{name}"]).masked_fill(~known, FAR)
            logs.append((-distance).log_softmax(1))
        right = torch.stack([F.nll_loss(log_p, targets, reduction="none") for log_p in logs])
        scores = distributed.total((-right.detach()).exp().sum(1))
        weights = weights_of(scores, flags.variant)
        loss = flags.alpha * (weights * right.mean(1)).sum()
        if flags.variant == "paper" and self.epoch <= flags.entropy_epochs:
            entropies = torch.stack([-(log_p.exp() * log_p).sum(1).mean() for log_p in logs])
            fastest = F.one_hot(scores.argmax(), len(scores))
            loss = loss - flags.mu * weights.max() * (fastest * entropies).sum()
        names = (f"weight_{name}" for name in features)
        return loss, dict(zip(names, weights, strict=True))


def sample(split: Split, seed: int, epoch: int) -> list[int]:
    """Returns indices of a random tenth of split, plus one sample of each class it lacks."""
    order = np.random.default_rng([seed, epoch]).permutation(len(split))
    _, first = np.unique(split.targets.numpy()[order], return_index=True)
    return order[np.union1d(np.arange(ceil(SHARE * len(split))), first)].tolist()


def class_means(z: Tensor, targets: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Returns means (C, D) of features (n, D) by class, and which classes have features."""
    counts = torch.bincount(targets, minlength=classes)
    sums = z.new_zeros(classes, z.shape[1]).index_add_(0, targets, z)
    return sums / counts.clamp(min=1)[:, None], counts > 0


def distances(z: Tensor, prototypes: Tensor) -> Tensor:
    """Returns Euclidean distances (B, C); at distance zero the gradient is zero."""
    return torch.cdist(z, prototypes, compute_mode="donot_use_mm_for_euclid_dist")


def weights_of(scores: Tensor, variant: str) -> Tensor:
    """Returns w_k (N,) from scores (N,): how far each modality lags behind the fastest."""
    if variant == "release":
        return (scores < scores.max()).to(scores.dtype)
    lag = scores.max() / scores.clamp(min=torch.finfo(scores.dtype).tiny) - 1
    return lag.clamp(0, 1)
