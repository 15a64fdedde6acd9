"""MMPareto.backward in a plain loop: parity, traversals, and whose gradients it writes."""

from unittest.mock import patch

import pytest
import reference
import tiny_models
import torch
import torch.nn.functional as F
from tiny_models import Mixing, backward, gradients, losses
from torch import nn
from torch.testing import assert_close

from mmpareto import MMPareto
from mmpareto.core import integrate
from mmpareto.core.integrator import Integrator
from mmpareto.models.fusions.concat import Concat
from mmpareto.models.fusions.sum import Sum


class Case:
    """A model in evaluation, which has the same gradients at every backward, and these."""

    def __init__(self, fusion=Concat):
        self.model = tiny_models.build(fusion).eval()
        self.inputs, self.targets = tiny_models.batch(self.model)
        self.integrator = MMPareto(self.model, self.model.encoders, late=fusion.late)
        self.stats = self.backward()
        self.expected = gradients(self.model)
        self.model.zero_grad()

    def losses(self):
        return losses(self.model(self.inputs), self.targets)

    def backward(self):
        return self.integrator.backward(*self.losses())

    def assert_gradients(self, factor=1, **tolerance):
        """The model's are now factor times the expected ones."""
        expected = {name: factor * gradient for name, gradient in self.expected.items()}
        assert_close(gradients(self.model), expected, **tolerance)


@pytest.fixture
def case():
    return Case()


@pytest.mark.parametrize(
    ("fusion", "modalities", "granularity"),  # any two values of different columns meet in a row
    [
        (Concat, 2, "encoder"), (Sum, 5, "tensor"), (Mixing, 3, "none"),
        *(pytest.param(*row, marks=pytest.mark.slow) for row in (
            (Concat, 3, "tensor"), (Concat, 5, "none"), (Sum, 2, "none"),
            (Sum, 3, "encoder"), (Mixing, 2, "tensor"), (Mixing, 5, "encoder"),
        )),
    ],
)  # fmt: skip
def test_hundred_steps_equal_the_reference(fusion, modalities, granularity):
    """float64, SGD with momentum: parameters stay within 1e-8, through both branches."""
    ours, theirs, optimizer = tiny_models.twins(fusion, modalities)
    integrator = MMPareto(ours, ours.encoders, granularity=granularity, late=fusion.late)

    def rule(j, g):
        return reference.mmpareto(j, g, 1.5, granularity)

    conflicts = []
    for _ in range(100):
        inputs, targets = tiny_models.batch(ours)
        optimizer.zero_grad()
        stats = backward(integrator, inputs, targets)
        reference.backward(theirs, dict(theirs.encoders), *losses(theirs(inputs), targets), rule)
        optimizer.step()
        conflicts += [bool(s.conflict) for s in stats.values()]
    assert 0 < sum(conflicts) < len(conflicts)
    assert_close(list(ours.parameters()), list(theirs.parameters()), rtol=1e-8, atol=1e-8)


def test_uniform_rule_is_one_plain_backward():
    model = tiny_models.build(modalities=3)
    inputs, targets = tiny_models.batch(model)
    joint, unimodal = losses(model(inputs), targets)
    (joint + sum(unimodal.values())).backward(retain_graph=True)
    expected = gradients(model)
    model.zero_grad()
    Integrator(model, model.encoders, integrate.uniform_rule).backward(joint, unimodal)
    assert_close(gradients(model), expected, rtol=1e-12, atol=1e-15)


def test_uniform_rule_where_modalities_mix():
    """What a modality's loss does to the encoders of others takes no part."""
    model = tiny_models.build(Mixing, 3)
    inputs, targets = tiny_models.batch(model)
    joint, unimodal = losses(model(inputs), targets)
    expected = []
    for name, encoder in model.encoders.items():
        params = list(encoder.parameters())
        expected += torch.autograd.grad(joint + unimodal[name], params, retain_graph=True)
    uniform = Integrator(model, model.encoders, integrate.uniform_rule, late=False)
    uniform.backward(joint, unimodal)
    assert_close([p.grad for p in model.encoders.parameters()], expected)


@pytest.mark.parametrize(
    ("fusion", "modalities", "count"),
    [(Concat, 2, 2), (Concat, 3, 2), (Concat, 5, 2), (Mixing, 2, 3), (Mixing, 3, 4)],
)
def test_traversals(fusion, modalities, count):
    """Of the graph, and in late fusion of each encoder, whose first layer ends a whole one."""
    model = tiny_models.build(fusion, modalities)
    ends = dict.fromkeys(model.encoders, 0)
    for name, encoder in model.encoders.items():

        def counted(gradient, name=name):
            ends[name] += 1

        encoder[0].weight.register_hook(counted)
    integrator = MMPareto(model, model.encoders, late=fusion.late)
    with patch.object(torch.autograd, "grad", wraps=torch.autograd.grad) as grad:
        backward(integrator, *tiny_models.batch(model))
    assert grad.call_count == count
    assert fusion is Mixing or set(ends.values()) == {2}


def test_graph_is_freed(case):
    joint, unimodal = case.losses()
    case.integrator.backward(joint, unimodal)
    with pytest.raises(RuntimeError, match="second time"):
        joint.backward()


@pytest.mark.parametrize("fusion", [Concat, Mixing])
def test_accumulation_integrates_once(fusion):
    """Three micro-batches give what one backward of the averaged losses gives."""
    case = Case(fusion)
    for chunk, targets, told in tiny_models.micro_batches(case.inputs, case.targets, 3):
        joint, unimodal = losses(case.model(chunk), targets)
        own, last = {name: loss / 3 for name, loss in unimodal.items()}, told["last"]
        stats = case.integrator.backward(joint / 3, own, accumulate=not last)
        assert bool(stats) == bool(gradients(case.model)) == last
    case.assert_gradients(rtol=1e-9, atol=1e-12)
    assert float(stats["a"].cos) == pytest.approx(float(case.stats["a"].cos))


def test_reset_forgets_held_micro_batches(case):
    joint, unimodal = case.losses()
    case.integrator.backward(joint * float("nan"), unimodal, accumulate=True)
    case.integrator.reset()
    case.backward()
    case.assert_gradients()


def test_adds_to_existing_gradients(case):
    """As a backward pass does: zero_grad(set_to_none=False) works, too."""
    case.backward()
    case.backward()
    case.assert_gradients(2)
    case.model.zero_grad(set_to_none=False)
    case.backward()
    case.assert_gradients()


def test_gradient_scaling_commutes(case):
    """All losses times one factor, as an fp16 scaler does, gives the gradients times it."""
    joint, unimodal = case.losses()
    case.integrator.backward(joint * 1024, {name: x * 1024 for name, x in unimodal.items()})
    case.assert_gradients(1024)


def test_called_under_no_grad(case):
    """As loss.backward() may be."""
    made = case.losses()
    with torch.no_grad():
        case.integrator.backward(*made)
    case.assert_gradients(rtol=0, atol=0)


@pytest.mark.parametrize("fusion", [Concat, Mixing])
@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_compiled_model_has_the_same_gradients(fusion):
    case = Case(fusion)
    compiled = torch.compile(case.model, backend="aot_eager")
    integrator = MMPareto(case.model, case.model.encoders, late=fusion.late)
    integrator.backward(*losses(compiled(case.inputs), case.targets))
    case.assert_gradients(rtol=1e-9, atol=1e-12)


def test_parameters_that_no_loss_reaches_keep_no_gradient():
    model = tiny_models.build()
    model.encoders["a"][0].unused = nn.Parameter(torch.ones(3))
    model.unused = nn.Parameter(torch.ones(3))
    backward(MMPareto(model, model.encoders), *tiny_models.batch(model))
    assert model.encoders["a"][0].unused.grad is None
    assert model.unused.grad is None
    assert model.encoders["a"][0].weight.grad is not None


@pytest.mark.parametrize("gramian", ["parameters", "features", "adaptive"])
def test_frozen_parameters(gramian):
    model = tiny_models.build()
    model.encoders["a"].requires_grad_(False)
    model.encoders["b"][0].requires_grad_(False)
    integrator = MMPareto(model, model.encoders, gramian=gramian)
    assert list(backward(integrator, *tiny_models.batch(model))) == ["b"]
    assert all(p.grad is None for p in model.encoders["a"].parameters())
    assert model.encoders["b"][0].weight.grad is None
    assert model.encoders["b"][3].weight.grad is not None
    model.encoders.requires_grad_(False)
    model.joint_head.weight.grad = None
    assert backward(integrator, *tiny_models.batch(model)) == {}
    assert model.joint_head.weight.grad is not None


def test_gradients_that_autograd_shares_are_not_corrupted():
    """Parameters added to one another get one and the same tensor from autograd."""

    class Biased(tiny_models.Followed):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Parameter(torch.zeros(5)), nn.Parameter(torch.zeros(5))

        def after(self, z):
            return z + (self.first + self.second)

    model = Concat({"a": Biased(), "b": Biased()}, tiny_models.CLASSES).double()
    inputs, targets = tiny_models.batch(model)

    def rule(j, g):
        return reference.mmpareto(j, g, 1.5, "encoder")

    reference.backward(model, dict(model.encoders), *losses(model(inputs), targets), rule)
    expected = gradients(model)
    model.zero_grad()
    backward(MMPareto(model, model.encoders), inputs, targets)
    for param in model.parameters():
        param.grad.mul_(1)  # in place, as clipping does
    assert_close(gradients(model), expected)
    grads = [p.grad.data_ptr() for p in model.parameters()]
    assert len(set(grads)) == len(grads)


def test_multi_task_learning():
    """One shared encoder with two tasks as its objectives."""
    trunk = nn.Sequential(nn.Linear(6, 8), nn.Tanh()).double()
    heads = nn.ModuleList([nn.Linear(8, 3), nn.Linear(8, 3)]).double()
    model = nn.ModuleDict({"trunk": trunk, "heads": heads})
    inputs, targets = torch.randn(10, 6).double(), torch.randint(3, (2, 10))
    first, second = (F.cross_entropy(heads[i](trunk(inputs)), targets[i]) for i in range(2))
    params = list(trunk.parameters())
    j, g = (list(torch.autograd.grad(x, params, retain_graph=True)) for x in (first, second))
    MMPareto(model, {"shared": trunk}).backward(first, {"shared": second})
    assert_close([p.grad for p in params], reference.mmpareto(j, g, 1.5, "encoder"))


def test_bf16_autocast():
    """The rule holds of the gradients that autocast gives; parameters keep float32 gradients."""
    model = tiny_models.build().float()
    inputs, targets = tiny_models.batch(model)
    with torch.autocast("cpu", torch.bfloat16):
        output = model({name: x.float() for name, x in inputs.items()})
    joint, unimodal = losses(output._replace(joint=output.joint.float()), targets)
    expected = []
    for name, encoder in model.encoders.items():
        params, both = list(encoder.parameters()), (joint, unimodal[name])
        j, g = (list(torch.autograd.grad(x, params, retain_graph=True)) for x in both)
        expected += reference.mmpareto(j, g, 1.5, "encoder")
    MMPareto(model, model.encoders).backward(joint, unimodal)
    assert_close([p.grad for p in model.encoders.parameters()], expected, rtol=1e-4, atol=1e-6)


def test_gradients_lie_in_memory_as_their_parameters(case):
    """Fused optimizers read them so; autograd.grad promises nothing (torch.compile permutes)."""

    class Permuted(torch.autograd.Function):
        @staticmethod
        def forward(ctx, weight):
            return weight * 1

        @staticmethod
        def backward(ctx, gradient):
            return gradient.T.contiguous().T

    weight = case.model.encoders["a"][0].weight
    joint, unimodal = case.losses()
    extra = Permuted.apply(weight).square().sum()
    assert torch.autograd.grad(extra, weight, retain_graph=True)[0].stride() != weight.stride()
    case.integrator.backward(joint + extra, {**unimodal, "a": unimodal["a"] + extra})
    for param in case.model.parameters():
        assert param.grad.stride() == param.stride()
