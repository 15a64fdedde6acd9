"""UMT: uni-modal teachers (Du et al., ICML 2023)."""

from ..data.samples import Batch
from ..models.fusions.base import Output, total
from ..system.flags import non_negative
from .base import Decision
from .taught import TaughtMethod, distances


class UMT(TaughtMethod):
    """L = L_joint + s sum_k MSE(z_k, z_k^T), a mean over all entries of a batch's features.

    z_k^T are the features of modality k's teacher, a net that was trained alone and is frozen.

    No release of the authors is known, and the paper's s is not known to us: s = 10 is that of
    BalanceBenchmark, whose teachers stay in training mode, where their features depend on the
    batch. Teachers that are made here start from the run's seed, so from its initial weights.
    """

    @classmethod
    def add_flags(cls, parser) -> None:
        super().add_flags(parser)
        # fmt: off
        parser.add_argument("--feature_weight", type=non_negative(float), default=10.0,
            help="weight s of the distance to the teachers' features, >= 0")
        # fmt: on

    def decide(self, output: Output, batch: Batch) -> Decision:
        decision = super().decide(output, batch)
        found = distances(output, self.ask(batch))
        measures = {f"distance_{name}": x.detach() for name, x in found.items()}
        loss = decision.loss + self.flags.feature_weight * total(found.values())
        return decision._replace(loss=loss, measures=measures)
