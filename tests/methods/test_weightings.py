"""The methods on an encoder's two gradients: published values, literal references."""

import sys

import pytest
import reference
import reference_weightings as literal
import tiny_models
import torch
from balance import accumulate, assert_equal, double, method_of, steps
from torch import nn

from mmpareto.methods.gradnorm import updated
from mmpareto.models.encoders.base import Encoder
from mmpareto.system.errors import UserError

WEIGHTED = ["pcgrad", "cagrad", "upgrad", "imtl_g", "aligned_mtl"]
FLAT = {  # h of two vectors, by a method's flags
    "uniform": lambda j, g, o: j + g,
    "pareto": lambda j, g, o: reference.pareto([j], [g], o.scale)[0],
    "pcgrad": lambda j, g, o: literal.pcgrad(j, g),
    "cagrad": lambda j, g, o: o.scale * literal.cagrad(j, g, o.c),
    "upgrad": lambda j, g, o: o.scale * literal.upgrad(j, g),
    "imtl_g": lambda j, g, o: o.scale * literal.imtl_g(j, g),
    "aligned_mtl": lambda j, g, o: o.scale * literal.aligned_mtl(j, g, o.singular_value),
}


def integrated(name, j, g, **settings):
    """h of two vectors, both weights, and what else was decided."""
    h, stats = method_of(name, **settings).rule("a")([double(*j)], [double(*g)])
    return h[0], [stats.joint_weight.item(), stats.unimodal_weight.item()], stats


class TestValues:
    """Computed apart from this code."""

    @pytest.mark.parametrize(
        ("name", "settings", "g", "weights", "h"),
        [
            ("pcgrad", {}, (-1, 1), (2, 1.5), (0.5, 1.5)),
            ("cagrad", {"c": 0.4}, (-1, 1), (0.7, 0.5), (0.2, 0.5)),
            ("cagrad", {}, (-1, 1), (0.75, 0.5), (0.25, 0.5)),
            ("cagrad", {"rescale": "square", "scale": 2}, (-1, 1), (0.75, 0.5), (0.4, 0.8)),
            ("cagrad", {"rescale": "linear"}, (-1, 1), (0.75, 0.5), (0.25 / 1.5, 0.5 / 1.5)),
            ("upgrad", {}, (-1, 1), (1, 0.75), (0.25, 0.75)),
            ("imtl_g", {}, (-1, 1), (0.585786, 0.414214), (0.171573, 0.414214)),
            ("aligned_mtl", {}, (-1, 1), (0.552786, 0.414590), (0.138197, 0.414590)),
            ("aligned_mtl", {"scale": 2}, (-1, 1), (0.552786, 0.414590), (0.276393, 0.829180)),
            (
                "aligned_mtl", {"singular_value": "rmse"}, (-1, 1),
                (1.095445, 0.821584), (0.273861, 0.821584),
            ),
            ("pcgrad", {}, (-4, 2), (5, 1.2), (0.2, 2.4)),
            ("cagrad", {}, (-4, 2), (1.401388, 0.5), (-0.598612, 1)),
            ("aligned_mtl", {}, (-4, 2), (0.569981, 0.153457), (-0.043845, 0.306913)),
        ],
    )  # fmt: skip
    def test_in_conflict_with_one_and_zero(self, name, settings, g, weights, h):
        found, both, stats = integrated(name, (1, 0), g, **settings)
        assert found.tolist() == pytest.approx(h, abs=1e-6)
        assert both == pytest.approx(weights, abs=1e-6)
        assert bool(stats.conflict) and not bool(stats.stationary)

    @pytest.mark.parametrize(
        ("name", "weights"),
        list(zip(WEIGHTED, [(1, 1), (0.5, 0.5), (0.5, 0.5), (0, 1), (0, 0.5)], strict=True)),
    )
    def test_one_gradient_is_zero(self, name, weights):
        h, found, _ = integrated(name, (0, 0), (0, 1))
        assert found == pytest.approx(weights)
        assert h.isfinite().all()

    @pytest.mark.parametrize("name", WEIGHTED[1:])
    def test_scale(self, name):
        """2 is twice 1; PCGrad has the size of the sum without it."""
        one, two = (integrated(name, (1, 0.5), (0.5, 2), scale=s)[0] for s in (1, 2))
        assert torch.allclose(2 * one, two)

    @pytest.mark.parametrize("name", ["upgrad", "pcgrad"])
    def test_equal_gradients(self, name):
        assert integrated(name, (1, 2), (1, 2), scale=2)[0].tolist() == pytest.approx((2, 4))

    @pytest.mark.parametrize("name", ["upgrad", "pcgrad"])
    def test_neither_loss_ascends(self, name):
        """Whatever the ratio of the lengths: a regularised solver ascends from about 30 on."""
        for power in range(-6, 7):
            j, g = torch.randn(2, 5, dtype=torch.float64)
            g = (g - 2 * (j @ g) / (j @ j) * j if j @ g > 0 else g) * 10.0**power
            h, *_ = integrated(name, j, g)
            for loss in (j, g):
                assert h @ loss / (h.norm() * loss.norm()) > -1e-12

    def test_cagrad_with_a_short_gradient(self):
        """h = m + c ||m|| along the short one, (1, 0), which alone the ball can help."""
        h, *_ = integrated("cagrad", (1e-6, 0), (0, 1))
        assert h.tolist() == pytest.approx((0.25, 0.5), abs=1e-6)

    @pytest.mark.parametrize(("c", "h"), [(0.5, -0.5), (1, 0), (1.5, 0)])
    def test_cagrad_with_opposite_gradients(self, c, h):
        assert integrated("cagrad", (1, 0), (-3, 0), c=c)[0].tolist() == pytest.approx((h, 0))


@pytest.mark.parametrize("name", WEIGHTED)
class TestWeighted:
    def test_gradients_of_any_length(self, name):
        """Regularisation never sees how long gradients are."""
        j, g = torch.randn(2, 9, dtype=torch.float64)
        small, one, large = (integrated(name, s * j, s * g)[0] / s for s in (1e-6, 1, 1e6))
        assert torch.allclose(small, one, rtol=1e-4, atol=1e-6)
        assert torch.allclose(large, one, rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_not_finite_stays_so(self, name, bad):
        assert not integrated(name, (1, bad), (-1, 1))[0].isfinite().all()

    def test_random_pairs(self, name):
        method = method_of(name)
        for _ in range(40):
            j = torch.randn(6, dtype=torch.float64)
            g = torch.randn(6, dtype=torch.float64) * 3 - j
            expected = FLAT[name](j, g, method.flags)
            ((h,), _) = method.rule("a")([j.clone()], [g])
            assert (h - expected).norm() / (j.norm() + g.norm()) < 1e-9


def literal_rule(name, encoder, o):
    """h of an encoder's lists j and g, and of its joint and own loss."""
    if name == "mmpareto":
        return lambda j, g, _: reference.mmpareto(j, g, o.gamma, o.granularity)
    if name == "gradnorm":
        last = len(list(encoder.stages[-1].parameters()))
        return literal.GradNorm(o.alpha, o.weight_learning_rate, last).step
    if name == "metabalance":
        return literal.MetaBalance(o.rho, o.beta, o.variant).step

    def rule(j, g, _):
        h = FLAT[name](reference.flat(j), reference.flat(g), o)
        parts = h.split([x.numel() for x in j])
        return [part.view_as(x) for part, x in zip(parts, j, strict=True)]

    return rule


class Staged(Encoder):
    """The small encoder, cut into two stages."""

    out_dim = tiny_models.Encoder.out_dim

    def __init__(self):
        super().__init__()
        layers = list(tiny_models.Encoder())
        self.stages = nn.Sequential(nn.Sequential(*layers[:2]), nn.Sequential(*layers[2:]))


def build(modalities=2):
    model = tiny_models.build(modalities=modalities)
    for name in model.encoders:
        model.encoders[name] = Staged().double()
    return model.eval()


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("uniform", {}),
        ("pareto", {}),
        ("pareto", {"scale": 2}),
        ("mmpareto", {"gamma": 2.5}),
        ("mmpareto", {"granularity": "tensor"}),
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
def test_twelve_steps_equal_the_reference(name, settings):
    """Three modalities; every second step accumulates gradients over three micro-batches."""
    ours, theirs = build(3), build(3)
    theirs.load_state_dict(ours.state_dict())
    method = method_of(name, ours, **settings)
    rules = [literal_rule(name, e, method.flags) for e in theirs.encoders.values()]
    for step, (inputs, targets) in enumerate(steps(12, ours, theirs)):
        accumulate(method, inputs, targets, parts=3 if step % 2 else 1)
        joint, unimodal = tiny_models.losses(theirs(inputs), targets)
        turn = zip(rules, [[joint.item(), own.item()] for own in unimodal.values()], strict=True)

        def rule(j, g, turn=turn):
            own, losses = next(turn)
            return own(j, g, losses)

        reference.backward(theirs, dict(theirs.encoders), joint, unimodal, rule)
    assert_equal(ours, theirs, 1e-5 if name in ("gradnorm", "metabalance") else 1e-8)


class TestGradNorm:
    def test_update(self):
        """r = (1.230769, .769231), targets (4.096248, 2.023980): one grows, one falls."""
        losses, first = torch.tensor([0.8, 1.0]), torch.tensor([1.0, 2.0])
        found = updated(torch.ones(2), torch.tensor([2.0, 4.0]), losses / first, 1.5, 0.025)
        assert found.tolist() == pytest.approx((1.076923, 0.923077), abs=1e-6)

    def test_weights_stay_positive_and_sum_to_two(self):
        found = updated(torch.ones(2), torch.tensor([0.1, 900]), torch.ones(2), 1.5, 0.1)
        assert found.sum().item() == pytest.approx(2) and (found > 0).all()

    def test_weights_of_a_frozen_encoder_stay(self):
        model = build()
        method = method_of("gradnorm", model)
        model.encoders["a"].requires_grad_(False)
        record = tiny_models.step(method, *tiny_models.batch(model))
        assert method.state["weights_a"].tolist() == [1, 1] != method.state["weights_b"].tolist()
        assert record.measures == {"joint_weight_b": 1}  # before its update


@pytest.mark.parametrize(("variant", "norm"), [("both", 3.8), ("shrink", 3.8), ("enlarge", 8)])
class TestMetaBalance:
    def test_values(self, variant, norm):
        """||j|| = 2, ||g|| = 8, at any step while norms are constant."""
        method, norms = method_of("metabalance", variant=variant), torch.zeros(2, 1)
        for _ in range(7):
            h, _ = method.integrate(norms, [double(2, 0)], [double(0, 8)])
            assert h[0][1].item() == pytest.approx(norm, rel=1e-6)

    def test_a_zero_norm_stops_nobody(self, variant, norm):
        """No NaN, and tensors after the empty one are balanced all the same."""
        method = method_of("metabalance", variant=variant)
        j, g = [double(1, 1), double(2, 0)], [double(0, 0), double(0, 8)]
        h, stats = method.integrate(torch.zeros(2, 2), j, g)
        assert h[0].tolist() == [1, 1]
        assert h[1].tolist() == pytest.approx((2, norm), rel=1e-6)
        assert all(value.dim() == 0 for value in stats)


@pytest.mark.parametrize("name", ["gradnorm", "metabalance"])
def test_not_finite_stays_so(name):
    model = build()
    inputs, targets = tiny_models.batch(model)
    inputs["a"][0, 0] = float("nan")
    tiny_models.step(method_of(name, model), inputs, targets)
    assert not all(p.grad.isfinite().all() for p in model.encoders["a"].parameters())


def test_without_torchjd(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchjd", None)
    with pytest.raises(UserError, match=r"^--method imtl_g needs torchjd.*run pip install"):
        method_of("imtl_g")
    method_of("cagrad")  # needs no library
