"""--class_weights and --label_smoothing: every method's losses, against a loop over the samples."""

from argparse import ArgumentParser, Namespace
from copy import deepcopy

import numpy as np
import pytest
import tiny_models
import torch
import torch.nn.functional as F
from balance import double, method_of, trainer_of
from sklearn.utils.class_weight import compute_class_weight
from toys import TOYS

from mmpareto.data.batches import shared_out
from mmpareto.data.samples import Batch, Present, TensorSplit
from mmpareto.methods import METHODS, aug
from mmpareto.models.fusions import FUSIONS
from mmpareto.models.fusions.base import Criterion
from mmpareto.run import options, setup
from mmpareto.system.errors import UserError

WEIGHTS, SMOOTHING = double(0.5, 2, 3), 0.1


def literal(logits, targets, weight=None, reduction="mean", label_smoothing=0.0):
    """The loss with WEIGHTS and SMOOTHING, whatever else is asked; a mean is one over samples."""
    rows = []
    for u, y in zip(logits, targets.tolist(), strict=True):
        wanted = [SMOOTHING / 3 + (1 - SMOOTHING) * (c == y) for c in range(3)]
        rows.append(-sum(WEIGHTS[c] * wanted[c] * u.log_softmax(0)[c] for c in range(3)))
    each = torch.stack(rows)
    return {"none": each, "sum": each.sum(), "mean": each.sum() / len(rows)}[reduction]


def built(name):
    """A model of two modalities and three classes for a method."""
    if name == "greedy":
        return tiny_models.mmtm()
    fusion = FUSIONS[METHODS[name].default_fusion]
    fusion.add_flags(parser := ArgumentParser())
    encoders, data = {k: tiny_models.Encoder() for k in "ab"}, Namespace(classes=range(3))
    return fusion.build(encoders, data, parser.parse_args([])).double()


def gradients(name, model, batch):
    settings = {"alignment": "labels"} if name == "lfm" else {}
    settings |= {"clip_grad": None, "batch_size": 12, "random_seed": 0}
    method = method_of(name, model, epochs=3, layers=4, **settings)
    data = Namespace(splits={"train": TensorSplit(batch.inputs, batch.targets)})
    told = Namespace(epoch=0, steps=2, flags=method.flags, optimizer=Namespace(state={}), data=data)
    told.device = torch.device("cpu")
    torch.manual_seed(0)
    if method.needs_teachers:
        method.teach(tiny_models.build().eval())
    if name == "gblend":  # an estimate before the first epoch would train copies of a trainer
        method.state["weights"].copy_(double(0.2, 0.3, 0.5))
        told.epoch = 1
    method.start_epoch(told)
    decision = method.backward(method.decide(method.forward(batch), batch))
    return decision.losses, tiny_models.gradients(model)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_minimises_it(name, monkeypatch):
    """Beside the same method where torch's cross-entropy itself is replaced by the loop."""
    ours = built(name)
    theirs, batch = deepcopy(ours), Batch(*tiny_models.batch(ours))
    ours.criterion = Criterion(WEIGHTS, SMOOTHING)
    found = gradients(name, ours, batch)
    monkeypatch.setattr(F, "cross_entropy", literal)
    wanted = gradients(name, theirs, batch)
    for mine, other in zip(found, wanted, strict=True):
        assert mine.keys() == other.keys() and mine
        for key, x in mine.items():
            torch.testing.assert_close(x, other[key], rtol=1e-8, atol=1e-10)


def test_a_layer_that_was_added():
    """aug: p_old is a probability and stays one; the losses around it are ours."""
    old, new = torch.randn(2, 4, 3, dtype=torch.float64)
    targets = torch.tensor([0, 1, 2, 1])
    known = old.softmax(1).gather(1, targets[:, None])[:, 0]
    each = literal(new, targets, reduction="none")
    wanted = literal(old, targets) + ((1 - known / 2) * each).mean()
    found = aug.newest(old, new, targets, Criterion(WEIGHTS, SMOOTHING))
    assert found.item() == pytest.approx(wanted.item())


@pytest.mark.parametrize("lacking", [False, True])
def test_micro_batches_are_one_batch(lacking):
    """The mean over the step's samples, though the sums of weights differ between its parts."""
    model = tiny_models.build()
    model.eval().criterion = Criterion(WEIGHTS, SMOOTHING)
    inputs, targets = tiny_models.batch(model)
    there = torch.rand(12, 2) < (0.6 if lacking else 2)
    there[:, 1] |= ~there.any(1)
    rows = slice(0, 12), slice(0, 6), slice(6, 12)
    whole, *parts = (
        Batch({k: x[own] for k, x in inputs.items()}, targets[own], Present.of(there[own], inputs))
        for own in rows
    )
    found = [
        model(part.inputs, part.present).losses(part.targets)
        for part in [*shared_out([whole]), *shared_out(parts)]
    ]
    for name, loss in found[0].items():
        torch.testing.assert_close(loss, (found[1][name] + found[2][name]) / 2)
    u = model(inputs).unimodal["a"]
    mine = literal(u[there[:, 0]], targets[there[:, 0]])
    torch.testing.assert_close(found[0]["a"], mine)


def test_balanced_is_scikit_learns():
    flags = options.parse(["--dataset", "toy", "--class_weights", "balanced"])
    data = TOYS["toy"].load(flags)
    targets = torch.tensor([0] * 50 + [1] * 30 + [2] * 20 + [3] * 4)
    data.splits["train"].targets = targets
    weights = compute_class_weight("balanced", classes=np.arange(4), y=targets.numpy())
    found = setup.criterion(flags, data, torch.device("cpu"))
    assert found.weights is not None and found.weights.tolist() == pytest.approx(weights.tolist())
    assert found.smoothing == 0
    data.splits["train"].targets = targets.clamp(max=2)
    with pytest.raises(UserError, match="no sample of class 'class 3': drop"):
        setup.criterion(flags, data, torch.device("cpu"))
    with pytest.raises(UserError, match="several tasks"):
        setup.criterion(flags, data._replace(tasks=("one", "two")), torch.device("cpu"))


def test_training_takes_it_and_evaluation_does_not(tmp_path):
    flags = "--label_smoothing", 0.9, "--limit_batches", 1, "--method", "joint"
    plain, smooth = (
        trainer_of(tmp_path / name, *own) for name, own in (("a", flags[2:]), ("b", flags))
    )
    assert plain.scores("val")[1] == smooth.scores("val")[1]
    losses = [trainer.train_epoch()[0]["loss"] for trainer in (plain, smooth)]
    assert losses[0] != losses[1]
