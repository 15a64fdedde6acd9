"""Diagnosing and re-learning (Wei et al., ECCV 2024)."""

from argparse import Namespace

import numpy as np
import torch
from torch import Tensor

from ..core import distributed
from ..data.batches import loader
from ..models import predict
from ..models.fusions.base import Fusion
from ..system.flags import non_negative, positive
from .base import JointMethod

MOST = 20  # epochs between two diagnoses, in the release


class Relearning(JointMethod):
    """Trains the joint loss; now and then every encoder goes back a part of the way to its start.

    The features of a split are scaled to [-1, 1] column by column, and k-means sorts them into as
    many clusters as there are classes. Their purity is the share of samples that belong to the most
    frequent class of their cluster. gap_k = |purity in training - purity in validation| of encoder
    k says how far it has over-fitted, w_k = tanh(strength gap_k), and
    theta_k <- w_k theta_k(start) + (1 - w_k) theta_k for all parameters of encoder k. Running
    statistics, heads and momenta stay.

    The first diagnosis comes after --relearn_every + 1 epochs, as in the release, the next ones
    every --relearn_every epochs. Purity is higher in small splits, so a gap can be there without
    over-fitting; --same_size compares a validation split with as many samples of training (ours).
    """

    needs_validation = True
    fixed_on_resume = frozenset({"epochs"})  # the default of --relearn_every follows from it

    @classmethod
    def add_flags(cls, parser) -> None:
        super().add_flags(parser)
        # fmt: off
        add = parser.add_argument
        add("--strength", type=non_negative(float), default=3.0,
            help="how far a gap between the purities takes an encoder back, >= 0")
        add("--relearn_every", type=positive(int), metavar="EPOCHS",
            help=f"epochs between two diagnoses, >= 1 (default: {MOST}, the release's, or a "
                 "quarter of --epochs if that is less)")
        add("--relearn_times", type=positive(int), default=3, metavar="N",
            help="number of diagnoses at most, >= 1")
        add("--same_size", action="store_true",
            help="diagnose as many training samples as there are validation samples")
        # fmt: on

    def __init__(self, model: Fusion, flags: Namespace):
        super().__init__(model, flags)
        self._measures: dict[str, Tensor] = {}  # of this epoch's diagnosis
        for name, param in model.encoders.named_parameters():
            self.lasting[f"start {name}"] = param.detach().clone()

    def start_epoch(self, trainer) -> None:
        super().start_epoch(trainer)
        self._measures = {}
        every = self.flags.relearn_every or max(1, min(MOST, trainer.flags.epochs // 4))
        times, rest = divmod(trainer.epoch - 1, every)
        if rest or not 0 < times <= self.flags.relearn_times:
            return
        purities = [self.purities(trainer, split) for split in ("train", "val")]
        for name, encoder in self.model.encoders.items():
            gap = abs(purities[0][name] - purities[1][name])
            weight = np.tanh(self.flags.strength * gap)
            for place, param in encoder.named_parameters():
                param.data.lerp_(self.lasting[f"start {name}.{place}"], float(weight))
            self._measures |= {
                f"gap_{name}": torch.tensor(gap),
                f"back_{name}": torch.tensor(weight),
            }

    def adjust(self) -> dict[str, Tensor]:
        return self._measures

    def purities(self, trainer, name: str) -> dict[str, float]:
        """Returns each encoder's purity on a split."""
        flags, splits = trainer.flags, trainer.data.splits
        split = splits[name]
        if self.flags.same_size and len(split) > len(splits["val"]):
            drawn = np.random.default_rng([flags.random_seed, self.epoch]).permutation(len(split))
            split = split.subset(drawn[: len(splits["val"])].tolist())
        batches = loader(split, flags.batch_size, workers=flags.workers)
        every, targets = predict.features(self.model, batches, trainer.device, flags.limit_batches)
        truth, classes = targets.numpy(), len(trainer.data.classes)
        found = {k: purity(truth, clusters(z.numpy(), classes)) for k, z in every.items()}
        return distributed.same(found)  # k-means may round differently in other processes


def clusters(features: np.ndarray, number: int) -> np.ndarray:
    """Returns the cluster (n,) of every row of features (n, D)."""
    from sklearn.cluster import KMeans  # it takes long to import
    from sklearn.preprocessing import minmax_scale

    different = len(np.unique(features, axis=0))
    means = KMeans(min(number, different), n_init=1, random_state=0)
    return means.fit_predict(minmax_scale(features, (-1, 1)))


def purity(targets: np.ndarray, found: np.ndarray) -> float:
    """Returns the share of samples in the most frequent class of their cluster."""
    most = [np.bincount(targets[found == cluster]).max() for cluster in np.unique(found)]
    return float(sum(most) / len(targets))
