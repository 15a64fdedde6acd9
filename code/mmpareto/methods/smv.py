"""SMV: sample-level modality valuation and resampling (Wei et al., CVPR 2024)."""

from argparse import Namespace

import numpy as np
import torch
from torch import Tensor

from ..core import distributed
from ..data.batches import consecutive, loader
from ..data.samples import Batch
from ..models.fusions.base import Fusion, Output
from ..models.predict import outputs
from ..models.shapley import Coalition, coalitions, shapley
from ..system.flags import non_negative
from .base import Decision, JointMethod

LIMITS = 1.0, 0.4, -0.1  # a sample gets one more copy for each limit that its value is below


class SMV(JointMethod):
    """Trains the joint loss; modalities that contribute little come once more, alone.

    Before every epoch after the warm-up, each modality of each training sample is valued. v(S) is
    the number of modalities in S if the joint prediction from their features alone, with all other
    features at zero, is right, else 0. phi_k is the Shapley value of modality k in v. All
    predictions are made in evaluation mode, without augmentation.

    --level sample: a sample comes once more with modality k alone for each of the limits 1, 0.4 and
    -0.1 that its phi_k is below. --level modality: n copies of samples drawn with replacement have
    only the modality with the smallest mean phi. n is 2/3 of the number of samples, times
    --resampling_rate, times the difference between the largest and the smallest mean phi.
    In a copy, the features of all other modalities are zero in the joint head.

    The released code cannot run. It values under augmentation, and two modalities only; at the
    modality level it values a random fifth of the samples.
    """

    @classmethod
    def add_flags(cls, parser) -> None:
        super().add_flags(parser)
        # fmt: off
        add = parser.add_argument
        add("--level", choices=("sample", "modality"), default="sample",
            help="what decides the copies: each sample's own values, or the means over all samples")
        add("--warm_up", type=non_negative(int), default=5, metavar="EPOCHS",
            help="epochs of plain training at first, >= 0")
        add("--resampling_rate", type=non_negative(float), default=1.0,
            help="with --level modality, the factor on the number of copies, >= 0")
        # fmt: on

    @staticmethod
    def runs_with(fusion: type[Fusion]) -> bool:
        return fusion.late and not fusion.tapped and not fusion.multitask

    def __init__(self, model: Fusion, flags: Namespace):
        super().__init__(model, flags)
        self._copies: Tensor | None = None
        self._measures: dict[str, Tensor] = {}  # of this epoch's valuation

    def start_epoch(self, trainer) -> None:
        super().start_epoch(trainer)
        if trainer.epoch < self.flags.warm_up:
            return
        phi = self.values(trainer)
        means, samples = phi.nanmean(0), len(phi)
        if self.flags.level == "sample":
            self._copies = by_sample(phi)
        else:
            seed = [trainer.flags.random_seed, self.epoch]
            self._copies = by_modality(means, samples, self.flags.resampling_rate, seed)
        for k, name in enumerate(self.model.encoders):
            self._measures[f"value_{name}"] = means[k]
            self._measures[f"copies_{name}"] = self._copies[:, k].sum() / samples

    def copies(self) -> Tensor | None:
        return self._copies

    def forward(self, batch: Batch) -> Output:
        return self.model(batch.inputs)  # what a copy lacks is missing in the joint head only

    def decide(self, output: Output, batch: Batch) -> Decision:
        if batch.present is not None:
            output = output._replace(joint=self.model.joint(batch.present.only(output.features)))
        return super().decide(output, batch)

    def adjust(self) -> dict[str, Tensor]:
        return self._measures

    def values(self, trainer) -> Tensor:
        """Returns phi (samples, modalities); NaN for samples that --limit_batches leaves out."""
        flags, split = trainer.flags, trainer.data.splits["train"]
        batches = loader(split, flags.batch_size, workers=flags.workers)
        found = outputs(self.model, batches, trainer.device, flags.limit_batches)
        indices = [batch for batch, _ in consecutive(len(split), flags.batch_size)]
        own = [
            (rows, valued(self.model, output, targets))
            for (output, targets), rows in zip(found, indices, strict=False)
        ]
        phi = torch.full((len(split), len(self.model.encoders)), torch.nan, dtype=torch.float64)
        for part in distributed.gather(own):
            for rows, values in part:
                phi[rows] = values
        return phi


@torch.no_grad()
def valued(model: Fusion, output: Output, targets: Tensor) -> Tensor:
    """Returns phi (B, modalities), float64 on the CPU, from a batch's features and targets (B,)."""
    none = {name: torch.zeros_like(z) for name, z in output.features.items()}

    def worth(present: Coalition) -> Tensor:
        given = {name: output.features[name] for name in present}
        is_right = model.joint({**none, **given}).argmax(1).cpu() == targets
        return is_right.double() * len(present)

    v = {present: worth(present) for present in coalitions(none)}
    phi = shapley(none, {frozenset(): torch.zeros(len(targets)), **v})
    return torch.stack([*phi.values()], dim=1)


def by_sample(phi: Tensor) -> Tensor:
    """Returns the numbers of copies (samples, modalities) from values; none where they are NaN."""
    limits = phi.new_tensor(LIMITS) - 1e-6  # sums of thirds are not exact
    return (phi[..., None] < limits).sum(2)


def by_modality(means: Tensor, samples: int, rate: float, seed: list[int]) -> Tensor:
    """Returns the numbers of copies (samples, modalities) from the modalities' mean values."""
    number = round(2 / 3 * float(means.max() - means.min()) * rate * samples)
    drawn = np.random.default_rng(seed).integers(samples, size=number)
    copies = torch.zeros(samples, len(means), dtype=torch.int64)
    copies[:, means.argmin()] = torch.from_numpy(np.bincount(drawn, minlength=samples))
    return copies
