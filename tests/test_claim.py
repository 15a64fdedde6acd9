"""The arms of docs/claim.md are what their formulas say, in one gradient and in training."""

from copy import deepcopy

import models
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_methods import trainer_of
from test_multitask import model_of as tasks_of

from mmpareto import options
from mmpareto.claim import ARMS
from mmpareto.data import own_targets
from mmpareto.fusions.multitask import Separate, Shared
from mmpareto.methods import METHODS


def formula(arm, j, g):
    """h of one encoder from its gradients, lists of numpy arrays."""
    J, G = (np.concatenate([x.ravel() for x in part]) for part in (j, g))
    s = [x + y for x, y in zip(j, g, strict=True)]
    alpha = np.clip(G @ (G - J) / ((J - G) @ (J - G)), 0, 1)
    shortest = [alpha * x + (1 - alpha) * y for x, y in zip(j, g, strict=True)]
    conflict = J @ G <= 0 and J.any() and G.any()
    d = [2 * x for x in shortest] if conflict else s

    def norm(parts):
        return np.sqrt(sum((x**2).sum() for x in parts))

    if arm == "R":
        return [1.5 * max(1, norm([y]) / norm([x])) * x for x, y in zip(d, s, strict=True)]
    restored = norm(s) / norm(d)
    factor, direction = {
        "A": (1, s), "B": (1.5, s), "C": (1, d), "D": (restored, d), "E": (1.5 * restored, d),
        "F": (1, shortest), "G": (2, shortest),
    }[arm]  # fmt: skip
    return [factor * x for x in direction]


def words(arm):
    method, *own = ARMS[arm].split(":")
    return ["--method", method, *(f"--{word}" for word in own)]


def method_of(arm, model):
    return METHODS[ARMS[arm].split(":")[0]](model, model, options.parse(words(arm)))


def gradients(loss, params):
    found = torch.autograd.grad(loss, params, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(p) if x is None else x for p, x in zip(params, found, strict=True)]


def expected(arm, model, output, targets):
    """{parameter: gradient} of the literal formula; j and g by one traversal for each loss."""
    own = own_targets(targets, output.unimodal)
    losses = {name: F.cross_entropy(logits, own[name]) for name, logits in output.unimodal.items()}
    if output.joint is not None:
        losses["joint"] = F.cross_entropy(output.joint, targets)
    everything = list(model.parameters())
    found = dict(zip(everything, gradients(sum(losses.values()), everything), strict=True))
    conflicts = []
    for name, encoder in model.encoders.items():
        params = list(encoder.parameters())
        first, second = ("joint", name) if "joint" in losses else ("left", "right")
        j, g = ([x.numpy() for x in gradients(losses[k], params)] for k in (first, second))
        conflicts.append(sum((x * y).sum() for x, y in zip(j, g, strict=True)) <= 0)
        found |= dict(zip(params, map(torch.from_numpy, formula(arm, j, g)), strict=True))
    return found, conflicts


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("parts", [1, 3])
def test_gradients_are_the_formula(arm, parts):
    """Of encoders; heads have their losses' own. Also from three micro-batches."""
    model = models.build(modalities=3).eval()
    method, met = method_of(arm, model), []
    for _ in range(8):
        inputs, targets = models.batch(model)
        wanted, conflicts = expected(arm, model, model(inputs), targets)
        met += conflicts
        model.zero_grad()
        for chunk, truth, told in models.micro_batches(inputs, targets, parts):
            method.backward(chunk, truth, **told)
        for param, gradient in wanted.items():
            torch.testing.assert_close(param.grad, gradient, rtol=1e-9, atol=1e-12)
    assert 0 < sum(met) < len(met)


@pytest.mark.parametrize(
    ("arm", "kind"), [*((arm, Shared) for arm in ARMS), ("A", Separate), ("B", Separate)]
)
def test_gradients_of_two_tasks_are_the_formula(arm, kind):
    model, met = tasks_of(kind), []
    method = method_of(arm, model)
    for _ in range(8):
        inputs = {"image": torch.randn(12, 6, dtype=torch.float64)}
        targets = torch.randint(4, (12, 2))
        wanted, conflicts = expected(arm, model, model(inputs), targets)
        met += conflicts
        model.zero_grad()
        method.backward(inputs, targets)
        for param, gradient in wanted.items():
            torch.testing.assert_close(param.grad, gradient, rtol=1e-9, atol=1e-12)
    assert sum(met) > 0


@pytest.mark.parametrize("arm", ARMS)
def test_training_is_the_formula(tmp_path, arm):
    """Over whole steps of train.py: two micro-batches, clipping, weight decay and momentum."""
    trainer = trainer_of(
        tmp_path, "--dataset", "toy", *words(arm), "--accumulate", "2", "--clip_grad", "1",
        "--weight_decay", "0.01", "--batch_size", "8", "--learning_rate", "0.02",
    )  # fmt: skip
    model = deepcopy(trainer.model)
    trainer.train_epoch()

    trainer.order.epoch = 1
    batches, momentum, met = list(trainer.loaders["train"]), {}, []
    for pair in zip(batches[::2], batches[1::2], strict=False):
        outputs = [model(inputs) for inputs, _ in pair]
        logits = [
            {k: torch.cat([o.unimodal[k] for o in outputs]) for k in outputs[0].unimodal},
            torch.cat([o.joint for o in outputs]),
        ]
        whole = outputs[0]._replace(unimodal=logits[0], joint=logits[1])
        found, conflicts = expected(arm, model, whole, torch.cat([y for _, y in pair]))
        met += conflicts
        size = np.sqrt(sum(float((x.double() ** 2).sum()) for x in found.values()))
        with torch.no_grad():
            for param, gradient in found.items():
                step = gradient.float() * min(1, 1 / size) + 0.01 * param
                momentum[param] = 0.9 * momentum.get(param, 0) + step
                param -= 0.02 * momentum[param]
    assert len(met) == 12
    for mine, other in zip(trainer.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_uniform_by_default_is_bit_for_bit_what_it_was():
    """gamma 1 touches nothing."""
    model = models.build()
    inputs, targets = models.batch(model)
    joint, unimodal = models.losses(model(inputs), targets)
    plain = torch.autograd.grad(joint + sum(unimodal.values()), list(model.parameters()))
    model.eval().train()
    method_of("A", model).backward(inputs, targets)
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), plain, strict=True))
