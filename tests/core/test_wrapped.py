"""Wrapped, changed or incomplete models in MMPareto.backward: right, or one clear error."""

import pytest
import tiny_models
import torch
import torch.nn.functional as F
from tiny_models import backward, losses
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.testing import assert_close

from mmpareto import MMPareto
from mmpareto.core import distributed
from mmpareto.models.fusions.concat import Concat


def assert_untouched(model):
    assert all(p.grad is None for p in model.parameters())


class Broadcast(torch.autograd.Function):
    """Hands parameters to the copies of a model, as DataParallel does."""

    @staticmethod
    def forward(ctx, devices, *tensors):
        ctx.count = len(tensors)
        return tuple(x.clone() for _ in devices for x in tensors)

    @staticmethod
    def backward(ctx, *gradients):
        copies = zip(*(iter(gradients),) * ctx.count, strict=True)
        return None, *map(sum, zip(*copies, strict=True))


def in_copies(model, inputs):
    """The model's logits of both halves of a batch, each from a copy of its parameters."""
    names, params = zip(*model.named_parameters(), strict=True)
    values, found = Broadcast.apply(range(2), *params), []
    for half in range(2):
        own = dict(zip(names, values[half * len(names) :], strict=False))
        part = {name: x.chunk(2)[half] for name, x in inputs.items()}
        found.append(torch.func.functional_call(model, own, (part,), strict=False).logits)
    return {name: torch.cat([logits[name] for logits in found]) for name in found[0]}


class TestWrapped:
    """DataParallel and DistributedDataParallel join all encoders in one node of the graph."""

    def test_copies(self):
        model = tiny_models.build().eval()
        inputs, targets = tiny_models.batch(model)
        backward(MMPareto(nn.DataParallel(model), model.encoders), inputs, targets)
        expected = [p.grad for p in model.parameters()]
        model.zero_grad()
        own = {name: F.cross_entropy(u, targets) for name, u in in_copies(model, inputs).items()}
        MMPareto(model, model.encoders).backward(own.pop("joint"), own)
        found = [p.grad for p in model.parameters()]
        assert_close(found, expected)

    def test_copies_that_mix(self):
        model = tiny_models.build(tiny_models.Mixing).eval()
        inputs, targets = tiny_models.batch(model)
        own = {name: F.cross_entropy(u, targets) for name, u in in_copies(model, inputs).items()}
        with pytest.raises(ValueError, match="late=False if modalities mix"):
            MMPareto(model, model.encoders).backward(own.pop("joint"), own)

    @pytest.fixture
    def group(self, tmp_path):
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
        )
        yield
        torch.distributed.destroy_process_group()

    @pytest.mark.parametrize("flag", ["find_unused_parameters", "static_graph"])
    def test_forward_through_ddp(self, group, flag):
        model = tiny_models.build().eval()
        inputs, targets = tiny_models.batch(model)
        joint, own = losses(model(inputs), targets)
        MMPareto(model, model.encoders).backward(joint, own)
        expected = [p.grad for p in model.parameters()]
        wrapped = nn.parallel.DistributedDataParallel(WithNumbers(model), **{flag: True})
        for _ in range(2):
            model.zero_grad()
            _, _, joint, own = wrapped(inputs, targets)
            MMPareto(model, model.encoders).backward(joint, own)
            assert_close([p.grad for p in model.parameters()], expected)

    def test_ddp(self, group):
        model = tiny_models.build()
        wrapped = nn.parallel.DistributedDataParallel(model)
        with pytest.raises(ValueError, match="processes would drift apart"):
            MMPareto(wrapped, model.encoders)

    def test_fsdp(self, group):
        """Also if it comes after MMPareto: gradients would be lost with the whole parameters."""
        model = tiny_models.build()
        integrator = MMPareto(model, model.encoders)
        fully_shard(model.encoders["a"])
        with pytest.raises(ValueError, match="FSDP shards parameters"):
            backward(integrator, *tiny_models.batch(model))
        with pytest.raises(ValueError, match="FSDP shards parameters"):
            MMPareto(model, model.encoders)


class WithNumbers(nn.Module):
    """Its output holds more than tensors with a gradient."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, inputs, targets):
        return 1, inputs["a"], *losses(self.model(inputs), targets)


class Recompute(torch.autograd.Function):
    """As offloaded checkpoints and reversible layers do."""

    @staticmethod
    def forward(ctx, x, layers):
        ctx.layers = layers
        ctx.save_for_backward(x)
        return layers(x)

    @staticmethod
    def backward(ctx, gradient):
        x = ctx.saved_tensors[0].detach().requires_grad_()
        with torch.enable_grad():
            ctx.layers(x).backward(gradient)
        return x.grad, None


class Inner(tiny_models.Followed):
    """All layers are in such a Function, or all but the first."""

    def __init__(self, whole):
        super().__init__()
        self.whole = whole

    def forward(self, inputs):
        if self.whole:
            return Recompute.apply(inputs.requires_grad_(), self.layers)
        first, *others = self.layers
        return Recompute.apply(first(inputs), nn.Sequential(*others))


class TestEncoders:
    """Each is trained as it is to be, or named."""

    @pytest.mark.parametrize("settings", [{"late": True}, {"late": False}, {"gramian": "features"}])
    @pytest.mark.parametrize("whole", [True, False])
    def test_functions_that_call_backward(self, settings, whole):
        """autograd.grad does not see their parameters; the user's own gradients stay."""
        model = Concat({name: Inner(whole) for name in "ab"}, tiny_models.CLASSES).double()
        for param in model.parameters():
            param.grad = torch.ones_like(param)
        message = "no loss reaches .* the encoder" if whole else "hides 'encoders.a.*weight'"
        with pytest.raises(ValueError, match=message):
            backward(MMPareto(model, model.encoders, **settings), *tiny_models.batch(model))
        if not whole:
            assert all(torch.equal(p.grad, torch.ones_like(p)) for p in model.parameters())

    @pytest.mark.parametrize("zero", [0, torch.zeros(())])
    def test_a_modality_that_the_batch_lacks(self, zero, monkeypatch):
        """Its loss is 0: the other encoders train as if its prediction had no weight."""
        model = tiny_models.build().eval()
        inputs, targets = tiny_models.batch(model)
        integrator, found = MMPareto(model, model.encoders), []
        for lacks in (True, False):
            z = {name: encoder(inputs[name]) for name, encoder in model.encoders.items()}
            z["b"] = torch.zeros_like(z["b"]) if lacks else 0 * z["b"]
            joint, own = losses(model.read(z), targets)
            stats = integrator.backward(joint, {**own, "b": zero if lacks else 0 * own["b"]})
            assert ("b" in stats) != lacks
            found.append([p.grad for p in model.encoders["a"].parameters()])
            assert (model.encoders["b"][0].weight.grad is None) == lacks
            model.zero_grad()
        assert_close(*found)
        monkeypatch.setattr(distributed, "size", lambda: 2)
        with pytest.raises(ValueError, match="give 0 times the sum of its head's output"):
            integrator.backward(joint, {**own, "b": zero})

    def test_an_encoder_that_was_replaced(self):
        model = tiny_models.build()
        integrator = MMPareto(model, {"a": model.encoders["a"], "b": model.encoders["b"]})
        model.encoders["a"] = tiny_models.Encoder().double()
        for call in (integrator.backward, integrator.observe):
            with pytest.raises(ValueError, match="build MMPareto again after you replace one"):
                call(*losses(model(tiny_models.batch(model)[0]), tiny_models.batch(model)[1]))
        assert_untouched(model)

    def test_one_encoder_that_no_loss_reaches(self):
        model = tiny_models.build()
        inputs, targets = tiny_models.batch(model)
        features = model(inputs).features
        joint, own = losses(model.read({**features, "a": features["a"].detach()}), targets)
        integrator = MMPareto(model, model.encoders)
        with pytest.raises(ValueError, match="a parameter of the encoder 'a'"):
            integrator.observe(joint, own)
        model.encoders["a"].requires_grad_(False)
        assert list(integrator.backward(joint, own)) == ["b"]
