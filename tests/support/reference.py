"""Literal, slow re-statements of the methods, kept apart from the code they are compared with."""

import torch
from torch import Tensor, nn


def flat(gradients: list[Tensor]) -> Tensor:
    return torch.cat([g.flatten() for g in gradients])


def min_norm_weight(j: Tensor, g: Tensor) -> float:
    """alpha of the shortest alpha * j + (1 - alpha) * g, case by case as Sener and Koltun list."""
    a, b, c = float(j @ j), float(j @ g), float(g @ g)
    if b >= a and b >= c:
        return 0.5
    if b >= a:
        return 1.0
    if b >= c:
        return 0.0
    return (c - b) / (a + c - 2 * b)


def mmpareto(j: list[Tensor], g: list[Tensor], gamma: float, granularity: str) -> list[Tensor]:
    """MMPareto of one encoder: "encoder" as in the paper, "tensor" as in the released script.

    "none" keeps the length of the common direction.
    """
    joint, unimodal = flat(j), flat(g)
    cos = joint @ unimodal / (joint.norm() * unimodal.norm())
    alpha = 0.5 if cos > 0 else min_norm_weight(joint, unimodal)
    d = [2 * alpha * x + 2 * (1 - alpha) * y for x, y in zip(j, g, strict=True)]
    s = [x + y for x, y in zip(j, g, strict=True)]
    if granularity == "none":
        return [gamma * x for x in d]
    if granularity == "encoder":
        return [gamma * flat(s).norm() / flat(d).norm() * x for x in d]
    h = []
    for x, target in zip(d, s, strict=True):
        if target.norm() > x.norm():
            x = x * target.norm() / x.norm()
        h.append(gamma * x)
    return h


def pareto(j: list[Tensor], g: list[Tensor], scale: float) -> list[Tensor]:
    alpha = min_norm_weight(flat(j), flat(g))
    return [scale * (alpha * x + (1 - alpha) * y) for x, y in zip(j, g, strict=True)]


def backward(model: nn.Module, encoders: dict, joint: Tensor, unimodal: dict, rule) -> None:
    """One backward pass after another: joint and unimodal for each encoder, their sum for the rest.

    rule(j, g) -> h per encoder; the losses' graph is kept until the last pass.
    """

    def after(loss, name):
        model.zero_grad()
        loss.backward(retain_graph=True)
        return [p.grad.clone() for p in encoders[name].parameters()]

    j = {name: after(joint, name) for name in encoders}
    g = {name: after(loss, name) for name, loss in unimodal.items()}
    model.zero_grad()
    (joint + sum(unimodal.values())).backward()
    for name, encoder in encoders.items():
        for param, h in zip(encoder.parameters(), rule(j[name], g[name]), strict=True):
            param.grad = h
