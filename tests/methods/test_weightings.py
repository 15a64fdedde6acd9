"""The multi-task methods on an encoder's two gradients: published values, literal references."""

from argparse import Namespace

import pytest
import reference
import reference_weightings as literal
import tiny_models
import torch
import torchjd.aggregation
from torch import nn

from mmpareto.methods import METHODS
from mmpareto.methods.gradnorm import updated
from mmpareto.models.encoders.base import Encoder
from mmpareto.system.errors import UserError

OPTIONS = {
    "gramian": "parameters", "scale": 1, "c": 0.5, "rescale": "none", "singular_value": "min",
    "alpha": 1.5, "weight_learning_rate": 0.025, "rho": 0.7, "beta": 0.9, "variant": "both",
}  # fmt: skip
WEIGHTED = ["pcgrad", "cagrad", "upgrad", "imtl_g", "aligned_mtl"]
LOOSE = {"upgrad": 5e-3, "cagrad": 5e-5}  # of solvers that regularise, or stop early


def method_of(name, model=None, **settings):
    model = model or tiny_models.build()
    return METHODS[name](model, Namespace(method=name, **(OPTIONS | settings)))


def integrated(name, j, g, **settings):
    """h of two vectors, and what was decided."""
    j, g = ([torch.tensor(x, dtype=torch.float64)] for x in (j, g))
    h, stats = method_of(name, **settings).rule("a")(j, g)
    return h[0], stats


class TestValues:
    """j = (1, 0), g = (-1, 1), then g = (-4, 2), computed apart from this code."""

    @pytest.mark.parametrize(
        ("name", "settings", "weights", "h"),
        [
            ("pcgrad", {}, (2, 1.5), (0.5, 1.5)),
            ("cagrad", {"c": 0.4}, (0.7, 0.5), (0.2, 0.5)),
            ("cagrad", {}, (0.75, 0.5), (0.25, 0.5)),
            ("cagrad", {"rescale": "square", "scale": 2}, (0.75, 0.5), (0.4, 0.8)),
            ("cagrad", {"rescale": "linear"}, (0.75, 0.5), (0.25 / 1.5, 0.5 / 1.5)),
            ("upgrad", {}, (1, 0.75), (0.25, 0.75)),
            ("imtl_g", {}, (0.585786, 0.414214), (0.171573, 0.414214)),
            ("aligned_mtl", {}, (0.552786, 0.414590), (0.138197, 0.414590)),
            ("aligned_mtl", {"singular_value": "rmse"}, (1.095445, 0.821584), (0.273861, 0.821584)),
        ],
    )
    def test_the_example(self, name, settings, weights, h):
        found, stats = integrated(name, (1.0, 0.0), (-1.0, 1.0), **settings)
        close = 5e-4 if name == "upgrad" else 5e-5
        assert found.tolist() == pytest.approx(h, abs=close)
        assert (stats.joint_weight.item(), stats.unimodal_weight.item()) == pytest.approx(
            weights, abs=close
        )
        assert bool(stats.conflict) and not bool(stats.stationary)

    @pytest.mark.parametrize(
        ("name", "h"),
        [
            ("pcgrad", (0.2, 2.4)),
            ("cagrad", (-0.598612, 1.0)),
            ("aligned_mtl", (-0.043845, 0.306913)),
        ],
    )
    def test_another(self, name, h):
        found, _ = integrated(name, (1.0, 0.0), (-4.0, 2.0))
        assert found.tolist() == pytest.approx(h, abs=5e-5)

    @pytest.mark.parametrize(
        ("name", "weights"),
        [
            ("pcgrad", (1, 1)),
            ("cagrad", (0, 0)),
            ("upgrad", (0.5, 0.5)),
            ("imtl_g", (0, 1)),
            ("aligned_mtl", (0, 0.5)),
        ],
    )
    def test_one_gradient_is_zero(self, name, weights):
        h, stats = integrated(name, (0.0, 0.0), (0.0, 1.0))
        assert (stats.joint_weight.item(), stats.unimodal_weight.item()) == pytest.approx(
            weights, abs=1e-3
        )
        assert h.isfinite().all()

    @pytest.mark.parametrize("name", ["cagrad", "upgrad", "imtl_g", "aligned_mtl"])
    def test_scale(self, name):
        """2 is twice 1; PCGrad has the size of the sum without it."""
        one, two = (integrated(name, (1.0, 0.5), (0.5, 2.0), scale=s)[0] for s in (1, 2))
        assert torch.allclose(2 * one, two)

    @pytest.mark.parametrize("name", ["upgrad", "pcgrad"])
    def test_equal_gradients(self, name):
        h, _ = integrated(name, (1.0, 2.0), (1.0, 2.0), scale=2)
        assert h.tolist() == pytest.approx((2, 4), abs=1e-3)


@pytest.mark.parametrize("name", WEIGHTED)
class TestWeighted:
    def test_gradients_of_any_length(self, name):
        """Regularisation never sees how long gradients are."""
        j, g = torch.randn(2, 9, dtype=torch.float64)
        found = [
            integrated(name, (s * j).tolist(), (s * g).tolist())[0] / s for s in (1e-6, 1, 1e6)
        ]
        assert torch.allclose(found[0], found[1], rtol=1e-4, atol=1e-6)
        assert torch.allclose(found[2], found[1], rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_not_finite_stays_so(self, name, bad):
        h, _ = integrated(name, (1.0, bad), (-1.0, 1.0))
        assert not h.isfinite().all()

    def test_random_pairs(self, name):
        rules = {
            "pcgrad": literal.pcgrad,
            "cagrad": lambda j, g: literal.cagrad(j, g, 0.5),
            "upgrad": literal.upgrad,
            "imtl_g": literal.imtl_g,
            "aligned_mtl": lambda j, g: literal.aligned_mtl(j, g, "min"),
        }
        for _ in range(40):
            j = torch.randn(6, dtype=torch.float64)
            g = torch.randn(6, dtype=torch.float64) * 3 - j
            h, _ = integrated(name, j.tolist(), g.tolist())
            expected = rules[name](j, g)
            off = (h - expected).norm() / (j.norm() + g.norm())
            assert off < LOOSE.get(name, 1e-9)


class Literal:
    """A whole model trained by a literal rule for each encoder."""

    def __init__(self, name, model, **settings):
        self.name, self.options = name, OPTIONS | settings
        o = self.options
        self.own = {
            encoder: (
                literal.GradNorm(o["alpha"], o["weight_learning_rate"])
                if name == "gradnorm"
                else [literal.MetaBalance(o["rho"], o["beta"], o["variant"]) for _ in range(99)]
            )
            for encoder in model.encoders
        }

    def h(self, encoder, module, j, g, losses):
        o = self.options
        if self.name == "metabalance":
            steps = zip(self.own[encoder], j, g, strict=False)
            return [one.step(x, y) for one, x, y in steps]
        a, b = reference.flat(j), reference.flat(g)
        if self.name == "gradnorm":
            size = len(list(module.stages[-1].parameters()))  # the encoder's last ones
            norms = [float(reference.flat(x[-size:]).norm()) for x in (j, g)]
            flat = self.own[encoder].step(a, b, norms, losses)
        else:
            flat = {
                "pcgrad": lambda: literal.pcgrad(a, b),
                "cagrad": lambda: literal.cagrad(a, b, o["c"]) * o["scale"],
                "upgrad": lambda: literal.upgrad(a, b) * o["scale"],
                "imtl_g": lambda: literal.imtl_g(a, b) * o["scale"],
                "aligned_mtl": lambda: literal.aligned_mtl(a, b, o["singular_value"]) * o["scale"],
            }[self.name]()
        parts = flat.split([x.numel() for x in j])
        return [part.view_as(x) for part, x in zip(parts, j, strict=True)]


class Staged(Encoder):
    """The small encoder, cut into two stages."""

    out_dim = tiny_models.Encoder.out_dim

    def __init__(self):
        super().__init__()
        layers = list(tiny_models.Encoder())
        self.stages = nn.Sequential(nn.Sequential(*layers[:2]), nn.Sequential(*layers[2:]))


def build(modalities):
    model = tiny_models.build(modalities=modalities)
    for name in model.encoders:
        model.encoders[name] = Staged().double()
    return model.eval()


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("pcgrad", {}),
        ("cagrad", {"c": 0.4, "scale": 2}),
        ("upgrad", {"scale": 2}),
        ("imtl_g", {"scale": 2}),
        ("aligned_mtl", {}),
        ("aligned_mtl", {"singular_value": "rmse"}),
        ("gradnorm", {}),
        ("gradnorm", {"alpha": 0.5, "weight_learning_rate": 0.1}),
        ("metabalance", {}),
        ("metabalance", {"variant": "shrink", "rho": 0.4}),
        ("metabalance", {"variant": "enlarge", "beta": 0.5}),
    ],
)
@pytest.mark.parametrize("parts", [1, 3])
def test_thirty_steps_equal_the_reference(name, settings, parts):
    """Three modalities; also with gradients accumulated over three micro-batches."""
    ours, theirs = build(3), build(3)
    theirs.load_state_dict(ours.state_dict())
    method, slow = method_of(name, ours, **settings), Literal(name, theirs, **settings)
    steppers = [torch.optim.SGD(m.parameters(), lr=0.05, momentum=0.9) for m in (ours, theirs)]
    for _ in range(30):
        inputs, targets = tiny_models.batch(ours)
        for stepper in steppers:
            stepper.zero_grad()
        for chunk, truth, told in tiny_models.micro_batches(inputs, targets, parts):
            tiny_models.step(method, chunk, truth, **told)
        joint, unimodal = tiny_models.losses(theirs(inputs), targets)
        names = iter(theirs.encoders)

        def rule(j, g, names=names, joint=joint, unimodal=unimodal):
            encoder = next(names)
            losses = [joint.item(), unimodal[encoder].item()]
            return slow.h(encoder, theirs.encoders[encoder], j, g, losses)

        reference.backward(theirs, dict(theirs.encoders), joint, unimodal, rule)
        for stepper in steppers:
            stepper.step()
    close = {"upgrad": 5e-3, "cagrad": 1e-3, "gradnorm": 1e-5, "metabalance": 1e-5}.get(name, 1e-8)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=close, atol=close)


class TestGradNorm:
    def test_update(self):
        """r = (1.230769, .769231), targets (4.096248, 2.023980): one grows, one falls."""
        losses, first = torch.tensor([0.8, 1.0]), torch.tensor([1.0, 2.0])
        found = updated(torch.ones(2), torch.tensor([2.0, 4.0]), losses / first, 1.5, 0.025)
        assert found.tolist() == pytest.approx((1.076923, 0.923077), abs=1e-6)

    def test_weights_stay_positive_and_sum_to_two(self):
        found = updated(
            torch.ones(2), torch.tensor([0.1, 900.0]), torch.tensor([1.0, 1.0]), 1.5, 0.1
        )
        assert found.sum().item() == pytest.approx(2) and (found > 0).all()

    def test_the_step_uses_the_weights_before_their_update(self):
        model = build(2)
        method = method_of("gradnorm", model, weight_learning_rate=0.5)
        inputs, targets = tiny_models.batch(model)
        joint, unimodal = tiny_models.losses(model(inputs), targets)
        (joint + sum(unimodal.values())).backward()
        plain = [p.grad.clone() for p in model.parameters()]
        model.zero_grad()
        record = tiny_models.step(method, inputs, targets)
        for p, expected in zip(model.parameters(), plain, strict=True):
            torch.testing.assert_close(p.grad, expected)
        assert record.measures["joint_weight_a"] == 1
        assert method.state["weights_a"][0] != 1

    def test_the_model_is_not_trained_by_the_weights_loss(self):
        """Heads keep the plain gradient, whatever the weights are."""
        model = build(2)
        method = method_of("gradnorm", model)
        method.state["weights_a"].copy_(torch.tensor([1.9, 0.1]))
        inputs, targets = tiny_models.batch(model)
        joint, unimodal = tiny_models.losses(model(inputs), targets)
        heads = [*model.joint_head.parameters(), *model.unimodal_heads.parameters()]
        plain = torch.autograd.grad(joint + sum(unimodal.values()), heads)
        tiny_models.step(method, inputs, targets)
        for p, expected in zip(heads, plain, strict=True):
            torch.testing.assert_close(p.grad, expected)

    def test_frozen_encoder(self):
        model = build(2)
        method = method_of("gradnorm", model)
        model.encoders["a"].requires_grad_(False)
        tiny_models.step(method, *tiny_models.batch(model))
        assert method.state["weights_a"].tolist() == [1, 1]


class TestMetaBalance:
    def adjusted(self, variant, steps=1):
        method = method_of("metabalance", variant=variant)
        method.state["norms_a"] = torch.zeros(2, 1)
        rule = METHODS["metabalance"].integrate
        for _ in range(steps):
            j, g = [torch.tensor([2.0, 0.0])], [torch.tensor([0.0, 8.0])]
            h, _ = rule(method, method.state["norms_a"], j, g)
        return h[0][1].item()

    @pytest.mark.parametrize(("variant", "norm"), [("both", 3.8), ("shrink", 3.8), ("enlarge", 8)])
    @pytest.mark.parametrize("steps", [1, 7])
    def test_values(self, variant, norm, steps):
        """||j|| = 2, ||g|| = 8, at any step while norms are constant."""
        assert self.adjusted(variant, steps) == pytest.approx(norm, rel=1e-6)

    @pytest.mark.parametrize("variant", ["both", "shrink", "enlarge"])
    def test_a_zero_norm_stops_nobody(self, variant):
        """No NaN, and tensors after the empty one are balanced all the same."""
        method = method_of("metabalance", variant=variant)
        j = [torch.ones(2), torch.tensor([2.0, 0.0])]
        g = [torch.zeros(2), torch.tensor([0.0, 8.0])]
        h, stats = method.integrate(torch.zeros(2, 2), j, g)
        assert torch.equal(h[0], torch.ones(2))
        balanced = 8 if variant == "enlarge" else 3.8
        assert h[1].tolist() == pytest.approx((2, balanced), rel=1e-6)
        assert all(value.dim() == 0 for value in stats)


@pytest.mark.parametrize("name", ["gradnorm", "metabalance"])
def test_not_finite_stays_so(name):
    model = build(2)
    method = method_of(name, model)
    inputs, targets = tiny_models.batch(model)
    inputs["a"][0, 0] = float("nan")
    tiny_models.step(method, inputs, targets)
    grads = [p.grad for p in model.encoders["a"].parameters()]
    assert not all(g.isfinite().all() for g in grads)


@pytest.mark.parametrize(
    ("name", "extra"), [("upgrad", "quadprog-projector"), ("cagrad", "cagrad")]
)
def test_solvers_that_are_missing(monkeypatch, name, extra):
    """torchjd finds out where the weighting is made, not where it is imported."""

    def fail(*args, **kwargs):
        raise ImportError("requires solvers")

    weighting = {"upgrad": "UPGradWeighting", "cagrad": "CAGradWeighting"}[name]
    monkeypatch.setattr(torchjd.aggregation, weighting, fail)
    with pytest.raises(UserError) as caught:
        method_of(name)
    assert f'pip install "torchjd[{extra}]"' in str(caught.value)
    assert "\n" not in str(caught.value)
