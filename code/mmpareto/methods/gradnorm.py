"""GradNorm (Chen et al., ICML 2018) on each encoder's two gradients."""

from argparse import Namespace
from functools import partial

import torch
from torch import Tensor

from ..core import distributed, integrate
from ..core.integrator import Rule
from ..data.samples import Batch
from ..models.fusions.base import Fusion, Output, total
from ..system.flags import non_negative, positive
from .base import Decision, IntegratingMethod

LEAST = 1e-3  # lower limit of a weight; gradient descent alone could make it negative


class GradNorm(IntegratingMethod):
    """h = w_J j + w_k g with weights that let both losses fall at one rate; w_J + w_k = 2.

    G is w ||gradient|| on the encoder's last stage, or on all of an encoder without stages. r is
    the loss's share of its first value, over the mean of both shares. The weights descend
    sum |G - mean(G) r^alpha|, with the target held fixed; then they are made positive and to sum to
    2. A step uses the weights before its update. No parameter is trained by all losses, so each
    encoder has its own pair of weights, which acts on its own gradient only (ours).
    """

    @classmethod
    def add_flags(cls, parser) -> None:
        # fmt: off
        add = parser.add_argument
        add("--alpha", type=non_negative(float), default=1.5,
            help="how strongly the slower loss is favoured, >= 0")
        add("--weight_learning_rate", type=positive(float), default=0.025,
            help="learning rate of the losses' weights, > 0")
        # fmt: on

    def __init__(self, model: Fusion, flags: Namespace):
        super().__init__(model, flags)
        self._norms: dict[str, Tensor] = {}  # {encoder: norms of both gradients on its last stage}
        # {encoder: its joint and own loss (2,)} of the micro-batches since the last step
        self._losses: list[dict[str, Tensor]] = []

    def rule(self, encoder: str) -> Rule:
        device = next(self.model.parameters()).device
        self.state[f"weights_{encoder}"] = torch.ones(2, device=device)
        self.state[f"first_losses_{encoder}"] = torch.full((2,), torch.nan, device=device)
        module = self.model.encoders[encoder]
        last = module.stages[-1] if hasattr(module, "stages") else module
        inside = set(last.parameters())
        trained = [p for p in module.parameters() if p.requires_grad]
        places = torch.tensor([i for i, p in enumerate(trained) if p in inside], device=device)
        return partial(self.integrate, encoder, places)

    def decide(self, output: Output, batch: Batch) -> Decision:
        decision = super().decide(output, batch)
        assert decision.objectives is not None
        joint, own, _ = decision.objectives
        self._losses.append({name: torch.stack([joint, x]).detach() for name, x in own.items()})
        return decision

    def adjust(self) -> dict[str, Tensor]:
        parts, self._losses = self._losses, []
        measures = {}
        for name, norms in self._norms.items():
            pair = distributed.mean(total(part[name] / len(parts) for part in parts))
            weights, first = self.state[f"weights_{name}"], self.state[f"first_losses_{name}"]
            measures |= {f"joint_weight_{name}": weights[0].clone()}
            first.copy_(torch.where(first.isnan(), pair, first))
            settings = self.flags.alpha, self.flags.weight_learning_rate
            weights.copy_(updated(weights, norms.to(weights), pair / first, *settings))
        return measures

    @torch.no_grad()
    def integrate(self, encoder: str, last: Tensor, j: list[Tensor], g: list[Tensor]) -> tuple:
        """Integrates one encoder; last: where the last stage's gradients stand in j and g."""
        gram = integrate.gramian(j, g, each=True)
        self._norms[encoder] = gram[::2, last].sum(1).sqrt()
        return integrate.apply(j, g, gram, *self.state[f"weights_{encoder}"].to(gram).clone())


def updated(
    weights: Tensor, norms: Tensor, shares: Tensor, alpha: float, learning_rate: float
) -> Tensor:
    """Returns the next weights (2,), from gradient norms and shares of the first losses."""
    length = weights * norms
    target = length.mean() * (shares / shares.mean()) ** alpha
    weights = (weights - learning_rate * (length - target).sign() * norms).clamp(min=LEAST)
    return 2 * weights / weights.sum()
