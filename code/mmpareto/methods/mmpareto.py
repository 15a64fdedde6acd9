"""MMPareto (Wei and Hu, ICML 2024)."""

from .. import core
from ..core import Integrator
from ..flags import positive
from ..integrate import GRANULARITIES
from .base import IntegratingMethod


class MMPareto(IntegratingMethod):
    """Direction common to both gradients of an encoder, length gamma times that of their sum."""

    @staticmethod
    def add_flags(parser) -> None:
        parser.add_argument(
            "--gamma",
            type=positive(float),
            default=1.5,
            help="factor on the length of each encoder's gradient",
        )
        parser.add_argument(
            "--granularity",
            choices=GRANULARITIES,
            default="encoder",
            help="what is rescaled as one: encoder never ascends a loss; tensor is the released "
            "script's rule, which can",
        )

    def integrator(self) -> Integrator:
        return core.MMPareto(
            self.model,
            self.model.encoders,
            gamma=self.options.gamma,
            granularity=self.options.granularity,
            late=self.model.late,
        )
