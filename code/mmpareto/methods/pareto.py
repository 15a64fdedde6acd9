"""Conventional Pareto (MGDA; Sener and Koltun 2018) on each encoder's two gradients."""

from functools import partial

from ..core import integrate
from ..core.integrator import Rule
from .base import GramianMethod


class Pareto(GramianMethod):
    """Each encoder takes scale times the shortest convex combination of its two gradients.

    The MMPareto paper compares with this method but released no code of it. Sener and Koltun's code
    also weights the heads' gradients so, and its example first divides each gradient by its length
    times its loss (loss+), which their paper leaves out. Here heads keep their plain gradients.
    """

    scaled = True

    def rule(self, encoder: str) -> Rule:
        return partial(integrate.pareto_rule, scale=self.flags.scale)
