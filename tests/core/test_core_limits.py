"""Unusual models and losses in MMPareto.backward: the right gradients, or one clear error."""

from copy import deepcopy

import pytest
import reference
import tiny_models
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from mmpareto import MMPareto
from mmpareto.core import integrate
from mmpareto.core.integrator import Integrator
from mmpareto.models.fusions.concat import Concat


def gradients(model):
    return [p.grad for p in model.parameters()]


def assert_reference(model, inputs, targets):
    """What MMPareto puts into .grad is what the reference does."""
    integrator = MMPareto(model, model.encoders)
    integrator.backward(*tiny_models.losses(model(inputs), targets))
    found = [p.grad.clone() for p in model.encoders.parameters()]
    model.zero_grad()
    joint, unimodal = tiny_models.losses(model(inputs), targets)
    expected = []
    for name, encoder in model.encoders.items():
        params = list(encoder.parameters())
        pair = [
            [
                torch.view_as_real(x) if x.is_complex() else x.to_dense() if x.is_sparse else x
                for x in torch.autograd.grad(loss, params, retain_graph=True)
            ]
            for loss in (joint, unimodal[name])
        ]
        expected += reference.mmpareto(*pair, 1.5, "encoder")
    found = [torch.view_as_real(x) if x.is_complex() else x for x in found]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


class Wrapped(tiny_models.Encoder):
    """The usual encoder with something around it; the same interface."""

    def __init__(self, around):
        super().__init__()
        self.around = around

    def forward(self, inputs):
        return self.around(super().forward, inputs)


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
        torch.testing.assert_close(h.double(), expected, rtol=1e-2, atol=1e-2)


class TestParameters:
    def test_complex(self):
        """Both parts of a complex parameter count, as two real ones would."""

        class Complex(tiny_models.Encoder):
            def __init__(self):
                super().__init__()
                self.turn = nn.Parameter(torch.randn(5, 5, dtype=torch.complex128))

            def forward(self, inputs):
                for layer in self:
                    inputs = layer(inputs)
                return (inputs.to(self.turn.dtype) @ self.turn).abs()

        model = Concat({"a": Complex(), "b": Complex()}, tiny_models.CLASSES).double().eval()
        for _ in range(5):
            assert_reference(model, *tiny_models.batch(model))

    def test_sparse_gradients(self):
        class Looked(tiny_models.Encoder):
            def __init__(self):
                super().__init__()
                self.table = nn.Embedding(7, 5, sparse=True)

            def forward(self, inputs):
                for layer in list(self)[:4]:
                    inputs = layer(inputs)
                return inputs + self.table((10 * inputs[:, 0]).long() % 7)

        model = Concat({"a": Looked(), "b": Looked()}, tiny_models.CLASSES).double().eval()
        assert_reference(model, *tiny_models.batch(model))

    def test_rules_see_every_parameter_at_its_place(self):
        """Also one that is not used: rules that remember count on it."""
        model = tiny_models.build()
        model.encoders["a"].register_parameter("unused", nn.Parameter(torch.ones(3)))
        seen = {}

        def rule(j, g):
            seen[len(j)] = [x.shape for x in j]
            return integrate.uniform_rule(j, g)

        inputs, targets = tiny_models.batch(model)
        Integrator(model, model.encoders, rule).backward(
            *tiny_models.losses(model(inputs), targets)
        )
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
        inputs, targets = tiny_models.batch(model)
        found = {}
        for name, param in model.named_parameters():
            param.register_post_accumulate_grad_hook(
                lambda p, name=name: found.setdefault(name, []).append(p.grad.clone())
            )
        MMPareto(model, model.encoders).backward(*tiny_models.losses(model(inputs), targets))
        assert found.keys() == dict(model.named_parameters()).keys()
        for name, param in model.named_parameters():
            assert len(found[name]) == 1 and torch.equal(found[name][0], param.grad)


def checkpointed(reentrant):
    def around(forward, inputs):
        return checkpoint(forward, inputs.requires_grad_(), use_reentrant=reentrant)

    encoders = {name: Wrapped(around) for name in "ab"}
    return Concat(encoders, tiny_models.CLASSES).double().eval()


class TestHowLossesAreMade:
    def test_checkpointed_activations(self):
        model = checkpointed(reentrant=False)
        assert_reference(model, *tiny_models.batch(model))

    @pytest.mark.parametrize("late", [True, False])
    @pytest.mark.parametrize("gramian", ["parameters", "features"])
    def test_reentrant_checkpoints(self, late, gramian):
        """They hide their parameters: without an error these would never be trained."""
        if gramian == "features" and not late:
            return
        model = checkpointed(reentrant=True)
        inputs, targets = tiny_models.batch(model)
        output = model(inputs)
        integrator = MMPareto(model, model.encoders, late=late, gramian=gramian)
        features = output.features if gramian == "features" else None
        with pytest.raises(ValueError, match="give it use_reentrant=False"):
            integrator.backward(*tiny_models.losses(output, targets), features)
        assert gradients(model) == [None] * len(gradients(model))

    @pytest.mark.parametrize("late", [True, False])
    def test_without_a_gradient(self, late):
        model = tiny_models.build()
        integrator = MMPareto(model, model.encoders, late=late)
        inputs, targets = tiny_models.batch(model)
        joint, own = tiny_models.losses(model(inputs), targets)
        for bad in (own["b"].detach(), torch.tensor(1), 0.0):
            with pytest.raises(ValueError, match="the loss of 'b' has no gradient"):
                integrator.backward(joint, {**own, "b": bad})
        with pytest.raises(ValueError, match="the loss of 'joint' has no gradient"):
            integrator.backward(joint.detach(), own)
        integrator.backward(joint, own)
        model.encoders["b"].requires_grad_(False)
        joint, own = tiny_models.losses(model(inputs), targets)
        integrator.backward(joint, {**own, "b": own["b"].detach()})  # nothing there to train

    def test_of_another_model(self):
        """A copy, or parameters given to functional_call."""
        model = tiny_models.build()
        inputs, targets = tiny_models.batch(model)
        copied = {n: p.detach().clone().requires_grad_() for n, p in model.named_parameters()}
        for output in (
            deepcopy(model)(inputs),
            torch.func.functional_call(model, copied, (inputs,), strict=False),
        ):
            with pytest.raises(ValueError, match="no loss reaches a parameter of any encoder"):
                MMPareto(model, model.encoders).backward(*tiny_models.losses(output, targets))

    def test_detached_features(self):
        model = tiny_models.build()
        inputs, targets = tiny_models.batch(model)
        output = model(inputs).map(torch.Tensor.detach)
        output = model.read(output.features, output.taps)
        integrator = MMPareto(model, model.encoders, gramian="features")
        with pytest.raises(ValueError, match=r"features\['a'\] has no gradient"):
            integrator.backward(*tiny_models.losses(output, targets), output.features)

    def test_called_under_no_grad(self):
        """As loss.backward() may be."""
        model = tiny_models.build().eval()
        inputs, targets = tiny_models.batch(model)
        integrator = MMPareto(model, model.encoders)
        integrator.backward(*tiny_models.losses(model(inputs), targets))
        expected = [g.clone() for g in gradients(model)]
        model.zero_grad()
        losses = tiny_models.losses(model(inputs), targets)
        with torch.no_grad():
            integrator.backward(*losses)
        torch.testing.assert_close(gradients(model), expected, rtol=0, atol=0)


class TestRefusals:
    def test_wrong_late(self):
        model = tiny_models.build(tiny_models.Mixing)
        inputs, targets = tiny_models.batch(model)
        integrator = MMPareto(model, model.encoders, late=True)
        with pytest.raises(ValueError, match="late=False if modalities mix"):
            integrator.backward(*tiny_models.losses(model(inputs), targets))
        assert gradients(model) == [None] * len(gradients(model))

    def test_losses_under_each_others_names(self):
        model = tiny_models.build()
        inputs, targets = tiny_models.batch(model)
        joint, unimodal = tiny_models.losses(model(inputs), targets)
        with pytest.raises(ValueError, match="which loss goes under which name"):
            MMPareto(model, model.encoders).backward(
                joint, {"a": unimodal["b"], "b": unimodal["a"]}
            )

    def test_missing_loss(self):
        model = tiny_models.build()
        joint, unimodal = tiny_models.losses(
            model(tiny_models.batch(model)[0]), torch.zeros(12).long()
        )
        with pytest.raises(ValueError, match=r"\['a'\] given for encoders \['a', 'b'\]"):
            MMPareto(model, model.encoders).backward(joint, {"a": unimodal["a"]})

    def test_losses_that_are_no_scalars(self):
        model = tiny_models.build()
        joint, unimodal = tiny_models.losses(
            model(tiny_models.batch(model)[0]), torch.zeros(12).long()
        )
        integrator = MMPareto(model, model.encoders)
        with pytest.raises(ValueError, match=r"the loss of 'joint' has shape \(12,\)"):
            integrator.backward(joint.expand(12), unimodal)
        with pytest.raises(ValueError, match=r"the loss of 'b' has shape \(3, 4\)"):
            integrator.observe(joint, {**unimodal, "b": unimodal["b"].expand(3, 4)})

    def test_encoder_under_two_names(self):
        model = tiny_models.build()
        with pytest.raises(ValueError, match="'a' and 'b' share a parameter"):
            MMPareto(model, {"a": model.encoders["a"], "b": model.encoders["a"]})

    def test_shared_parameter(self):
        model = tiny_models.build()
        model.encoders["b"][0].weight = model.encoders["a"][0].weight
        with pytest.raises(ValueError, match="share a parameter"):
            MMPareto(model, model.encoders)

    def test_foreign_encoder(self):
        with pytest.raises(ValueError, match="'a' is not a part of the model"):
            MMPareto(tiny_models.build(), {"a": tiny_models.Encoder()})

    def test_no_encoder(self):
        with pytest.raises(ValueError, match="no named encoders"):
            MMPareto(tiny_models.build(), {})
        model = tiny_models.build()
        with pytest.raises(ValueError, match=r"give \{name: module\}"):
            MMPareto(model, list(model.encoders.values()))

    def test_distributed_model(self, tmp_path):
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
        )
        try:
            model = tiny_models.build()
            wrapped = nn.parallel.DistributedDataParallel(model)
            with pytest.raises(ValueError, match="processes would drift apart"):
                MMPareto(wrapped, model.encoders)
        finally:
            torch.distributed.destroy_process_group()

    @pytest.mark.parametrize("gamma", [0, -1, float("nan"), float("inf")])
    def test_gamma(self, gamma):
        model = tiny_models.build()
        with pytest.raises(ValueError, match="gamma is"):
            MMPareto(model, model.encoders, gamma=gamma)

    def test_granularity(self):
        model = tiny_models.build()
        with pytest.raises(ValueError, match="granularity is 'layer'"):
            MMPareto(model, model.encoders, granularity="layer")
