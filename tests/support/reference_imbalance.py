"""Literal, slow re-statements of the methods that balance modalities."""

import math
from itertools import permutations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def ogm_scores(model, features: dict[str, Tensor], targets: Tensor) -> list[float]:
    """Of a concat model: the true class's softmax of W_k z_k + b / N, sample by sample."""
    weight, bias = model.joint_head.weight.detach(), model.joint_head.bias.detach()
    scores, start = [], 0
    for z in features.values():
        stop, total = start + z.shape[1], 0.0
        for row, target in zip(z.detach(), targets, strict=True):
            logits = weight[:, start:stop] @ row + bias / len(features)
            total += float(torch.softmax(logits, 0)[target])
        scores.append(total)
        start = stop
    return scores


def ogm_coefficients(scores: list[float], alpha: float) -> list[float]:
    found = []
    for k, score in enumerate(scores):
        others = [s for n, s in enumerate(scores) if n != k]
        ratio = score / (sum(others) / len(others))
        found.append(1 - math.tanh(alpha * ratio) if ratio > 1 else 1.0)
    return found


def class_means(z: Tensor, targets: Tensor, classes: int) -> list[Tensor | None]:
    """One vector per class, None for a class without samples."""
    rows = [[v for v, t in zip(z, targets, strict=True) if int(t) == y] for y in range(classes)]
    return [sum(some) / len(some) if some else None for some in rows]


def pmr_loss(features, targets, prototypes, *, alpha, mu, hard=False, entropy=True) -> Tensor:
    """What PMR adds to the joint loss; prototypes: {name: (C, D)}, all classes known."""
    logs = {}
    for name, z in features.items():
        rows = [torch.stack([-(v - c).norm() for c in prototypes[name]]) for v in z]
        logs[name] = torch.stack([row - row.logsumexp(0) for row in rows])
    scores = {
        name: sum(float(row[t].detach().exp()) for row, t in zip(log_p, targets, strict=True))
        for name, log_p in logs.items()
    }
    best = max(scores.values())
    if hard:
        weights = {name: float(score < best) for name, score in scores.items()}
    else:
        weights = {name: min(max(best / score - 1, 0), 1) for name, score in scores.items()}
    total = torch.zeros((), dtype=torch.float64)
    for name, log_p in logs.items():
        total = total + alpha * weights[name] * -log_p[range(len(targets)), targets].mean()
    if entropy:
        fastest = logs[max(scores, key=scores.get)]
        total = total - mu * max(weights.values()) * -(fastest.exp() * fastest).sum(1).mean()
    return total


def shapley(names: list[str], value) -> dict[str, Tensor]:
    """The mean over all orders of what a player adds to those before it; value(()) is zero."""
    total = dict.fromkeys(names, 0)
    orders = list(permutations(names))
    for order in orders:
        for place, name in enumerate(order):
            total[name] = total[name] + value(order[: place + 1]) - value(order[:place])
    return {name: sum_ / len(orders) for name, sum_ in total.items()}


class AGM:
    """With BatchNorm in evaluation mode wherever inputs are zeroed."""

    def __init__(self, alpha: float, number: int):
        self.alpha, self.means, self.steps = alpha, [0.0] * number, 0

    def gradients(self, model, inputs, targets, share=1.0) -> list[Tensor]:
        """Of the parameters outside the unimodal heads, before clipping."""
        whole = model(inputs).joint
        model.eval()

        def value(present):
            if len(present) == len(inputs):
                return whole
            if not present:
                return torch.zeros_like(whole)
            absent = {n: torch.zeros_like(x) for n, x in inputs.items() if n not in present}
            return model({**inputs, **absent}).joint

        phi = shapley(list(inputs), value)
        model.train()
        scores = [F.cross_entropy(part, targets).item() for part in phi.values()]
        self.steps += 1
        self.kappas = []
        for k in range(len(scores)):
            r, tau = (
                math.exp(sum(q[n] - q[k] for n in range(len(q))) / (len(q) - 1))
                for q in (scores, self.means)
            )
            self.kappas.append(math.exp(self.alpha * min(tau - r, 10)))
        for k, q in enumerate(scores):
            self.means[k] = self.means[k] * (self.steps - 1) / self.steps + q / self.steps
        detached = whole.detach().requires_grad_()
        (delta,) = torch.autograd.grad(F.cross_entropy(detached, targets), detached)
        params = trained(model)
        totals = [torch.zeros_like(p) for p in params]
        for kappa, part in zip(self.kappas, phi.values(), strict=True):
            loss = (delta * part).sum() * share
            found = torch.autograd.grad(loss, params, retain_graph=True, allow_unused=True)
            totals = [t if g is None else t + kappa * g for t, g in zip(totals, found, strict=True)]
        return totals


def trained(model) -> list[nn.Parameter]:
    heads = set(model.unimodal_heads.parameters())
    return [p for p in model.parameters() if p not in heads]


class Greedy:
    """On MMTM: gates, their means and the speeds are kept here, apart from the model."""

    def __init__(self, names, depth, threshold, steps, count_held=False):
        self.names, self.threshold, self.steps = names, threshold, steps
        self.count_held = count_held
        self.gates = [{name: [] for name in names} for _ in range(depth)]  # of all batches
        self.bypass, self.main = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
        self.left, self.frozen = 0, None

    def features(self, model, inputs) -> dict[str, Tensor]:
        """A training pass of encoders on vectors."""
        depth, maps = len(model.exchanges), dict(inputs)
        stages = {name: list(model.encoders[name].stages) for name in self.names}
        for name in self.names:
            for stage in stages[name][:-depth]:
                maps[name] = stage(maps[name])
        for level, exchange in enumerate(model.exchanges):
            maps = {n: stages[n][level - depth](x) for n, x in maps.items()}
            shared = exchange.squeeze(torch.cat([maps[n] for n in self.names], 1)).relu()
            for name in self.names:
                seen = self.gates[level][name]
                held = self.left and name == self.frozen
                gate = exchange.gate_scale * exchange.excite[name](shared).sigmoid()
                if self.count_held or not held:
                    seen.append(gate.detach().mean(0))
                if held:
                    gate = sum(seen) / len(seen)
                maps[name] = maps[name] * gate
        return maps

    def after_backward(self, model, warm: bool) -> None:
        if self.left:
            self.left -= 1
            return
        for name in self.names:
            layers = [layer for e in model.exchanges for layer in (e.squeeze, e.excite[name])]
            gates = [p for layer in layers for p in layer.parameters()]
            own = [*model.encoders[name].parameters(), *model.joint_heads[name].parameters()]
            self.bypass[name] += speed(gates)
            self.main[name] += speed(own)
        balance = {n: math.log10(self.bypass[n] / self.main[n]) for n in self.names}
        if warm and max(balance.values()) - min(balance.values()) > self.threshold:
            self.left, self.frozen = self.steps, max(balance, key=balance.get)


def speed(params) -> float:
    moved = sum(float((p.grad**2).sum()) for p in params)
    return moved / sum(float((p.detach() ** 2).sum()) for p in params)
