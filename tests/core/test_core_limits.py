"""Unusual models and losses in MMPareto.backward: the right gradients, or one clear error."""

from copy import deepcopy

import pytest
import reference
import tiny_models
import torch
from tiny_models import backward, losses
from torch import nn
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from mmpareto import MMPareto
from mmpareto.core import integrate
from mmpareto.core.integrator import Integrator
from mmpareto.models.fusions.concat import Concat


def concat(kind, *args):
    """A late fusion of two encoders of a kind."""
    return Concat({name: kind(*args) for name in "ab"}, tiny_models.CLASSES).double().eval()


def as_real(x):
    return torch.view_as_real(x) if x.is_complex() else x.to_dense() if x.is_sparse else x


def assert_reference(model):
    """What MMPareto puts into .grad is what the reference does."""
    inputs, targets = tiny_models.batch(model)
    model.zero_grad()
    backward(MMPareto(model, model.encoders), inputs, targets)
    joint, unimodal = losses(model(inputs), targets)
    for name, encoder in model.encoders.items():
        params, both = list(encoder.parameters()), (joint, unimodal[name])
        pair = [torch.autograd.grad(loss, params, retain_graph=True) for loss in both]
        j, g = (list(map(as_real, gradients)) for gradients in pair)
        found = [as_real(p.grad) for p in params]
        assert_close(found, reference.mmpareto(j, g, 1.5, "encoder"), rtol=1e-9, atol=1e-12)


def assert_untouched(model):
    assert all(p.grad is None for p in model.parameters())


class TestNarrowNumbers:
    """Parameters of 16 bits: h is as good as they can hold, however j and g cancel."""

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    @pytest.mark.parametrize("share", [1.0, 0.1, 0.01])
    @pytest.mark.parametrize("noise", [0.1, 0.01])
    def test_cancelling(self, dtype, share, noise):
        j = torch.randn(1000)
        g = (share * (noise * torch.randn(1000) - j)).to(dtype)
        j = j.to(dtype)
        (expected,) = reference.mmpareto([j.double()], [g.double()], 1.5, "encoder")
        (h,), _ = integrate.mmpareto_rule([j.clone()], [g])
        error = (h.double() - expected).norm() / expected.norm()
        assert error < torch.finfo(dtype).eps

    def test_a_weight_above_the_largest_number(self):
        """1e5 times 1e-4 is 10, and float16 ends at 65,504."""
        j = torch.tensor([30.0, 0.0]).half()
        g = torch.tensor([-1e-2, 2e-4]).half()
        (expected,) = reference.mmpareto([j.double()], [g.double()], 1.5, "encoder")
        (h,), stats = integrate.mmpareto_rule([j.clone()], [g])
        assert stats.scale * stats.unimodal_weight > 1e5
        assert_close(h.double(), expected, rtol=1e-2, atol=1e-2)


class Complex(tiny_models.Followed):
    """Both parts of a complex parameter count, as two real ones would."""

    def __init__(self):
        super().__init__()
        self.turn = nn.Parameter(torch.randn(5, 5, dtype=torch.complex128))

    def after(self, z):
        return (z.to(self.turn.dtype) @ self.turn).abs()


class Sparse(tiny_models.Followed):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(7, 5, sparse=True)

    def after(self, z):
        return z + self.table((10 * z[:, 0]).long() % 7)


class Checkpointed(tiny_models.Followed):
    def __init__(self, reentrant):
        super().__init__()
        self.reentrant = reentrant

    def forward(self, inputs):
        return checkpoint(self.layers, inputs.requires_grad_(), use_reentrant=self.reentrant)


class TestParameters:
    @pytest.mark.parametrize("encoder", [[Complex], [Sparse], [Checkpointed, False]])
    def test_unusual_encoders(self, encoder):
        model = concat(*encoder)
        for _ in range(5):
            assert_reference(model)

    def test_rules_see_every_parameter_at_its_place(self):
        """Also one that is not used: rules that remember count on it."""
        model = tiny_models.build()
        model.encoders["a"].register_parameter("unused", nn.Parameter(torch.ones(3)))
        seen = {}

        def rule(j, g):
            seen[len(j)] = [x.shape for x in j]
            return integrate.uniform_rule(j, g)

        backward(Integrator(model, model.encoders, rule), *tiny_models.batch(model))
        assert [p.shape for p in model.encoders["a"].parameters()] in seen.values()
        assert model.encoders["a"].unused.grad is None

    def test_gradients_that_the_graph_holds(self):
        """A function may give out what it has saved, if not the user's own data."""

        class Saving(torch.autograd.Function):
            @staticmethod
            def forward(ctx, weight, x):
                ctx.save_for_backward(x)
                return (weight * x).sum()

            @staticmethod
            def backward(ctx, gradient):
                return ctx.saved_tensors[0], None

        model = nn.ModuleDict({"a": nn.Linear(4, 1, bias=False)})
        x = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
        before, weight = x.clone(), model["a"].weight
        joint, own = (Saving.apply(weight, x) for _ in range(2))
        MMPareto(model, {"a": model["a"]}).backward(joint, {"a": own})
        assert torch.equal(x, before)
        assert torch.equal(weight.grad, 3 * before)

    def test_hooks_that_wait_for_the_gradient(self):
        """As of optimizers that step within the backward pass: once, with all of it."""
        model = tiny_models.build()
        found = []
        for param in model.parameters():
            param.register_post_accumulate_grad_hook(lambda p: found.append((p, p.grad.clone())))
        backward(MMPareto(model, model.encoders), *tiny_models.batch(model))
        assert len(found) == len(list(model.parameters())) == len({param for param, _ in found})
        assert all(torch.equal(gradient, param.grad) for param, gradient in found)


class TestRefusals:
    """One line says what is wrong, and no gradient is written."""

    @pytest.mark.parametrize("settings", [{"late": True}, {"late": False}, {"gramian": "features"}])
    def test_reentrant_checkpoints(self, settings):
        """They hide their parameters: without an error these would never be trained."""
        model = concat(Checkpointed, True)
        with pytest.raises(ValueError, match="give it use_reentrant=False"):
            backward(MMPareto(model, model.encoders, **settings), *tiny_models.batch(model))
        assert_untouched(model)

    @pytest.mark.parametrize("late", [True, False])
    def test_losses_without_a_gradient(self, late):
        model = tiny_models.build()
        integrator = MMPareto(model, model.encoders, late=late)
        inputs, targets = tiny_models.batch(model)
        joint, own = losses(model(inputs), targets)
        for bad in (own["b"].detach(), torch.tensor(1), 1.0, None):
            with pytest.raises(ValueError, match="the loss of 'b' has no gradient"):
                integrator.backward(joint, {**own, "b": bad})
        with pytest.raises(ValueError, match="the loss of 'joint' has no gradient"):
            integrator.backward(joint.detach(), own)
        assert_untouched(model)
        model.encoders["b"].requires_grad_(False)
        integrator.backward(joint, {**own, "b": own["b"].detach()})  # nothing there to train

    def test_losses_of_another_model(self):
        """A copy, or parameters given to functional_call."""
        model = tiny_models.build()
        inputs, targets = tiny_models.batch(model)
        copied = {n: p.detach().clone().requires_grad_() for n, p in model.named_parameters()}
        for output in (
            deepcopy(model)(inputs),
            torch.func.functional_call(model, copied, (inputs,), strict=False),
        ):
            with pytest.raises(ValueError, match="no loss reaches a parameter of the encoder"):
                MMPareto(model, model.encoders).backward(*losses(output, targets))

    def test_detached_features(self):
        model = tiny_models.build()
        inputs, targets = tiny_models.batch(model)
        output = model.read({name: z.detach() for name, z in model(inputs).features.items()})
        integrator = MMPareto(model, model.encoders, gramian="features")
        with pytest.raises(ValueError, match=r"features\['a'\] has no gradient"):
            integrator.backward(*losses(output, targets), output.features)

    def test_wrong_late(self):
        model = tiny_models.build(tiny_models.Mixing)
        with pytest.raises(ValueError, match="late=False if modalities mix"):
            backward(MMPareto(model, model.encoders, late=True), *tiny_models.batch(model))
        assert_untouched(model)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda joint, a, b: (joint, {"a": b, "b": a}), "which loss goes under which name"),
            (lambda joint, a, b: (joint, {"a": a}), r"\['a'\] given for encoders \['a', 'b'\]"),
            (lambda joint, a, b: (joint, [a, b]), r"without names given for encoders \['a', 'b'\]"),
            (
                lambda joint, a, b: (joint.expand(12), {"a": a, "b": b}),
                r"the loss of 'joint' has shape \(12,\)",
            ),
            (
                lambda joint, a, b: (joint, {"a": a, "b": b.expand(3, 4)}),
                r"the loss of 'b' has shape \(3, 4\)",
            ),
        ],
    )
    def test_wrong_losses(self, change, message):
        model = tiny_models.build()
        inputs, targets = tiny_models.batch(model)
        joint, own = losses(model(inputs), targets)
        integrator = MMPareto(model, model.encoders)
        for call in (integrator.backward, integrator.observe):
            with pytest.raises(ValueError, match=message):
                call(*change(joint, **own))
        assert_untouched(model)

    @pytest.mark.parametrize(
        ("encoders", "message"),
        [
            (lambda a, b: {"a": a, "b": a}, "'a' and 'b' share a parameter"),
            (lambda a, b: {"a": tiny_models.Encoder()}, "'a' is not a part of the model"),
            (lambda a, b: {}, "no named encoders"),
            (lambda a, b: [a, b], r"give a model, and \{name: module\}"),
            (lambda a, b: {"a": "a"}, r"give a model, and \{name: module\}"),
        ],
    )
    def test_encoders(self, encoders, message):
        model = tiny_models.build()
        with pytest.raises(ValueError, match=message):
            MMPareto(model, encoders(**model.encoders))

    def test_shared_parameter(self):
        model = tiny_models.build()
        model.encoders["b"][0].weight = model.encoders["a"][0].weight
        with pytest.raises(ValueError, match="share a parameter"):
            MMPareto(model, model.encoders)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            *(
                ({"gamma": gamma}, "gamma is")
                for gamma in (0, -1, float("nan"), float("inf"), None)
            ),
            ({"granularity": "layer"}, "granularity is 'layer'"),
            ({"gramian": "z"}, "gramian is 'z'"),
            ({"granularity": "tensor", "gramian": "features"}, "granularity='tensor'"),
            ({"late": False, "gramian": "features"}, "meet only after the encoders"),
        ],
    )
    def test_settings(self, settings, message):
        model = tiny_models.build()
        with pytest.raises(ValueError, match=message):
            MMPareto(model, model.encoders, **settings)
