"""MMPareto.backward in a plain loop: parity, traversals, and what it refuses."""

import pytest
import reference
import tiny_models
import torch
import torch.distributed
import torch.nn.functional as F
from torch import nn

from mmpareto import MMPareto
from mmpareto.core import integrate
from mmpareto.core.integrator import Integrator
from mmpareto.models.fusions.concat import Concat
from mmpareto.models.fusions.sum import Sum


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def integrated(integrator, inputs, targets):
    """The gradients of one backward; the model's own are cleared again."""
    model = integrator.model
    integrator.backward(*tiny_models.losses(model(inputs), targets))
    found = gradients(model)
    model.zero_grad()
    return found


def assert_same_gradients(model, expected, **tolerance):
    assert gradients(model).keys() == expected.keys()
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], **tolerance)


@pytest.mark.parametrize("granularity", integrate.GRANULARITIES)
@pytest.mark.parametrize("modalities", [2, 3, 5])
@pytest.mark.parametrize("fusion", [Concat, Sum, tiny_models.Mixing])
def test_hundred_steps_equal_the_reference(fusion, modalities, granularity):
    """float64, SGD with momentum: parameters stay within 1e-8, through both branches."""
    ours = tiny_models.build(fusion, modalities)
    theirs = tiny_models.build(fusion, modalities)
    theirs.load_state_dict(ours.state_dict())
    steppers = [torch.optim.SGD(m.parameters(), lr=0.05, momentum=0.9) for m in (ours, theirs)]
    integrator = MMPareto(ours, ours.encoders, granularity=granularity, late=fusion.late)

    def rule(j, g):
        return reference.mmpareto(j, g, 1.5, granularity)

    conflicts = []
    for _ in range(100):
        inputs, targets = tiny_models.batch(ours)
        for stepper in steppers:
            stepper.zero_grad()
        stats = integrator.backward(*tiny_models.losses(ours(inputs), targets))
        joint, unimodal = tiny_models.losses(theirs(inputs), targets)
        reference.backward(theirs, dict(theirs.encoders), joint, unimodal, rule)
        for stepper in steppers:
            stepper.step()
        conflicts += [bool(s.conflict) for s in stats.values()]
    assert 0 < sum(conflicts) < len(conflicts)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("fusion", [Concat, tiny_models.Mixing])
def test_uniform_rule_is_one_plain_backward(fusion):
    model = tiny_models.build(fusion, 3)
    inputs, targets = tiny_models.batch(model)
    output = model(inputs)
    joint, unimodal = tiny_models.losses(output, targets)
    if fusion is Concat:
        (joint + sum(unimodal.values())).backward(retain_graph=True)
        expected = gradients(model)
        model.zero_grad()
        Integrator(model, model.encoders, integrate.uniform_rule).backward(joint, unimodal)
        assert_same_gradients(model, expected, rtol=1e-12, atol=1e-15)
    else:  # what a modality's loss does to the encoders of others takes no part
        wanted = {}
        for name, encoder in model.encoders.items():
            own = torch.autograd.grad(
                joint + unimodal[name], list(encoder.parameters()), retain_graph=True
            )
            wanted[name] = own
        Integrator(model, model.encoders, integrate.uniform_rule, late=False).backward(
            joint, unimodal
        )
        for name, encoder in model.encoders.items():
            for param, gradient in zip(encoder.parameters(), wanted[name], strict=True):
                torch.testing.assert_close(param.grad, gradient)


class TestTraversals:
    def count(self, fusion, modalities):
        model = tiny_models.build(fusion, modalities)
        inputs, targets = tiny_models.batch(model)
        output = model(inputs)
        calls = dict.fromkeys(model.encoders, 0)
        for name, encoder in model.encoders.items():

            def counted(gradient, name=name):
                calls[name] += 1

            encoder[0].weight.register_hook(counted)  # the end of a whole traversal
        losses = tiny_models.losses(output, targets)
        MMPareto(model, model.encoders, late=fusion.late).backward(*losses)
        return set(calls.values())

    @pytest.mark.parametrize("modalities", [2, 3, 5])
    def test_two_in_late_fusion(self, modalities):
        assert self.count(Concat, modalities) == {2}

    @pytest.mark.parametrize("modalities", [2, 3])
    def test_calls_of_autograd(self, modalities, monkeypatch):
        calls = []
        original = torch.autograd.grad

        def counted(*arguments, **settings):
            calls.append(1)
            return original(*arguments, **settings)

        monkeypatch.setattr(torch.autograd, "grad", counted)
        self.count(Concat, modalities)
        assert len(calls) == 2
        self.count(tiny_models.Mixing, modalities)
        assert len(calls) == 2 + 1 + modalities

    def test_graph_is_freed(self):
        model = tiny_models.build()
        losses = tiny_models.losses(
            *[f(model) for f in (lambda m: m(tiny_models.batch(m)[0]),)], torch.zeros(12).long()
        )
        MMPareto(model, model.encoders).backward(*losses)
        with pytest.raises(RuntimeError, match="second time"):
            losses[0].backward()


@pytest.mark.parametrize("fusion", [Concat, tiny_models.Mixing])
def test_accumulation_integrates_once(fusion):
    """Three micro-batches give what one backward of the averaged losses gives."""
    model = tiny_models.build(fusion).eval()  # BatchNorm would see other batches
    inputs, targets = tiny_models.batch(model, 12)
    integrator = MMPareto(model, model.encoders, late=fusion.late)
    whole = integrator.backward(*tiny_models.losses(model(inputs), targets))
    expected = gradients(model)
    model.zero_grad()
    for i in range(3):
        part = slice(4 * i, 4 * i + 4)
        output = model({name: x[part] for name, x in inputs.items()})
        joint, unimodal = tiny_models.losses(output, targets[part])
        stats = integrator.backward(
            joint / 3, {name: loss / 3 for name, loss in unimodal.items()}, accumulate=i < 2
        )
        assert bool(stats) == (i == 2)
        assert bool(gradients(model)) == (i == 2)
    assert_same_gradients(model, expected, rtol=1e-9, atol=1e-12)
    assert float(stats["a"].cos) == pytest.approx(float(whole["a"].cos))


def test_reset_forgets_held_micro_batches():
    model = tiny_models.build().eval()
    inputs, targets = tiny_models.batch(model)
    integrator = MMPareto(model, model.encoders)
    expected = integrated(integrator, inputs, targets)
    joint, unimodal = tiny_models.losses(model(inputs), targets)
    integrator.backward(joint * float("nan"), unimodal, accumulate=True)
    integrator.reset()
    integrator.backward(*tiny_models.losses(model(inputs), targets))
    assert_same_gradients(model, expected)


def test_adds_to_existing_gradients():
    """As a backward pass does: zero_grad(set_to_none=False) works, too."""
    model = tiny_models.build()
    inputs, targets = tiny_models.batch(model)
    model.eval()
    integrator = MMPareto(model, model.encoders)
    integrator.backward(*tiny_models.losses(model(inputs), targets))
    once = gradients(model)
    integrator.backward(*tiny_models.losses(model(inputs), targets))
    assert_same_gradients(model, {name: 2 * g for name, g in once.items()})
    model.zero_grad(set_to_none=False)
    integrator.backward(*tiny_models.losses(model(inputs), targets))
    assert_same_gradients(model, once)


def test_gradient_scaling_commutes():
    """All losses times one factor, as an fp16 scaler does, gives the gradients times it."""
    model = tiny_models.build().eval()
    inputs, targets = tiny_models.batch(model)
    integrator = MMPareto(model, model.encoders)
    plain = integrated(integrator, inputs, targets)
    joint, unimodal = tiny_models.losses(model(inputs), targets)
    integrator.backward(joint * 1024, {name: loss * 1024 for name, loss in unimodal.items()})
    assert_same_gradients(model, {name: 1024 * g for name, g in plain.items()})


def test_parameters_that_no_loss_reaches_keep_no_gradient():
    model = tiny_models.build()
    model.encoders["a"][0].unused = nn.Parameter(torch.ones(3))
    model.unused = nn.Parameter(torch.ones(3))
    inputs, targets = tiny_models.batch(model)
    MMPareto(model, model.encoders).backward(*tiny_models.losses(model(inputs), targets))
    assert model.encoders["a"][0].unused.grad is None
    assert model.unused.grad is None
    assert model.encoders["a"][0].weight.grad is not None


def test_frozen_parameters():
    model = tiny_models.build()
    model.encoders["a"].requires_grad_(False)
    model.encoders["b"][0].requires_grad_(False)
    inputs, targets = tiny_models.batch(model)
    integrator = MMPareto(model, model.encoders)
    stats = integrator.backward(*tiny_models.losses(model(inputs), targets))
    assert list(stats) == ["b"]
    assert all(p.grad is None for p in model.encoders["a"].parameters())
    assert model.encoders["b"][0].weight.grad is None
    assert model.encoders["b"][3].weight.grad is not None


def test_gradients_that_autograd_shares_are_not_corrupted():
    """Parameters added to one another get one and the same tensor from autograd."""

    class Sharing(tiny_models.Encoder):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Parameter(torch.zeros(5)), nn.Parameter(torch.zeros(5))

        def forward(self, inputs):
            for layer in self:
                inputs = layer(inputs)
            return inputs + (self.first + self.second)

    model = Concat({"a": Sharing(), "b": Sharing()}, tiny_models.CLASSES).double()
    inputs, targets = tiny_models.batch(model)
    output = model(inputs)
    joint, unimodal = tiny_models.losses(output, targets)

    def rule(j, g):
        return reference.mmpareto(j, g, 1.5, "encoder")

    reference.backward(
        model, dict(model.encoders), *tiny_models.losses(model(inputs), targets), rule
    )
    expected = gradients(model)
    model.zero_grad()
    MMPareto(model, model.encoders).backward(joint, unimodal)
    for param in model.parameters():
        param.grad.mul_(1)  # in place, as clipping does
    assert_same_gradients(model, expected)
    grads = [p.grad.data_ptr() for p in model.parameters()]
    assert len(set(grads)) == len(grads)


def test_multi_task_learning():
    """One shared encoder with two tasks as its objectives."""
    trunk = nn.Sequential(nn.Linear(6, 8), nn.Tanh()).double()
    heads = nn.ModuleList([nn.Linear(8, 3), nn.Linear(8, 3)]).double()
    model = nn.ModuleDict({"trunk": trunk, "heads": heads})
    inputs, targets = torch.randn(10, 6).double(), torch.randint(3, (2, 10))
    losses = [F.cross_entropy(h(trunk(inputs)), t) for h, t in zip(heads, targets, strict=True)]
    j, g = (torch.autograd.grad(x, list(trunk.parameters()), retain_graph=True) for x in losses)
    MMPareto(model, {"shared": trunk}).backward(losses[0], {"shared": losses[1]})
    expected = reference.mmpareto(list(j), list(g), 1.5, "encoder")
    torch.testing.assert_close([p.grad for p in trunk.parameters()], expected)


def test_bf16_autocast():
    """The rule holds of the gradients that autocast gives; parameters keep float32 gradients."""
    model = tiny_models.build().float()
    inputs, targets = tiny_models.batch(model)
    with torch.autocast("cpu", torch.bfloat16):
        output = model({name: x.float() for name, x in inputs.items()})
    joint, unimodal = tiny_models.losses(output._replace(joint=output.joint.float()), targets)
    params = {name: list(e.parameters()) for name, e in model.encoders.items()}
    pairs = {
        name: [
            torch.autograd.grad(loss, params[name], retain_graph=True)
            for loss in (joint, unimodal[name])
        ]
        for name in params
    }
    MMPareto(model, model.encoders).backward(joint, unimodal)
    for name, (j, g) in pairs.items():
        expected = reference.mmpareto(list(j), list(g), 1.5, "encoder")
        torch.testing.assert_close([p.grad for p in params[name]], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("fusion", [Concat, tiny_models.Mixing])
@pytest.mark.filterwarnings("ignore")
def test_compiled_model_has_the_same_gradients(fusion):
    model = tiny_models.build(fusion)
    inputs, targets = tiny_models.batch(model)
    model.eval()
    integrator = MMPareto(model, model.encoders, late=fusion.late)
    integrator.backward(*tiny_models.losses(model(inputs), targets))
    expected = gradients(model)
    model.zero_grad()
    compiled = torch.compile(model, backend="aot_eager")
    integrator = MMPareto(model, model.encoders, late=fusion.late)
    integrator.backward(*tiny_models.losses(compiled(inputs), targets))
    assert_same_gradients(model, expected, rtol=1e-9, atol=1e-12)


def test_gradients_lie_in_memory_as_their_parameters():
    """Fused optimizers read them so; autograd.grad promises nothing (torch.compile permutes)."""

    class Permuted(torch.autograd.Function):
        @staticmethod
        def forward(ctx, weight):
            return weight * 1

        @staticmethod
        def backward(ctx, gradient):
            return gradient.T.contiguous().T

    model = tiny_models.build().eval()
    inputs, targets = tiny_models.batch(model)
    weight = model.encoders["a"][0].weight
    joint, unimodal = tiny_models.losses(model(inputs), targets)
    extra = Permuted.apply(weight).square().sum()
    assert torch.autograd.grad(extra, weight, retain_graph=True)[0].stride() != weight.stride()
    losses = {"a": unimodal["a"] + extra, "b": unimodal["b"]}
    MMPareto(model, model.encoders).backward(joint + extra, losses)
    for param in model.parameters():
        assert param.grad.stride() == param.stride()
