"""Conventional Pareto (MGDA; Sener and Koltun 2018) on each encoder's two gradients."""

from functools import partial

from ..core import integrate
from ..core.integrator import Rule
from .base import GramianMethod


class Pareto(GramianMethod):
    """Each encoder takes scale times the shortest convex combination of its two gradients.

    The paper compares with this method but released no code of it.
    """

    scaled = True

    def rule(self, encoder: str) -> Rule:
        return partial(integrate.pareto_rule, scale=self.flags.scale)
