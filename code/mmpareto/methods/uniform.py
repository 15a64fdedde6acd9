"""Uniform baseline: every loss has weight 1."""

from argparse import Namespace

from torch import Tensor

from ..core import integrate
from ..core.integrator import Integrator
from ..data.samples import Batch
from ..models.fusions.base import Fusion, Output, total
from ..system.errors import UserError
from ..system.flags import positive
from .base import Decision, Method


class Uniform(Method):
    """L = L_joint + sum_k L_k, in one backward pass; with two tasks, the sum of their losses.

    --gamma multiplies the gradients of encoders, but not those of heads and fusion, as MMPareto
    does on every step without conflict. --observe also computes each encoder's two gradients
    separately, and only records their numbers.
    """

    masks = True

    @staticmethod
    def runs_with(fusion: type[Fusion]) -> bool:
        return True

    @classmethod
    def add_flags(cls, parser) -> None:
        # fmt: off
        add = parser.add_argument
        add("--gamma", type=positive(float), default=1.0, help="factor on encoders' gradients, > 0")
        add("--observe", action="store_true",
            help="also record cosine, norms and conflict of each encoder's two gradients; the "
                 "trained weights stay the same, but each step needs more backward passes")
        # fmt: on

    def __init__(self, model: Fusion, flags: Namespace):
        super().__init__(model, flags)
        self.integrator = None
        if flags.observe:
            if model.multitask and model.late:
                raise UserError(
                    f"--observe: in --fusion {flags.fusion} no encoder has two losses: "
                    "drop --observe"
                )
            if flags.accumulate > 1:
                raise UserError(
                    f"--observe looks at a whole batch at once: drop --accumulate "
                    f"{flags.accumulate}, or drop --observe"
                )
            rule = integrate.uniform_rule
            self.integrator = Integrator(model, model.encoders, rule, late=model.late)

    def decide(self, output: Output, batch: Batch) -> Decision:
        losses = output.losses(batch.targets)
        loss, encoders = total(losses.values()), {}
        if self.integrator:
            objectives = self.model.objectives(output, losses)
            pairs = self.integrator.observe(objectives.joint, objectives.own)
            encoders = {name: integrate.uniform_rule(j, g)[1] for name, (j, g) in pairs.items()}
        return Decision(loss, losses, encoders=encoders)

    def adjust(self) -> dict[str, Tensor]:
        if self.flags.gamma != 1:
            for param in self.model.encoders.parameters():
                if param.grad is not None:
                    param.grad.mul_(self.flags.gamma)
        return {}
