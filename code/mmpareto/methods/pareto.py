"""Conventional Pareto (MGDA; Sener and Koltun 2018) on each encoder's two gradients."""

from functools import partial

from ..core import integrate
from ..core.integrator import Rule
from .base import GramianMethod, add_scale_flag


class Pareto(GramianMethod):
    """Each encoder takes scale times the shortest convex combination of its two gradients.

    The paper compares with this method but released no code of it.
    """

    @staticmethod
    def add_flags(parser) -> None:
        GramianMethod.add_flags(parser)
        add_scale_flag(parser)

    def rule(self, encoder: str) -> Rule:
        return partial(integrate.pareto_rule, scale=self.flags.scale)
