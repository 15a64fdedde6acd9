"""The forecast of conflict finds what the features' own sign does not, and costs few traversals."""

from functools import partial

import numpy as np
import pytest
import reference
import tiny_models
import torch
from torch.testing import assert_close

from mmpareto import MMPareto
from mmpareto.core.forecast import AUDIT, FIRST, MEMORY, Forecast
from mmpareto.models.fusions.concat import Concat


def followed(pairs):
    """A forecast that has seen such pairs of cosines, when it took both, what audits found."""
    forecast, taken, missed = Forecast(), [], 0
    for features, parameters in pairs:
        taken.append(forecast.may_conflict(features))
        if taken[-1]:
            forecast.learn(features, parameters)
            missed += parameters <= 0 and not forecast.expected
    return forecast, np.array(taken), missed


def walk(steps, mean, spread, seed=0):
    """Cosines that wander together, the parameters' one far below that of the features."""
    random, common, pairs = np.random.default_rng(seed), 0.0, []
    for _ in range(steps):
        common = 0.9 * common + random.normal(0, 0.08)  # of standard deviation 0.18
        pairs.append((0.9 + common, mean + common + random.normal(0, spread)))
    return np.array(pairs)


@pytest.mark.parametrize("seed", range(3))
def test_conflicts_are_met(seed):
    """Features are never in conflict, parameters on some steps: nearly all of them are met."""
    pairs = walk(2000, 0.35, 0.05, seed)
    _, taken, _ = followed(pairs)
    conflicts = pairs[:, 1] <= 0
    assert (pairs[:, 0] > 0).all() and conflicts.sum() > 50
    assert taken[conflicts].mean() > 0.97 and taken.mean() < 0.45


def test_far_from_conflict():
    """Only the first steps and the audits take both gradients."""
    _, taken, _ = followed(walk(320, 0.9, 0.01))
    expected = [i < FIRST or i % AUDIT == 0 for i in range(320)]
    assert taken[FIRST:].mean() < 0.08 and (taken | ~np.array(expected)).all()


def test_audits_count_what_was_missed():
    """A conflict that comes out of nowhere is seen on audits, and then looked for."""
    pairs = np.array([(0.9, 0.9 + 0.001 * (i % 3)) for i in range(100)])
    pairs[48:, 1] = -0.5
    _, taken, missed = followed(pairs)
    assert not taken[33:48].any() and taken[48:].mean() > 0.9 and missed == 1


@pytest.mark.parametrize("cos", [float("nan"), float("inf")])
def test_unknown_cosines(cos):
    """Where nothing is known both gradients are taken, and nothing is learnt."""
    forecast, *_ = followed([(0.5, 0.5)] * 20)
    before = forecast.state.clone()
    assert forecast.may_conflict(cos)
    forecast.learn(cos, 0.1)
    forecast.learn(0.1, cos)
    assert forecast.state[1:].equal(before[1:])


def test_regression_is_least_squares():
    """With weights that shrink by the stated factor, as numpy solves it."""
    pairs = walk(40, 0.3, 0.1)
    forecast = Forecast()
    for features, parameters in pairs:
        forecast.may_conflict(features)
        forecast.learn(features, parameters)
    weights = MEMORY ** np.arange(39, -1, -1)
    _, weight, x, y, xx, yy, xy = forecast.state.tolist()
    slope, constant = np.polyfit(*pairs.T, 1, w=np.sqrt(weights))
    expected = np.cov(pairs.T, aweights=weights, bias=True)
    np.testing.assert_allclose([weight, x, y], [weights.sum(), *np.average(pairs, 0, weights)])
    np.testing.assert_allclose([xx, yy, xy], [expected[0, 0], expected[1, 1], expected[0, 1]])
    np.testing.assert_allclose([xy / xx, y - xy / xx * x], [slope, constant])


def literal_backward(model, inputs, targets, forecasts):
    """The rule where a forecast asks for both gradients, 1.5 times their sum elsewhere."""
    output, taken = model(inputs), set()
    joint, own = tiny_models.losses(output, targets)

    def both(places):
        return [torch.autograd.grad(x, places, retain_graph=True) for x in (joint, own[name])]

    def cosine(j, g):
        return torch.cosine_similarity(*(torch.cat([x.flatten() for x in y]) for y in (j, g)), 0)

    for name, encoder in model.encoders.items():
        cos = cosine(*both(output.features[name])).item()
        params = list(encoder.parameters())
        j, g = both(params)
        h = [1.5 * (x + y) for x, y in zip(j, g, strict=True)]
        if forecasts[name].may_conflict(cos):
            taken.add(name)
            forecasts[name].learn(cos, cosine(j, g).item())
            h = reference.mmpareto(j, g, 1.5, "encoder")
        for param, gradient in zip(params, h, strict=True):
            param.grad = gradient.clone()
    inside = set(model.encoders.parameters())
    (joint + sum(own.values())).backward(inputs=[p for p in model.parameters() if p not in inside])
    return taken


@pytest.mark.parametrize("modalities", [2, 3])
def test_steps_equal_the_reference(modalities):
    """The first modality agrees with the target, so that its encoder is soon left out."""
    ours, theirs, optimizer = tiny_models.twins(Concat, modalities)
    mmpareto = MMPareto(ours, ours.encoders, gramian="adaptive")
    forecasts = {name: Forecast() for name in ours.encoders}
    seen = {name: set() for name in ours.encoders}
    for _ in range(60):
        inputs, targets = tiny_models.batch(ours, 24)
        inputs["a"] = inputs["a"] + 2 * targets[:, None]
        optimizer.zero_grad()
        stats = tiny_models.backward(mmpareto, inputs, targets)
        taken = literal_backward(theirs, inputs, targets, forecasts)
        assert {name for name, found in stats.items() if found.cos.isfinite()} == taken
        optimizer.step()
        for name, found in stats.items():
            seen[name].add((name in taken, bool(found.conflict)))
    assert {(False, False), (True, False)} <= seen["a"] and (True, True) in seen["b"]
    assert_close(list(ours.parameters()), list(theirs.parameters()), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("gramian", "most"), [("parameters", 0), ("features", 0), ("adaptive", 1)])
def test_reads_of_the_host(monkeypatch, gramian, most):
    """A GPU is waited for once in a step, as the forecasts read all their cosines together."""
    model = tiny_models.build(Concat, 3)
    mmpareto, reads = MMPareto(model, model.encoders, gramian=gramian), []
    forecasts = mmpareto.at_features.forecasts if mmpareto.at_features else {}
    on_host = {f.state.untyped_storage().data_ptr() for f in forecasts.values()}

    def counted(read, tensor):
        reads.append(tensor.untyped_storage().data_ptr() not in on_host)
        return read(tensor)

    for name in ("item", "tolist", "__bool__", "__float__", "__int__"):
        read = partial(counted, getattr(torch.Tensor, name))
        monkeypatch.setattr(torch.Tensor, name, lambda tensor, read=read: read(tensor))
    monkeypatch.setattr(torch.Tensor, "is_cpu", False)  # what a rule does on a GPU
    for step in range(FIRST + 2):
        inputs, targets = tiny_models.batch(model)
        reads.clear()
        output = model(inputs)
        features = None if gramian == "parameters" else output.features
        mmpareto.backward(*tiny_models.losses(output, targets), features)
        assert step == 0 or sum(reads) == most


def test_audits_in_the_log():
    """One of two encoders is audited, and is found in conflict only then."""
    model = tiny_models.build(Concat, 2)
    mmpareto = MMPareto(model, model.encoders, gramian="adaptive")
    at, said = mmpareto.at_features, set()
    for forecast in at.forecasts.values():
        forecast._reaches_zero = lambda cos: False
    for _ in range(30):
        for name, steps in (("a", AUDIT), ("b", AUDIT + 1)):
            at.forecasts[name].state[0] = steps
        stats = tiny_models.backward(mmpareto, *tiny_models.batch(model))
        both, missed = (x.item() for x in at.measures().values())
        assert both == 0.5 and missed == 0.5 * stats["a"].conflict
        said.add(missed)
    assert said == {0, 0.5}


def test_traversals():
    """An encoder whose forecast rules conflict out is traversed once, another one twice."""
    model = tiny_models.build(Concat, 3)
    mmpareto = MMPareto(model, model.encoders, gramian="adaptive")
    for name, answer in zip("abc", (True, False, True), strict=True):
        forecast = mmpareto.at_features.forecasts[name]
        forecast.state[0] = FIRST + 1  # neither one of the first steps nor an audit
        forecast._reaches_zero = lambda cos, answer=answer: answer
    inputs, targets = tiny_models.batch(model)
    output, calls = model(inputs), []
    for name in model.encoders:
        output.features[name].grad_fn.register_hook(lambda *_, name=name: calls.append(name))
    mmpareto.backward(*tiny_models.losses(output, targets), output.features)
    assert sorted(calls) == ["a", "a", "b", "c", "c"]
