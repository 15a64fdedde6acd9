"""Integrate the two gradients that meet in one encoder.

Symbols, for one encoder: j is the gradient of the joint loss and g that of the encoder's own
(unimodal) loss, both as lists of tensors in the order of the encoder's parameters; s = j + g is
what the uniform baseline applies, d the direction chosen, h the integrated gradient.

Every method here maps the Gramian (<j,j>, <j,g>, <g,g>) to one weight for j and one for g; only
`apply` touches the gradients again. Nothing is differentiated through and nothing is copied to the
host, so an integration on a GPU never waits for it. Where j and g are only this process's part of
something larger, their Gramian can be given as gram.

MMPareto: Wei and Hu, "Boosting Multimodal Learning with Innocent Unimodal Assistance", ICML 2024.
Pareto (MGDA): Desideri 2012; Sener and Koltun 2018.
"""

from collections.abc import Callable, Iterator
from functools import reduce, wraps
from operator import add
from typing import NamedTuple

import torch
from torch import Tensor

# ||d|| below this share of ||j|| + ||g|| is float32 rounding of exactly opposite gradients (which
# stays under 1e-7); gradients that miss being opposite by an angle of 1e-3 rad give 5e-4.
STATIONARY = 1e-6
# Below this share, rounding in float32 changes d by up to 2e-7 / share of its length, which
# can exceed the cosine of d with j or g, as small as share / 2: h could ascend.
CANCELLING = 1e-3
# v * x and w * y rounded to these would not cancel at any share, and a weight can overflow them.
NARROW = (torch.float16, torch.bfloat16)
# Small tensors are computed together, up to so many numbers: a GPU prefers few kernels. On a CPU,
# float64 copies of so many numbers stay in the cache.
AT_ONCE = {"cpu": 1 << 18, "gpu": 1 << 24}
GRANULARITIES = ("encoder", "tensor", "none")


class Stats(NamedTuple):
    """What was decided for one encoder: tensors of shape (), float64 or bool, on its device."""

    cos: Tensor  # cosine of j and g over the whole encoder; NaN where one of them is zero
    joint_norm: Tensor  # ||j||
    unimodal_norm: Tensor  # ||g||
    joint_weight: Tensor  # d = joint_weight * j + unimodal_weight * g
    unimodal_weight: Tensor
    scale: Tensor  # ||h|| / ||d||, zero where d is stationary
    conflict: Tensor  # cos <= 0, both gradients non-zero
    stationary: Tensor  # d vanishes: no direction is common to both objectives, h = 0


Tensors = list[Tensor]  # of one encoder
Integrated = tuple[Tensors, Stats]  # h, and how it was decided


def gramian(j: Tensors, g: Tensors, *, each: bool = False) -> Tensor:
    """Return <j,j>, <j,g> and <g,g>: float64, shape (3, parts), to be summed over the parts.

    Small tensors share a part; with each, every tensor is a part of its own.

    Products are summed in float64: summed in float32, two million numbers against -3 times
    themselves look 3e-4 away from opposite, which the rescale would blow up into a step of noise.
    """
    if not j:
        return torch.zeros(3, 0, dtype=torch.float64)
    j, g, rows = _as_real(j), _as_real(g), []
    most = max(1, min(_at_once(j[0]), sum(x.numel() for x in j)))
    first, second = torch.empty(2, most, dtype=widest(j[0].device), device=j[0].device)
    for part in _parts(j, g, each):
        sums = []
        for a, b in zip(*(_flat(side).split(most) for side in part), strict=True):
            a, b = first[: len(a)].copy_(a), second[: len(b)].copy_(b)
            sums.append(torch.stack([torch.dot(a, a), torch.dot(a, b), torch.dot(b, b)]))
        rows.append(reduce(add, sums))
    return torch.stack(rows, dim=1)


def _parts(j: Tensors, g: Tensors, each: bool = False) -> Iterator[tuple[Tensors, Tensors]]:
    """Yield j and g part by part; small tensors of one type share a part, unless with each."""
    xs: Tensors = []
    ys: Tensors = []
    size = 0
    for x, y in zip(j, g, strict=True):
        size += x.numel()
        differs = xs and (x.dtype != xs[0].dtype or x.is_complex())  # may be conjugated lazily
        if xs and (each or differs or size > _at_once(x)):
            yield xs, ys
            xs, ys, size = [], [], x.numel()
        if x.dim() == 4 and x.stride(1) == y.stride(1) == 1:  # channels_last: flat without a copy
            x, y = x.permute(0, 2, 3, 1), y.permute(0, 2, 3, 1)
        xs.append(x)
        ys.append(y)
    if xs:
        yield xs, ys


def _flat(tensors: Tensors) -> Tensor:
    flat = [x.reshape(-1) for x in tensors]
    return torch.cat(flat) if len(flat) > 1 else flat[0]


def _at_once(x: Tensor) -> int:
    return AT_ONCE["cpu" if x.is_cpu else "gpu"]


def _as_real(tensors: Tensors) -> Tensors:
    """Split complex numbers into their two parts, so that <a, b> is Re(conj(a) b)."""
    return [torch.view_as_real(x.resolve_conj()) if x.is_complex() else x for x in tensors]


def min_norm(jj: Tensor, jg: Tensor, gg: Tensor) -> Tensor:
    """Return the alpha in [0, 1] for which alpha * j + (1 - alpha) * g is shortest (MGDA)."""
    inside = (gg - jg) / (jj + gg - 2 * jg)
    alpha = torch.where(jg >= gg, 0.0, inside)
    alpha = torch.where(jg >= jj, 1.0, alpha)
    return torch.where((jg >= jj) & (jg >= gg), 0.5, alpha)  # only if j = g


def _of_gramian(rule: Callable) -> Callable:
    """Turn a rule of j, g and their Gramian into one of j and g; gram may still be given."""

    @wraps(rule)
    @torch.no_grad()
    def of_gradients(j, g, *, gram=None, **settings) -> Integrated:
        if gram is None:
            gram = gramian(j, g, each=settings.get("granularity") == "tensor")
        return rule(j, g, gram, **settings)

    return of_gradients


@_of_gramian
def mmpareto_rule(
    j: Tensors, g: Tensors, gram: Tensor, *, gamma: float = 1.5, granularity: str = "encoder"
) -> Integrated:
    """h of MMPareto: the direction common to j and g, with gamma times the length of their sum.

    Without conflict (cos > 0) d = j + g, otherwise d = 2 alpha j + 2 (1 - alpha) g with alpha from
    `min_norm`; h = gamma ||j + g|| / ||d|| d. So ||h|| = gamma ||j + g||, and neither objective
    ascends along h: <h,j> >= 0 and <h,g> >= 0, since d/2 is the shortest point of the segment from
    j to g.

    granularity "tensor" rescales each tensor by its own norms, as the authors' released script
    does; it gives up that guarantee (h can ascend the joint loss). "none" leaves ||j + g|| / ||d||
    out, h = gamma d: the direction without its length. May overwrite j.
    """
    alpha = min_norm(*gram.sum(1))
    conflict = in_conflict(gram)
    weights = torch.where(conflict, 2 * alpha, 1.0), torch.where(conflict, 2 - 2 * alpha, 1.0)
    return apply(j, g, gram, *weights, scale=gamma, rescale=granularity, conflict=conflict)


@_of_gramian
def pareto_rule(j: Tensors, g: Tensors, gram: Tensor, *, scale: float = 1) -> Integrated:
    """h of conventional Pareto (MGDA): scale times the shortest convex combination of j and g.

    scale 1 is the textbook; 2 makes the weights sum to 2, as the uniform baseline's do. May
    overwrite j.
    """
    alpha = min_norm(*gram.sum(1))
    return apply(j, g, gram, alpha, 1 - alpha, scale=scale)


@_of_gramian
def uniform_rule(j: Tensors, g: Tensors, gram: Tensor) -> Integrated:
    """h of the uniform baseline: j + g. May overwrite j."""
    one = gram.new_ones(())
    return apply(j, g, gram, one, one)


@_of_gramian
def weighted_rule(
    j: Tensors, g: Tensors, gram: Tensor, weighting: Callable[[Tensor], Tensor], *, scale: float = 1
) -> Integrated:
    """h = scale * (w_1 j + w_2 g) with w (2,) = weighting(Gramian (2, 2)), as torchjd's are.

    The weighting sees the Gramian divided by its mean diagonal, so that what regularises it means
    the same for gradients of any length. It is never given one that is not finite: some
    fail on it, others return finite weights; h is then not finite either way. May overwrite j.
    """
    jj, jg, gg = gram.sum(1)
    size = (jj + gg) / 2
    square = torch.stack([jj, jg, jg, gg]).view(2, 2) / torch.where(size > 0, size, 1.0)
    square = torch.where(square.isfinite().all(), square, torch.eye(2).to(square))
    return apply(j, g, gram, *weighting(square).to(square), scale=scale)


def apply(
    j: Tensors, g: Tensors, gram: Tensor, joint_weight: Tensor, unimodal_weight: Tensor, *,
    scale: float = 1, rescale: str = "none", conflict: Tensor | None = None,
) -> Integrated:  # fmt: skip
    """h = scale * d, written over j, with d = joint_weight * j + unimodal_weight * g.

    rescale "encoder" first lengthens d to the norm of j + g (never shortens it), "tensor" does so
    tensor by tensor. Where d vanishes beside j and g, h is zero: rounding is never amplified.
    Where it nearly does, it is computed in float64 and rounded once.
    """
    if rescale == "tensor" and gram.shape[1] != len(j):
        raise ValueError(
            f"gram is of {gram.shape[1]} parts, and {len(j)} tensors are rescaled: make it with "
            "gramian(j, g, each=True)"
        )
    level = gram if rescale == "tensor" else gram.sum(1, keepdim=True)
    length = _norm(level, joint_weight, unimodal_weight)
    both = level[0].sqrt() + level[2].sqrt()
    stationary = length <= STATIONARY * both
    factor = torch.full_like(length, scale)
    if rescale != "none":
        factor = factor * (_norm(level, 1, 1) / length).clamp(min=1)
    factor = torch.where(stationary, 0.0, factor)
    weights = torch.stack([factor * joint_weight, factor * unimodal_weight], dim=1)
    # A GPU casts to float64 as it reads; a CPU needs copies, so only where it must.
    exact = (length <= CANCELLING * both).tolist() if gram.is_cpu else [True] * len(length)
    sides = [([x], [y]) for x, y in zip(j, g, strict=True)] if rescale == "tensor" else [(j, g)]
    for side, pair, wide in zip(sides, weights, exact, strict=True):
        (_combine_wide if wide else _combine)(*side, *pair)
    total = torch.where(stationary.all(), 0.0, (factor * length).norm() / length.norm())
    conflict = in_conflict(gram) if conflict is None else conflict
    return j, stats(gram, (joint_weight, unimodal_weight), total, stationary.all(), conflict)


def _combine(j: Tensors, g: Tensors, v: Tensor, w: Tensor) -> None:
    """Write v * j + w * g over j, rounded to its type, or to float32, at each step."""
    for x, y in zip(j, g, strict=True):
        if x.dtype in NARROW:
            x.copy_(x.float().mul_(v).addcmul_(y.float(), w.float()))
        else:
            x.mul_(v).addcmul_(y, w.to(y.dtype))


def _combine_wide(j: Tensors, g: Tensors, v: Tensor, w: Tensor) -> None:
    """Write v * j + w * g over j, computed in the type of v and w and rounded once."""
    for xs, ys in _parts(j, g):
        a, b = (side[0] if len(side) == 1 else _flat(side) for side in (xs, ys))
        # expanded, for torch computes in the type of tensors that are no scalars
        torch.addcmul(b * w.expand_as(b), a, v.expand_as(a), out=a)
        if len(xs) > 1:
            parts = a.split([x.numel() for x in xs])
            torch._foreach_copy_(xs, [h.view_as(x) for h, x in zip(parts, xs, strict=True)])


def stats(
    gram: Tensor, weights: tuple, scale: Tensor, stationary: Tensor, conflict: Tensor
) -> Stats:
    """Return what was decided for the encoder of this Gramian."""
    jj, jg, gg = gram.sum(1)
    cos, (joint, own) = jg / (jj * gg).sqrt(), weights
    return Stats(cos, jj.sqrt(), gg.sqrt(), joint, own, scale, conflict, stationary)


def unseen(device: torch.device, scale: float) -> Stats:
    """Return what is known of a step that applied scale times j + g without looking at j and g.

    Filled on the device: to copy these numbers there, the host would wait for it.
    """
    nan, one, factor = (
        torch.full((), x, dtype=widest(device), device=device) for x in (torch.nan, 1, scale)
    )
    no = torch.full((), False, device=device)
    return Stats(nan, nan, nan, one, one, factor, no, no)


def in_conflict(gram: Tensor) -> Tensor:
    """Return whether cos <= 0 over the whole encoder, with neither gradient zero."""
    jj, jg, gg = gram.sum(1)
    return (jj > 0) & (gg > 0) & (jg <= 0)


def _norm(gram: Tensor, joint_weight, unimodal_weight) -> Tensor:
    """Return ||joint_weight * j + unimodal_weight * g||, computed from the Gramian."""
    jj, jg, gg = gram
    square = joint_weight**2 * jj + 2 * joint_weight * unimodal_weight * jg
    return (square + unimodal_weight**2 * gg).clamp(min=0).sqrt()


def widest(device: torch.device) -> torch.dtype:
    """Return float64, or float32 on Apple's GPUs, which have nothing wider."""
    return torch.float32 if device.type == "mps" else torch.float64
