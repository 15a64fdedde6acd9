"""MMPareto (Wei and Hu, ICML 2024)."""

from argparse import Namespace
from functools import partial

from ..core import integrate
from ..core.integrator import Rule
from ..models.fusions.base import Fusion
from ..system.errors import UserError
from ..system.flags import positive
from .base import GramianMethod


class MMParetoMethod(GramianMethod):
    """h follows a direction common to j and g, and is gamma times as long as j + g."""

    @classmethod
    def add_flags(cls, parser) -> None:
        super().add_flags(parser)
        # fmt: off
        add = parser.add_argument
        add("--gamma", type=positive(float), default=1.5,
            help="factor on the length of each encoder's gradient, > 0")
        add("--granularity", choices=integrate.GRANULARITIES, default="encoder",
            help="unit of rescaling: encoder never ascends a loss; tensor is the released script's "
                 "rule and may ascend one; none keeps the length of the common direction")
        # fmt: on

    def __init__(self, model: Fusion, flags: Namespace):
        if flags.gramian == "features" and flags.granularity == "tensor":
            raise UserError(
                "--granularity tensor rescales parameter by parameter, and --gramian features sees "
                "no parameter's gradients: drop --granularity tensor or --gramian features"
            )
        super().__init__(model, flags)

    def plain(self) -> float:
        return self.flags.gamma

    def rule(self, encoder: str) -> Rule:
        gamma, granularity = self.flags.gamma, self.flags.granularity
        return partial(integrate.mmpareto_rule, gamma=gamma, granularity=granularity)
