"""CAGrad: conflict-averse gradient descent (Liu et al., NeurIPS 2021) on an encoder's gradients."""

from functools import partial

import torch
from torch import Tensor

from ..core import integrate
from ..core.integrator import Rule
from ..system.flags import non_negative
from .base import GramianMethod

RESCALE = {"none": lambda c: 1.0, "square": lambda c: 1 + c**2, "linear": lambda c: 1 + c}


class CAGrad(GramianMethod):
    """The step near m = (j + g) / 2 from which the worse off of both losses gains most.

    h = scale * (m + c ||m|| q / ||q||) with q in the segment [j, g] minimising
    <q, m> + c ||m|| ||q||. It can ascend one of the losses where c < 1. The released code divides
    h by 1 + c^2 and multiplies it by the number of tasks (--rescale square --scale 2) on images,
    and divides it by 1 + c on the toy problem. It searches q numerically; here q is exact. Where
    q vanishes because a gradient is zero, h = scale * m, as in the release.
    """

    scaled = True

    @classmethod
    def add_flags(cls, parser) -> None:
        super().add_flags(parser)
        # fmt: off
        add = parser.add_argument
        add("--c", type=non_negative(float), default=0.5,
            help="largest distance from m, as a share of its length, >= 0")
        add("--rescale", choices=RESCALE, default="none",
            help="divide h by 1 + c^2 (square), by 1 + c (linear), or not")
        # fmt: on

    def rule(self, encoder: str) -> Rule:
        c, scale = self.flags.c, self.flags.scale / RESCALE[self.flags.rescale](self.flags.c)
        return partial(integrate.weighted_rule, weighting=partial(weights, c=c), scale=scale)


def weights(gram: Tensor, c: float) -> Tensor:
    """Returns the weights (2,) of j and g in m + c ||m|| q / ||q||, from their Gramian (2, 2).

    With q = m + t (j - g), t in [-1/2, 1/2], the minimised function is convex in t. Its derivative
    vanishes at t = -p / E (1 + sqrt(det / (c^2 ||m||^2 E - p^2))), p = <j - g, m>,
    E = ||j - g||^2; where no t makes it vanish, it falls towards one end.
    """
    (jj, jg), (_, gg) = gram
    mean, apart, lean = (jj + 2 * jg + gg) / 4, jj - 2 * jg + gg, (jj - gg) / 2
    root = c**2 * mean * apart - lean**2
    reach = torch.where(root > 0, ((jj * gg - jg**2).clamp(min=0) / root).sqrt(), torch.inf)
    t = (-lean / apart * (1 + reach)).nan_to_num(0.0).clamp(-0.5, 0.5)  # 0 / 0: m is nearest
    q = torch.stack([0.5 + t, 0.5 - t])
    length = (q @ gram @ q).clamp(min=0).sqrt()
    step = torch.where(length > 0, c * mean.sqrt() / length, 0.0)
    opposite = (t.abs() < 0.5) & (length <= integrate.STATIONARY * (jj.sqrt() + gg.sqrt()))
    return torch.where(opposite, 0.0, 0.5 + step * q)  # with c >= 1: no step helps both
