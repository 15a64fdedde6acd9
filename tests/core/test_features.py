"""Weights from the gradients of features: against a literal restatement, and what is refused."""

import json
from functools import partial

import pytest
import reference
import reference_weightings
import tiny_models
import torch
from tiny_models import backward, gradients, losses
from torch import nn
from torch.testing import assert_close
from torchjd.aggregation import PCGradWeighting

import train
from mmpareto import MMPareto
from mmpareto.core.integrate import mmpareto_rule, pareto_rule, weighted_rule
from mmpareto.core.integrator import Integrator
from mmpareto.models.fusions.concat import Concat
from mmpareto.models.fusions.conditioned import FiLM
from mmpareto.models.fusions.multitask import SHARED, Shared
from mmpareto.models.fusions.sum import Sum
from mmpareto.system.errors import UserError

METHODS = ["pareto", "mmpareto", "pcgrad", "cagrad", "upgrad", "imtl_g", "aligned_mtl"]
RULES = {  # ours, and the literal one on two vectors
    "mmpareto": (mmpareto_rule, lambda a, b: reference.mmpareto([a], [b], 1.5, "encoder")[0]),
    "pareto": (partial(pareto_rule, scale=2), lambda a, b: reference.pareto([a], [b], 2)[0]),
    "pcgrad": (partial(weighted_rule, weighting=PCGradWeighting()), reference_weightings.pcgrad),
}


def literal_backward(model, inputs, targets, rule):
    """The heads' plain gradients, then each encoder's a, b and J'h, one pass after another."""
    features = model(inputs).features
    leaves = {name: z.detach().requires_grad_() for name, z in features.items()}

    def loss_of(name=None):
        joint, unimodal = losses(model.read(leaves), targets)
        return joint if name is None else unimodal[name]

    model.zero_grad()
    for name in (None, *features):
        loss_of(name).backward()
    for name, z in features.items():
        (a,) = torch.autograd.grad(loss_of(), leaves[name])
        (b,) = torch.autograd.grad(loss_of(name), leaves[name])
        h = rule(a.flatten(), b.flatten()).view_as(z)
        (z * h).sum().backward(inputs=list(model.encoders[name].parameters()))


@pytest.mark.parametrize(
    ("fusion", "modalities", "rule"),
    [
        (Concat, 2, "mmpareto"), (Concat, 3, "pareto"), (Sum, 2, "pcgrad"),
        (Sum, 3, "mmpareto"), (FiLM, 2, "pareto"), (FiLM, 3, "pcgrad"),
    ],
)  # fmt: skip
def test_thirty_steps_equal_the_reference(fusion, modalities, rule):
    """float64, SGD with momentum, through both branches."""
    ours, theirs, optimizer = tiny_models.twins(fusion, modalities)
    rule, literal = RULES[rule]
    integrator = Integrator(ours, ours.encoders, rule, gramian="features")
    conflicts = []
    for _ in range(30):
        inputs, targets = tiny_models.batch(ours)
        optimizer.zero_grad()
        stats = backward(integrator, inputs, targets)
        literal_backward(theirs, inputs, targets, literal)
        optimizer.step()
        conflicts += [bool(s.conflict) for s in stats.values()]
    assert 0 < sum(conflicts) < len(conflicts)
    assert_close(list(ours.parameters()), list(theirs.parameters()), rtol=1e-9, atol=1e-9)


def test_same_as_parameters_where_features_are_the_parameters():
    """JJ' is then the identity, and nothing is approximated."""

    class Table(nn.Module):
        out_dim = 5

        def __init__(self):
            super().__init__()
            self.table = nn.Parameter(torch.randn(12, 5))

        def forward(self, inputs):
            return self.table * 1

    model = Concat({"a": Table(), "b": Table()}, tiny_models.CLASSES).double()
    conflicts = set()
    for _ in range(20):
        inputs, targets = tiny_models.batch(model)
        found = []
        for gramian in ("parameters", "features"):
            integrator = MMPareto(model, model.encoders, gramian=gramian)
            stats = backward(integrator, inputs, targets)
            found.append(gradients(model))
            conflicts |= {bool(s.conflict) for s in stats.values()}
            model.zero_grad()
        assert_close(*found, rtol=1e-10, atol=1e-13)
        for table in model.encoders.values():
            nn.init.normal_(table.table)
    assert conflicts == {True, False}


@pytest.mark.parametrize("modalities", [2, 3])
def test_one_traversal_of_the_encoders(modalities):
    model = tiny_models.build(Concat, modalities)
    inputs, targets = tiny_models.batch(model)
    output = model(inputs)
    calls = []
    for name in model.encoders:
        output.features[name].grad_fn.register_hook(lambda *_, name=name: calls.append(name))
    integrator = MMPareto(model, model.encoders, gramian="features")
    integrator.backward(*losses(output, targets), output.features)
    assert sorted(calls) == sorted(model.encoders)


def test_combination_of_the_two_gradients():
    """What an encoder gets is w_1 j + w_2 g, with the weights that are reported."""
    model = tiny_models.build().eval()
    inputs, targets = tiny_models.batch(model)
    joint, unimodal = losses(model(inputs), targets)
    params = list(model.encoders["a"].parameters())
    j, g = (torch.autograd.grad(x, params, retain_graph=True) for x in (joint, unimodal["a"]))
    integrator = MMPareto(model, model.encoders, gramian="features")
    stats = backward(integrator, inputs, targets)["a"]
    for p, x, y in zip(params, j, g, strict=True):
        expected = stats.scale * (stats.joint_weight * x + stats.unimodal_weight * y)
        assert_close(p.grad, expected)


def test_multi_task_learning():
    encoder = tiny_models.Encoder()
    model = Shared(encoder, "x", ("left", "right"), tiny_models.CLASSES).double().eval()
    inputs, targets = {"x": torch.randn(9, tiny_models.SIZE).double()}, torch.randint(3, (9,))
    output = model(inputs)
    _, own = losses(output._replace(joint=output.unimodal["left"]), targets)
    z = output.features["left"]
    a, b = (torch.autograd.grad(loss, z, retain_graph=True)[0].flatten() for loss in own.values())
    h = reference.mmpareto([a], [b], 1.5, "encoder")[0].view_as(z)
    expected = torch.autograd.grad(z, list(encoder.parameters()), h, retain_graph=True)
    first, second = own.values()
    MMPareto(model, {SHARED: encoder}, late=False, gramian="features").backward(
        first, {SHARED: second}, {SHARED: z}
    )
    assert_close([p.grad for p in encoder.parameters()], list(expected))


class Leaky(Concat):
    """b's features are made of a, too, but its own prediction does not show it."""

    def encode(self, inputs):
        features, taps = super().encode(inputs)
        features["b"] = features["b"] + features["a"].sum()
        return features, taps

    def read(self, features, taps, present):
        output = super().read(features, taps, present)
        alone = self.unimodal_heads["b"](features["b"].detach())
        return output._replace(unimodal={**output.unimodal, "b": alone})


@pytest.mark.parametrize(
    ("fusion", "change", "call", "message"),
    [
        (Concat, None, {}, r"needs the output of every encoder, \['a', 'b'\]"),
        (Concat, lambda z: {"left": z["a"]}, {}, r"features has \['left'\]"),
        (
            Concat,
            lambda z: {name: 1 * x for name, x in z.items()},
            {},
            "'a' other than through features",
        ),
        (Concat, dict, {"accumulate": True}, "accumulate cannot be used with"),
        (tiny_models.Mixing, dict, {}, "'a' reaches the encoder 'b'"),
        (Leaky, dict, {}, r"features\['b'\] depend on the encoder 'a'"),
    ],
)
def test_refused(fusion, change, call, message):
    """Found out before anything is computed."""
    model = tiny_models.build(fusion)
    inputs, targets = tiny_models.batch(model)
    output = model(inputs)
    integrator = MMPareto(model, model.encoders, gramian="features")
    with pytest.raises(ValueError, match=message):
        integrator.backward(*losses(output, targets), change and change(output.features), **call)
    assert gradients(model) == {}


def test_features_that_nobody_asked_for():
    model = tiny_models.build()
    inputs, targets = tiny_models.batch(model)
    output = model(inputs)
    with pytest.raises(ValueError, match="gramian='parameters' ignores them"):
        MMPareto(model, model.encoders).backward(*losses(output, targets), output.features)
    assert gradients(model) == {}


def train_toy(tmp_path, *flags, data="toy"):
    train.main(["--dataset", data, "--encoder", "cnn", "--gramian", "features",
                "--out", str(tmp_path / "run"), *map(str, flags)])  # fmt: skip
    steps = (tmp_path / "run/steps.jsonl").read_text().splitlines()
    return [json.loads(line) for line in steps]


class TestTraining:
    @pytest.mark.parametrize("method", METHODS)
    def test_every_method(self, tmp_path, toys, method):
        steps = train_toy(tmp_path, "--method", method, data="toy3")
        assert steps[-1]["loss"] < 0.7 * steps[0]["loss"]
        assert set(steps[0]["encoders"]) == {"a", "b", "c"}

    def test_two_tasks(self, tmp_path, toys):
        steps = train_toy(tmp_path, data="toy_tasks")
        assert set(steps[0]["encoders"]) == {SHARED}

    def test_bfloat16(self, tmp_path, toys):
        assert train_toy(tmp_path, "--precision", "bf16")[-1]["skipped"] is False

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--fusion", "mmtm"], "--fusion mmtm they meet earlier"),
            (["--fusion", "centralnet"], "--fusion centralnet they meet earlier"),
            (["--accumulate", 2], "drop --accumulate 2"),
            (["--granularity", "tensor"], "drop --granularity tensor"),
            (["--method", "gradnorm"], "--gramian acts only with"),
            (["--method", "uniform"], "--gramian acts only with"),
        ],
    )
    def test_refused(self, tmp_path, toys, flags, message):
        with pytest.raises(UserError, match=message):
            train_toy(tmp_path, *flags)
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.filterwarnings("ignore")
def test_compiled(monkeypatch, toys, precision):
    """Predictions are made of the features that the compiled encoders have returned."""
    model = tiny_models.build().float().eval()
    inputs, targets = tiny_models.batch(model)
    inputs = {name: x.float() for name, x in inputs.items()}
    found, model.precision = [], precision
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    for compiled in (False, True):
        if compiled:
            model.compile()
        output = model(inputs)
        assert output.joint.dtype == output.features["a"].dtype == torch.float32
        integrator = MMPareto(model, model.encoders, gramian="features")
        integrator.backward(*losses(output, targets), output.features)
        found.append(gradients(model))
        model.zero_grad()
    assert_close(*found, rtol=1e-4, atol=1e-5)
