"""What the tests of balancing methods share: their flags, trainers, and pairs of models."""

from argparse import Namespace
from copy import deepcopy

import tiny_models
import torch

from mmpareto.methods import METHODS
from mmpareto.models.fusions.concat import Concat
from mmpareto.run import options
from mmpareto.run.folder import Run
from train import Trainer

OPTIONS = {
    "no_probes": True, "alpha": 1.0, "window": [1, 99], "without_ge": True, "mu": 0.05,
    "entropy_epochs": 10, "prototype_momentum": 0.2, "variant": "paper", "bn_mode": "running",
    "threshold": 0.01, "balancing_steps": 3, "warmup_epochs": 1,
}  # fmt: skip


def method_of(name, model, **settings):
    return METHODS[name](model, Namespace(**(OPTIONS | settings)))


def trainer_of(folder, *flags, dataset="toy"):
    words = ["--dataset", dataset, "--encoder", "cnn", "--out", str(folder), *map(str, flags)]
    parsed = options.parse(words)
    return Trainer(parsed, Run(parsed.out, options.as_config(parsed), resume=False))


def pair(modalities=2, fusion=Concat):
    """Two equal models and their optimizers."""
    ours = tiny_models.build(fusion, modalities)
    theirs = deepcopy(ours)
    steppers = [torch.optim.SGD(m.parameters(), lr=0.05, momentum=0.9) for m in (ours, theirs)]
    return ours, theirs, steppers


def assert_equal(ours, theirs, close=1e-8):
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=close, atol=close)
    for mine, other in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(mine, other, rtol=close, atol=close)


def double(*values):
    return torch.tensor(values, dtype=torch.float64)
