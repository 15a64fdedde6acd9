"""Literal, slow re-statements of the multi-task methods: two flat gradients in, one out."""

import math

import torch
from torch import Tensor


def pcgrad(j: Tensor, g: Tensor) -> Tensor:
    """Each loses its part against the other, as the other was before."""
    total = torch.zeros_like(j)
    for mine, other in ((j, g), (g, j)):
        projected = mine.clone()
        if float(projected @ other) < 0:
            projected = projected - (projected @ other) / (other @ other) * other
        total = total + projected
    return total


def cagrad(j: Tensor, g: Tensor, c: float) -> Tensor:
    """The convex function of w is followed downhill by halving [0, 1]."""
    mean = (j + g) / 2
    radius = c * mean.norm()
    low, high = 0.0, 1.0
    for _ in range(60):
        w = (low + high) / 2
        mixed = w * j + (1 - w) * g
        slope = (j - g) @ mean + radius * ((j - g) @ mixed) / mixed.norm()
        low, high = (low, w) if float(slope) > 0 else (w, high)
    w = high if high == 1 else low
    mixed = w * j + (1 - w) * g
    return mean + radius * mixed / mixed.norm()


def upgrad(j: Tensor, g: Tensor) -> Tensor:
    """The mean of both, each projected onto {x: <x,j> >= 0, <x,g> >= 0} by Dykstra's algorithm."""

    def half_space(x, normal):
        inner = float(x @ normal)
        return x if inner >= 0 else x - inner / float(normal @ normal) * normal

    def projected(x):
        corrections = [torch.zeros_like(x) for _ in range(2)]
        for _ in range(100):
            for i, normal in enumerate((j, g)):
                before = x + corrections[i]
                x = half_space(before, normal)
                corrections[i] = before - x
        return x

    return (projected(j) + projected(g)) / 2


def imtl_g(j: Tensor, g: Tensor) -> Tensor:
    """w j + (1 - w) g whose inner products with both directions are equal: linear in w."""
    u = j / j.norm() - g / g.norm()
    w = float(-(g @ u) / ((j - g) @ u))
    return w * j + (1 - w) * g


def aligned_mtl(j: Tensor, g: Tensor, singular_value: str) -> Tensor:
    """The mean row of U s V' for [j; g] = U S V', all singular values made s."""
    u, values, v = torch.linalg.svd(torch.stack([j, g]), full_matrices=False)
    s = values.min() if singular_value == "min" else values.square().mean().sqrt()
    return (s * u @ v).mean(0)


class GradNorm:
    """One encoder's weights, on lists of gradients, the last ones those of its last stage."""

    def __init__(self, alpha: float, learning_rate: float, last: int):
        self.alpha, self.learning_rate, self.last = alpha, learning_rate, last
        self.weights, self.first = [1.0, 1.0], None

    def step(self, j: list[Tensor], g: list[Tensor], losses: list[float]) -> list[Tensor]:
        self.first = self.first or losses
        h = [self.weights[0] * x + self.weights[1] * y for x, y in zip(j, g, strict=True)]
        norms = [math.sqrt(sum(float((x**2).sum()) for x in part[-self.last :])) for part in (j, g)]
        lengths = [w * n for w, n in zip(self.weights, norms, strict=True)]
        shares = [loss / first for loss, first in zip(losses, self.first, strict=True)]
        for i in range(2):
            rate = shares[i] / (sum(shares) / 2)
            target = sum(lengths) / 2 * rate**self.alpha
            self.weights[i] -= self.learning_rate * math.copysign(norms[i], lengths[i] - target)
        total = sum(self.weights)
        self.weights = [2 * w / total for w in self.weights]
        return h


class MetaBalance:
    """One encoder's running norms, two for each of its tensors."""

    def __init__(self, rho: float, beta: float, variant: str):
        self.rho, self.beta, self.variant = rho, beta, variant
        self.norms = {}

    def step(self, j: list[Tensor], g: list[Tensor], _) -> list[Tensor]:
        return [self.tensor(i, x, y) for i, (x, y) in enumerate(zip(j, g, strict=True))]

    def tensor(self, i: int, j: Tensor, g: Tensor) -> Tensor:
        target, own = self.norms.get(i, (0.0, 0.0))
        target = self.beta * target + (1 - self.beta) * float(j.norm())
        own = self.beta * own + (1 - self.beta) * float(g.norm())
        self.norms[i] = target, own
        acts = {"shrink": own > target, "enlarge": own < target, "both": True}[self.variant]
        if acts:
            g = self.rho * (target / own) * g + (1 - self.rho) * g
        return j + g
