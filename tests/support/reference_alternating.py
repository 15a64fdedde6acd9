"""Literal, slow re-statements of the methods that train one modality after the other."""

import math

import torch
import torch.nn.functional as F


def entropy_weights(logits):
    """{modality: weight} of one sample, from {modality: its logits (C,)}."""
    entropies = {}
    for name, row in logits.items():
        p = [math.exp(float(x)) for x in row]
        p = [x / sum(p) for x in p]
        entropies[name] = -sum(x * math.log(x) for x in p)
    most = max(entropies.values())
    raw = {name: math.exp(most - h) for name, h in entropies.items()}
    return {name: x / sum(raw.values()) for name, x in raw.items()}


def next_p(p, r, alpha):
    """P - k k^T / (alpha + r P r^T) over its norm, entry by entry; p and r are lists."""
    size = range(len(r))
    k = [sum(p[i][j] * r[j] for j in size) for i in size]
    below = alpha + sum(r[i] * k[i] for i in size)
    new = [[p[i][j] - k[i] * k[j] / below for j in size] for i in size]
    norm = math.sqrt(sum(x * x for row in new for x in row))
    return [[x / norm for x in row] for row in new]


class MLA:
    """Whole batches: all encoders first, then for each modality the head, its loss and a step."""

    def __init__(self, model, optimizer, order):
        self.model, self.optimizer, self.order, self.first = model, optimizer, order, True
        width = model.head.in_features
        self.p = [[float(i == j) for j in range(width)] for i in range(width)]

    def train(self, parts, share):
        """parts: (inputs, targets) of each micro-batch; share: how much of the epoch has passed."""
        features = [self.model.encode(inputs)[0] for inputs, _ in parts]
        for name in self.model.encoders:
            for z, (_, targets) in zip(features, parts, strict=True):
                loss = F.cross_entropy(self.model.head(z[name]), targets)
                (loss / len(parts)).backward(retain_graph=True)
            rows = [row.tolist() for z in features for row in z[name].detach()]
            mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
            self.change(mean, 0.1 ** (1 + share))
            self.optimizer.step()
            self.optimizer.zero_grad()

    def change(self, mean, alpha):
        if self.order == "plain":
            return
        first, self.first = self.first, False
        if self.order == "current" and first:
            return
        following = next_p(self.p, mean, alpha)
        used = torch.tensor(following if self.order == "current" else self.p, dtype=torch.float64)
        weight = self.model.head.weight
        weight.grad = torch.stack([used @ row for row in weight.grad])
        self.p = following


class AUG:
    """Layers as a plain list; they join the list of those in use, and the optimizer knows all."""

    def __init__(self, model, optimizer):
        self.model, self.optimizer = model, optimizer
        self.used, self.scores = dict.fromkeys(model.encoders, 1), dict.fromkeys(model.encoders, 0)

    def logits(self, name, z):
        """The logits of each layer in use."""
        head = self.model.unimodal_heads[name]
        rows = []
        for layer in list(head.layers)[: self.used[name]]:
            hidden = torch.clamp(z @ layer.weight.T + layer.bias, min=0)
            rows.append(hidden @ head.classifier.weight.T + head.classifier.bias)
        return rows

    def train(self, parts):
        """parts: (inputs, targets) of each micro-batch."""
        features = [self.model.encode(inputs)[0] for inputs, _ in parts]
        for name in self.model.encoders:
            terms = []
            for z, (_, targets) in zip(features, parts, strict=True):
                rows = self.logits(name, z[name])
                terms += [self.term(name, rows, b, y) for b, y in enumerate(targets.tolist())]
            (sum(terms) / len(terms)).backward(retain_graph=True)
            self.optimizer.step()
            self.optimizer.zero_grad()

    def term(self, name, rows, b, y):
        """The loss of sample b of class y, from the logits of each layer."""
        whole = sum(rows)[b]
        self.scores[name] += float(whole.detach().softmax(0)[y])
        loss = -whole.log_softmax(0)[y]
        if len(rows) > 1:
            old, new = sum(rows[:-1])[b], rows[-1][b]
            soft = torch.zeros_like(old)
            soft[y] = old.detach().softmax(0)[y]
            loss = loss - old.log_softmax(0)[y] - new.log_softmax(0)[y]
            loss = loss + 0.5 * (soft * new.log_softmax(0)).sum()
        return loss

    def end_epoch(self, grows):
        (a, first), (b, second) = self.scores.items()
        if grows and first / second > 1.01:
            self.used[b] += 1
        if grows and first / second < 0.99:
            self.used[a] += 1
        self.scores = dict.fromkeys(self.scores, 0)
