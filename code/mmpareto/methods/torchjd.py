"""Any aggregator of torchjd (Quinton and Rey 2024) on each encoder's two gradients."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ..core import distributed, integrate
from ..core.integrator import Rule
from ..system.errors import UserError, reason
from .base import TorchJDMethod

# What these return depends on the angles and lengths of the rows alone, and lies in their plane.
IN_PLANE = ("ConFIG",)


class TorchJD(TorchJDMethod):
    """h = scale * A(j, g) with the aggregator A of --aggregator, with torchjd's own defaults.

    Most aggregators map the Gramian of j and g to two weights; they see it divided by its mean
    diagonal (see `integrate.weighted_rule`), so that what regularises them means the same for
    gradients of any length. ConFIG sees two rows of two numbers that have this Gramian (see
    `in_plane`). Others map the matrix (2, P) of j and g to a vector (P,). Random ones draw anew for
    every encoder and step.

    Aggregators that need arguments are refused, and so are those that remember earlier steps
    (NashMTL, GradVac, PCD, ExcessMTL): --resume could not put back what they remember.
    """

    scaled = True

    @classmethod
    def add_flags(cls, parser) -> None:
        super().add_flags(parser)
        # fmt: off
        parser.add_argument("--aggregator", default="ConFIG", metavar="NAME",
            help="class of torchjd.aggregation that needs no arguments, in any case of letters, as "
                 "in ConFIG, GradDrop, DualProj, MGDA, Random; a wrong name lists all")
        # fmt: on

    def rule(self, encoder: str) -> Rule:
        aggregator = self.aggregator(self.library())
        if weighting := weighting_of(aggregator):
            return partial(integrate.weighted_rule, weighting=weighting, scale=self.flags.scale)
        if self.gramian != "parameters":
            raise UserError(
                f"--gramian {self.gramian}: {aggregator} needs the gradients themselves, not their "
                "Gramian: use --gramian parameters"
            )
        return partial(aggregated, aggregator=aggregator, scale=self.flags.scale)

    def aggregator(self, torchjd):
        """Returns a new aggregator; UserError if it cannot be used."""
        public = {name: getattr(torchjd, name) for name in torchjd.__all__}
        known = {name: x for name, x in public.items() if issubclass(x, torchjd.Aggregator)}
        name = self.flags.aggregator
        kind = {own.lower(): kind for own, kind in known.items()}.get(name.lower())
        fault = why_not(kind) if kind else "torchjd has no aggregator of that name"
        if kind is None or fault:
            usable = ", ".join(own for own, kind in known.items() if not why_not(kind))
            raise UserError(f"--aggregator {name}: {fault}: choose one of {usable}")
        return kind()


def why_not(kind: type) -> str | None:
    """Returns why an aggregator cannot be used; None if it can."""
    from torchjd import Stateful

    if issubclass(kind, Stateful):
        return "it remembers earlier steps, and --resume could not put that back"
    try:
        kind()
    except TypeError:
        return "it needs arguments of its own"
    except ImportError as error:
        return f"it needs a package that is missing ({reason(error)})"
    return None


def weighting_of(aggregator) -> Callable[[Tensor], Tensor] | None:
    """Returns what maps the Gramian (2, 2) to two weights; None if the rows themselves count."""
    if type(aggregator).__name__ in IN_PLANE:
        return partial(in_plane, aggregator=aggregator)
    return getattr(aggregator, "gramian_weighting", None)


def in_plane(gram: Tensor, *, aggregator) -> Tensor:
    """Returns the two weights of an aggregator of IN_PLANE, computed from rows of two numbers each.

    ConFIG inverts the matrix of its rows. torch takes singular values below `columns * eps` times
    the largest one for zero. So ConFIG returns zeros for rows of 8.4 million float32 numbers, and
    for shorter ones that conflict; on a GPU it fails. The two rows are made on the CPU: there it
    waits for a GPU once, and not at each factorization.
    """
    squares, axes = torch.linalg.eigh(gram.cpu())
    rows = axes * squares.clamp(min=0).sqrt()  # rows @ rows.T is the Gramian
    return torch.linalg.pinv(rows.T) @ aggregator(rows)


@torch.no_grad()
def aggregated(
    j: list[Tensor], g: list[Tensor], *, aggregator, scale: float
) -> integrate.Integrated:
    """h = scale * aggregator(matrix of j and g), written over j.

    The weights in the log are those of the combination of j and g nearest to h; that is h itself
    unless entries are chosen one by one (GradDrop). Gradients that are not finite stay so: the
    aggregator, which may fail on them, gets zeros instead. All processes take the first one's h.
    """
    gram = integrate.gramian(j, g)
    finite = gram.isfinite().all()
    rows = torch.stack([torch.cat([x.reshape(-1) for x in side]) for side in (j, g)])
    rows = torch.where(finite, rows, 0.0)
    d = aggregator(rows)
    distributed.copy_from_first([d])
    jj, jg, gg = torch.where(finite, gram, 0.0).sum(1)  # rows @ rows.T may overflow
    near = torch.linalg.pinv(torch.stack([jj, jg, jg, gg]).view(2, 2)) @ (rows @ d).to(gram)
    h = torch.where(finite, scale * d, torch.nan)
    for x, part in zip(j, h.split([x.numel() for x in j]), strict=True):
        x.copy_(part.view_as(x))
    factor, stationary = gram.new_tensor(scale), ~d.any()
    conflict = integrate.in_conflict(gram)
    return j, integrate.stats(gram, tuple(near), factor, stationary, conflict)
