"""MetaBalance (He et al., WWW 2022) on each encoder's two gradients."""

from functools import partial

import torch
from torch import Tensor

from ..core import integrate
from ..core.integrator import Rule
from ..system.flags import fraction, share
from .base import IntegratingMethod

VARIANTS = {
    "shrink": lambda joint, own: own > joint,
    "enlarge": lambda joint, own: own < joint,
    "both": lambda joint, own: torch.ones_like(own, dtype=torch.bool),
}


class MetaBalance(IntegratingMethod):
    """h = j + (rho n_J / n_k + 1 - rho) g in every parameter tensor: g is brought near j's length.

    n_J and n_k are running means of the tensor's norms of j and g. They start at zero, which
    cancels in the ratio. The joint loss is the target, the unimodal loss auxiliary. The paper also
    names variants that only shrink or only enlarge g; the released code does both. Where g is
    zero, the tensor keeps j; the release divides by zero there.
    """

    masks = True

    @classmethod
    def add_flags(cls, parser) -> None:
        # fmt: off
        add = parser.add_argument
        add("--rho", type=share, default=0.7,
            help="how closely norms are matched, from 0 (not at all) to 1")
        add("--beta", type=fraction, default=0.9, help="memory of the norms, in [0, 1)")
        add("--variant", choices=VARIANTS, default="both", help="which tensors of g are changed")
        # fmt: on

    def rule(self, encoder: str) -> Rule:
        params = [p for p in self.model.encoders[encoder].parameters() if p.requires_grad]
        norms = torch.zeros(2, len(params), device=params[0].device if params else None)
        self.state[f"norms_{encoder}"] = norms
        return partial(self.integrate, norms)

    @torch.no_grad()
    def integrate(self, norms: Tensor, j: list[Tensor], g: list[Tensor]) -> tuple:
        gram = integrate.gramian(j, g, each=True)
        norms.lerp_(gram[::2].sqrt().to(norms), 1 - self.flags.beta)
        joint, own = norms
        near = self.flags.rho * joint / own + 1 - self.flags.rho
        factor = torch.where((own > 0) & VARIANTS[self.flags.variant](joint, own), near, 1.0)
        for x, y, f in zip(j, g, factor.to(g[0].dtype), strict=True):
            x.addcmul_(y, f)
        one, no = gram.new_ones(()), torch.zeros_like(gram[0, 0], dtype=torch.bool)
        conflict = integrate.in_conflict(gram)
        return j, integrate.stats(gram, (one, factor.mean()), one, no, conflict)
