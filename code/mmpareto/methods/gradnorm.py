"""GradNorm (Chen et al., ICML 2018) on each encoder's two gradients."""

from functools import partial

import torch
from torch import Tensor

from ..core import distributed, integrate
from ..core.integrator import Rule
from ..models.fusions.base import Fusion
from ..system.flags import non_negative, positive
from .base import Decision, IntegratingMethod

LEAST = 1e-3  # of a weight, which gradient descent alone could make negative


class GradNorm(IntegratingMethod):
    """h = w_J j + w_k g with weights that let both losses fall at one rate; w_J + w_k = 2.

    With G = w ||gradient|| on the encoder's last stage and r the loss's share of its first value,
    over the mean of both shares, the weights descend sum |G - mean(G) r^alpha|, the target held
    fixed; they are then made positive and to sum to 2. A step uses the weights before its update.
    No parameter has all losses in common, so each encoder has its own pair, which acts on its own
    gradient only (ours).
    """

    @staticmethod
    def add_flags(parser) -> None:
        parser.add_argument(
            "--alpha",
            type=non_negative(float),
            default=1.5,
            help="how strongly the slower loss is favoured, >= 0",
        )
        parser.add_argument(
            "--weight_learning_rate",
            type=positive(float),
            default=0.025,
            help="of the losses' weights, > 0",
        )

    def __init__(self, model: Fusion, forward, options):
        super().__init__(model, forward, options)
        self._norms: dict[str, Tensor] = {}  # of both gradients of each encoder's last stage
        self._losses: list[dict[str, Tensor]] = []  # of the micro-batches since the last step

    def rule(self, encoder: str) -> Rule:
        device = next(self.model.parameters()).device
        self.state[f"weights_{encoder}"] = torch.ones(2, device=device)
        self.state[f"first_losses_{encoder}"] = torch.full((2,), torch.nan, device=device)
        module = self.model.encoders[encoder]
        last = set((module.stages[-1] if hasattr(module, "stages") else module).parameters())
        trained = [p for p in module.parameters() if p.requires_grad]
        places = torch.tensor([i for i, p in enumerate(trained) if p in last], device=device)
        return partial(self.integrate, encoder, places)

    def decide(self, inputs: dict, targets: Tensor) -> Decision:
        decision = super().decide(inputs, targets)
        self._losses.append({name: loss.detach() for name, loss in decision.losses.items()})
        return decision

    def adjust(self) -> dict[str, Tensor]:
        parts, self._losses = self._losses, []
        totals = {
            name: distributed.mean(sum(part[name] / len(parts) for part in parts))
            for name in parts[0]
        }
        measures = {}
        common, own = self.model.objectives(totals)
        for name, norms in self._norms.items():
            pair = [common, own[name]]
            weights, first = self.state[f"weights_{name}"], self.state[f"first_losses_{name}"]
            measures |= {f"joint_weight_{name}": weights[0].clone()}
            first.copy_(torch.where(first.isnan(), torch.stack(pair), first))
            weights.copy_(
                updated(
                    weights, norms.to(weights), torch.stack(pair) / first,
                    self.options.alpha, self.options.weight_learning_rate,
                )
            )  # fmt: skip
        return measures

    @torch.no_grad()
    def integrate(self, encoder: str, last: Tensor, j: list[Tensor], g: list[Tensor]) -> tuple:
        """last: where the last stage's gradients stand in j and g."""
        gram = integrate.gramian(j, g)
        self._norms[encoder] = gram[::2, last].sum(1).sqrt()
        return integrate.apply(j, g, gram, *self.state[f"weights_{encoder}"].to(gram).clone())


def updated(
    weights: Tensor, norms: Tensor, shares: Tensor, alpha: float, learning_rate: float
) -> Tensor:
    """The next weights (2,), from the gradients' norms and each loss's share of its first value."""
    length = weights * norms
    target = length.mean() * (shares / shares.mean()) ** alpha
    weights = weights - learning_rate * (length - target).sign() * norms
    weights = weights.clamp(min=LEAST)
    return 2 * weights / weights.sum()
