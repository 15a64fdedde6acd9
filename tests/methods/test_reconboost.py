"""ReconBoost and the fusion boosted: a literal reference, published values, a single modality."""

from types import SimpleNamespace

import pytest
import tiny_models
import torch
import torch.nn.functional as F
from balance import assert_equal, double, method_of, trainer_of

from mmpareto.methods import reconboost
from mmpareto.models.fusions.boosted import Boosted
from mmpareto.system.errors import UserError

OWN, REST = double(1, 0, -1, 0, 2, 0).view(2, 3), double(0.5, 0.5, 0, 1, 0, 1).view(2, 3)
GRADIENT = [[-0.257561, 0.188292, 0.069269], [0.085998, -0.171996, 0.085998]]


def test_published_values():
    own, targets = OWN.clone().requires_grad_(), torch.tensor([0, 1])
    each = [reconboost.boosting(own[[b]], REST[[b]], targets[[b]], 5, 1).item() for b in range(2)]
    assert each == pytest.approx([0.627217, 0.386836], abs=1e-6)
    loss = reconboost.boosting(own, REST, targets, 5, 1)
    assert loss.item() == pytest.approx(0.507026, abs=1e-6)
    (gradient,) = torch.autograd.grad(loss, own)
    torch.testing.assert_close(gradient, torch.tensor(GRADIENT).double(), atol=1e-6, rtol=0)


def literal_losses(model, inputs, targets, alone, previous, settings):
    """The loss of a batch, sample by sample. alone None: all modalities train."""
    label, known, agreement = settings
    o = {}
    for name, encoder in model.encoders.items():
        encoder.train(alone in (None, name))
        first, _, second = model.unimodal_heads[name]
        hidden = encoder(inputs[name]) @ first.weight.T + first.bias
        o[name] = hidden.clamp(min=0) @ second.weight.T + second.bias
    terms = []
    for b, y in enumerate(targets.tolist()):
        if alone is None:
            terms.append(-(model.beta * sum(o.values()))[b].log_softmax(0)[y])
            continue
        rest = model.beta.item() * sum(u[b].detach() for n, u in o.items() if n != alone)
        p, truth = o[alone][b].softmax(0), F.one_hot(targets[b], 4)
        term = -label * (truth * p.log()).mean()
        term = term + known * (truth * rest.softmax(0) * p.log()).mean()
        if previous:
            q = o[previous][b].detach().softmax(0)
            term = term + agreement * ((p - q) ** 2).mean()
        terms.append(term)
    return sum(terms) / len(terms)


@pytest.mark.parametrize(
    ("dataset", "phases", "accumulate", "settings"),
    [("toy", (2, 1), 1, (5, 1, 0.5)), ("toy3", (1, 1), 2, (1, 0.25, 3))],
)
def test_reference(tmp_path, float64, dataset, phases, accumulate, settings):
    """At least 24 steps. BatchNorm's statistics are compared, too."""
    names = ("label_weight", "known_weight", "agreement")
    words = ["--stage_epochs", phases[0], "--rectify_epochs", phases[1], "--accumulate", accumulate]
    for name, value in zip(names, settings, strict=True):
        words += [f"--{name}", value]
    ours, theirs = (
        trainer_of(tmp_path / "run", "--method", "reconboost", *words, dataset=dataset)
        for _ in range(2)
    )
    model, flags, optimizer, total = theirs.model, theirs.flags, None, 0
    schedule = [(t, p) for t in range(5) for p in ("alone",) * phases[0] + ("all",) * phases[1]]
    for epoch, (stage, phase) in enumerate(schedule[:8]):
        total += len(ours.train_epoch())
        ours.epoch += 1
        if not epoch or phase != schedule[epoch - 1][1]:
            settings_of = {"momentum": flags.momentum, "weight_decay": flags.weight_decay}
            optimizer = torch.optim.SGD(model.parameters(), flags.learning_rate, **settings_of)
        k, before = (list(model.encoders)[(stage - i) % len(model.encoders)] for i in (0, 1))
        alone, previous = k if phase == "alone" else None, before if stage else None
        theirs.order.epoch = epoch + 1
        batches = list(theirs.loaders["train"])
        for start in range(0, len(batches), accumulate):
            optimizer.zero_grad()
            for batch in batches[start : start + accumulate]:
                loss = literal_losses(model, *batch[:2], alone, previous, settings)
                (loss / accumulate).backward()
            for name, param in model.named_parameters():
                if alone and f".{alone}." not in name:
                    param.grad = None  # it keeps still, as without a place in the optimizer
            optimizer.step()
    assert total >= 24
    assert_equal(ours.model, model, close=1e-9)


def started(model, epoch, **settings):
    method = method_of("reconboost", model, **settings)
    method.start_epoch(SimpleNamespace(epoch=epoch, optimizer=SimpleNamespace(state={})))
    return method


@pytest.mark.parametrize("modalities", [1, 2])
def test_sure_predictions_and_a_single_modality(modalities):
    model = tiny_models.build(Boosted, modalities)
    model.unimodal_heads["a"][2].bias.data = double(0, 2000, 0)
    inputs, _ = tiny_models.batch(model)
    method = started(model, 2)  # the second stage
    decision = tiny_models.step(method, inputs, torch.zeros(12, dtype=torch.int64))
    assert decision.loss.isfinite() and decision.measures["stage"] == 2
    assert all(g.isfinite().all() for g in tiny_models.gradients(model).values())
    known = 1 / 3 if modalities == 1 else 0.0
    expected = (5 - known) / 3 * decision.losses["ab"[modalities - 1]]
    boosted = decision.loss - 0.5 * decision.measures["disagreement"]
    assert boosted.item() == pytest.approx(expected.item())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"known_weight": 6.0}, "--known_weight 6.0 exceeds --label_weight 5.0"),
        ({"stage_epochs": 0, "rectify_epochs": 0}, "a stage needs an epoch"),
    ],
)
def test_what_it_refuses(settings, message):
    with pytest.raises(UserError, match=message):
        method_of("reconboost", tiny_models.build(Boosted), **settings)
