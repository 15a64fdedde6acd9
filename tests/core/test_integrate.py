"""The rule itself: hand values, properties, degenerate input, and an independent solver."""

import pytest
import reference
import torch
from torchjd.aggregation import MGDAWeighting

from mmpareto.core.integrate import (
    GRANULARITIES,
    gramian,
    min_norm,
    mmpareto_rule,
    pareto_rule,
    uniform_rule,
)


def tensors(*rows, dtype=torch.float64):
    return [torch.tensor(row, dtype=dtype) for row in rows]


def norm(gradients):
    return float(reference.flat(gradients).double().norm())


def dot(x, y):
    return float(reference.flat(x).double() @ reference.flat(y).double())


def assert_h(j, g, expected, **settings):
    h, stats = mmpareto_rule(tensors(*j), tensors(*g), **settings)
    torch.testing.assert_close(h, tensors(*expected), atol=1e-6, rtol=0)
    return stats


class TestHandValues:
    def test_uniform_scalar_encoder(self):
        h, _ = uniform_rule(tensors(2.0), tensors(6.0))
        assert h[0] == 8

    @pytest.mark.parametrize(
        ("j", "g", "alpha", "d"),
        [
            ([1, 0], [0, 1], 0.5, [0.5, 0.5]),
            ([1, 0], [-1, 1], 0.6, [0.2, 0.4]),
            ([1, 0], [2, 1], 1, [1, 0]),
            ([2, 1], [1, 0], 0, [1, 0]),
            ([1, 0], [1, 0], 0.5, [1, 0]),
            ([3, 0], [-1, 0], 0.25, [0, 0]),
        ],
    )
    def test_pareto(self, j, g, alpha, d):
        j, g, d = [1.0 * x for x in j], [1.0 * x for x in g], [1.0 * x for x in d]
        h, stats = pareto_rule(tensors(j), tensors(g))
        assert float(stats.joint_weight) == pytest.approx(alpha)
        torch.testing.assert_close(h, tensors(d))
        twice, _ = pareto_rule(tensors(j), tensors(g), scale=2)
        torch.testing.assert_close(twice, [2 * x for x in tensors(d)])

    def test_agreement(self):
        stats = assert_h([[1, 2]], [[3, -1]], [[6, 1.5]])
        assert float(stats.cos) == pytest.approx(0.1414, abs=1e-4)
        assert not stats.conflict

    def test_conflict(self):
        stats = assert_h([[1, 0]], [[-1, 1]], [[0.670820, 1.341641]])
        assert stats.conflict
        assert float(stats.scale) == pytest.approx(1.5 / 0.8**0.5)

    def test_conflict_per_tensor(self):
        assert_h([[1], [0]], [[-1], [1]], [[0.6], [1.5]], granularity="tensor")

    def test_right_angle_is_conflict(self):
        stats = assert_h([[1, 0]], [[0, 3]], [[4.5, 1.5]])
        assert stats.conflict
        assert float(stats.joint_weight) == pytest.approx(1.8)

    def test_discontinuous_at_right_angle(self):
        assert_h([[1, 1e-9]], [[0, 3]], [[1.5, 4.5]])

    def test_per_tensor_rule_ascends_the_joint_loss_where_the_encoder_level_does_not(self):
        j, g = [[-2], [1]], [[1], [0]]
        assert_h(j, g, [[1.5], [1.5]], granularity="tensor")
        assert dot(tensors([1.5], [1.5]), tensors(*j)) == -1.5
        assert_h(j, g, [[0.670820], [2.012461]])


class TestDegenerate:
    """The rows where the released script divides by zero, amplifies rounding or crashes."""

    @pytest.mark.parametrize("granularity", GRANULARITIES)
    @pytest.mark.parametrize(
        ("j", "g", "expected", "stationary"),
        [
            ([0, 0], [1, 2], [1.5, 3.0], False),
            ([1, 2], [0, 0], [1.5, 3.0], False),
            ([0, 0], [0, 0], [0, 0], True),
            ([1, 2], [-1, -2], [0, 0], True),
            ([1, 1], [-3, -3], [0, 0], True),
            ([1, 2, 3], [-2, -4, -6], [0, 0, 0], True),
        ],
    )
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_vanishing(self, j, g, expected, stationary, granularity, dtype):
        j, g = [tensors([1.0 * x for x in row], dtype=dtype) for row in (j, g)]
        h, stats = mmpareto_rule(j, g, granularity=granularity)
        assert h[0].tolist() == expected
        assert bool(stats.stationary) is stationary

    def test_one_tensor_cancels(self):
        j, g = [[1], [1]], [[-3], [1]]
        assert_h(j, g, [[0], [4.242641]])
        assert_h(j, g, [[0], [3]], granularity="tensor")

    def test_opposite_millions_are_stationary(self):
        """Where float32 sums are off by 3e-4 of the length."""
        j = torch.randn(2_000_000)
        h, stats = mmpareto_rule([j.clone()], [-3 * j])
        assert stats.stationary
        assert not h[0].any()

    def test_almost_opposite_is_not_stationary(self):
        stats = assert_h([[1, 0]], [[-1, 1e-3]], [[0, 0.0015]])
        assert not stats.stationary

    def test_large_norm(self):
        """The released solver fails from a squared norm of 5e7 on."""
        h, _ = mmpareto_rule(tensors([1e6, 0]), tensors([-1e6, 1e6]))
        assert norm(h) == pytest.approx(1.5e6)

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    @pytest.mark.parametrize("granularity", GRANULARITIES)
    def test_not_finite_stays_visible(self, bad, granularity):
        h, _ = mmpareto_rule(tensors([bad, 1.0]), tensors([1.0, 1.0]), granularity=granularity)
        assert not h[0].isfinite().all()

    def test_nothing_to_train(self):
        h, stats = mmpareto_rule([], [])
        assert h == []
        assert not stats.conflict


def random_pairs(count=10_000, sizes=(1, 4, 2, 5, 8)):
    """j and g of 20 numbers in 5 tensors, of lengths from 1e-2 to 1e2."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        length = 10 ** (4 * torch.rand(2, generator=generator, dtype=torch.float64) - 2)
        values = torch.randn(2, sum(sizes), generator=generator, dtype=torch.float64)
        j, g = (values * length[:, None]).unbind()
        yield list(j.split(sizes)), list(g.split(sizes))


def test_ten_thousand_random_pairs():
    """Length gamma * ||s||; no ascent on either loss; gamma * s without conflict."""
    conflicts = 0
    for j, g in random_pairs():
        s = [x + y for x, y in zip(j, g, strict=True)]
        h, stats = mmpareto_rule([x.clone() for x in j], g, gamma=1.5)
        assert norm(h) == pytest.approx(1.5 * norm(s), rel=1e-9)
        unit = norm(h)
        assert dot(h, j) >= -1e-9 * unit * norm(j)
        assert dot(h, g) >= -1e-9 * unit * norm(g)
        assert bool(stats.conflict) == (dot(j, g) <= 0)
        conflicts += bool(stats.conflict)
        if not stats.conflict:
            torch.testing.assert_close(h, [1.5 * x for x in s])
    assert 4000 < conflicts < 6000


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_random_pairs_equal_the_reference(granularity):
    for j, g in random_pairs(1000):
        expected = reference.mmpareto(j, g, 1.5, granularity)
        h, _ = mmpareto_rule([x.clone() for x in j], g, granularity=granularity)
        torch.testing.assert_close(h, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("factor", [1e-20, 1e-3, 7.0, 1e15])
def test_homogeneous(granularity, factor):
    for j, g in random_pairs(200):
        j, g = [x.float() for x in j], [x.float() for x in g]
        h, _ = mmpareto_rule([x.clone() for x in j], g, granularity=granularity)
        scaled, _ = mmpareto_rule(
            [x * factor for x in j], [x * factor for x in g], granularity=granularity
        )
        torch.testing.assert_close(scaled, [x * factor for x in h], rtol=1e-4, atol=1e-6 * factor)


def test_symmetric_in_j_and_g():
    for j, g in random_pairs(200):
        h, _ = mmpareto_rule([x.clone() for x in j], [x.clone() for x in g])
        swapped, _ = mmpareto_rule([x.clone() for x in g], [x.clone() for x in j])
        torch.testing.assert_close(h, swapped, rtol=1e-7, atol=1e-12)


def test_splitting_the_tensors_changes_nothing_at_encoder_level():
    for j, g in random_pairs(200):
        h, _ = mmpareto_rule([x.clone() for x in j], g)
        whole, _ = mmpareto_rule([reference.flat(j)], [reference.flat(g)])
        torch.testing.assert_close(reference.flat(h), whole[0], rtol=1e-9, atol=1e-12)


def test_min_norm_equals_torchjd():
    solver = MGDAWeighting()
    for j, g in random_pairs(500):
        jj, jg, gg = gramian(j, g).sum(1)
        scale = (jj * gg).sqrt()  # the solver stops at absolute differences
        expected = solver(torch.stack([jj, jg, jg, gg]).view(2, 2) / scale)[0]
        assert float(min_norm(jj, jg, gg)) == pytest.approx(float(expected), abs=1e-6)


def test_gramian_is_exact_in_any_layout_and_type():
    x = torch.randn(70_000, dtype=torch.float64).view(350, 200).T
    y = torch.randn(200, 350, dtype=torch.float64)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.bfloat16, 1e-9)):
        a, b = x.to(dtype), y.to(dtype)
        gram = gramian([a], [b])
        expected = [(p.double() * q.double()).sum() for p, q in ((a, a), (a, b), (b, b))]
        assert gram[:, 0].tolist() == pytest.approx([float(e) for e in expected], rel=tolerance)


def test_keeps_type_and_scalars():
    j, g = (
        [torch.tensor(1.0), torch.ones(2).bfloat16()],
        [torch.tensor(2.0), torch.ones(2).bfloat16()],
    )
    h, _ = mmpareto_rule(j, g)
    assert [x.dtype for x in h] == [torch.float32, torch.bfloat16]
    assert h[0].shape == ()
