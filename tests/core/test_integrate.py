"""The rule itself: hand values, properties, degenerate input, and an independent solver."""

import pytest
import reference
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing import assert_close
from torchjd.aggregation import MGDAWeighting

from mmpareto.core import integrate
from mmpareto.core.integrate import GRANULARITIES, gramian, min_norm, mmpareto_rule


def tensors(*rows, dtype=torch.float64):
    return [torch.tensor(row, dtype=dtype) for row in rows]


class TestHandValues:
    def test_uniform_scalar_encoder(self):
        h, _ = integrate.uniform_rule(tensors(2), tensors(6))
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
        h, stats = integrate.pareto_rule(tensors(j), tensors(g))
        assert float(stats.joint_weight) == pytest.approx(alpha)
        torch.testing.assert_close(h, tensors(d))
        twice, _ = integrate.pareto_rule(tensors(j), tensors(g), scale=2)
        torch.testing.assert_close(twice[0], 2 * h[0])

    @pytest.mark.parametrize(
        ("granularity", "j", "g", "expected", "conflict"),
        [
            ("encoder", [[1, 2]], [[3, -1]], [[6, 1.5]], False),
            ("encoder", [[1, 0]], [[-1, 1]], [[0.670820, 1.341641]], True),
            ("tensor", [[1], [0]], [[-1], [1]], [[0.6], [1.5]], True),
            ("encoder", [[1, 0]], [[0, 3]], [[4.5, 1.5]], True),  # a right angle
            ("encoder", [[1, 1e-9]], [[0, 3]], [[1.5, 4.5]], False),  # just below: a jump
            # by tensor h ascends the joint loss, <h, j> = -1.5
            ("tensor", [[-2], [1]], [[1], [0]], [[1.5], [1.5]], True),
            ("encoder", [[-2], [1]], [[1], [0]], [[0.670820], [2.012461]], True),
            # the first tensors cancel
            ("tensor", [[1], [1]], [[-3], [1]], [[0], [3]], True),
            ("encoder", [[1], [1]], [[-3], [1]], [[0], [4.242641]], True),
            ("encoder", [[1, 0]], [[-1, 1e-3]], [[0, 0.0015]], True),  # almost opposite
        ],
    )
    def test_mmpareto(self, granularity, j, g, expected, conflict):
        h, stats = mmpareto_rule(tensors(*j), tensors(*g), granularity=granularity)
        torch.testing.assert_close(h, tensors(*expected), atol=1e-6, rtol=0)
        assert bool(stats.conflict) is conflict
        assert not stats.stationary

    def test_stats(self):
        _, stats = mmpareto_rule(tensors([1, 2]), tensors([3, -1]))
        assert float(stats.cos) == pytest.approx(0.1414, abs=1e-4)
        _, stats = mmpareto_rule(tensors([1, 0]), tensors([-1, 1]))
        assert float(stats.scale) == pytest.approx(1.5 / 0.8**0.5)
        _, stats = mmpareto_rule(tensors([1, 0]), tensors([0, 3]))
        assert float(stats.joint_weight) == pytest.approx(1.8)


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
        j, g = tensors(j, dtype=dtype), tensors(g, dtype=dtype)
        h, stats = mmpareto_rule(j, g, granularity=granularity)
        assert h[0].tolist() == expected
        assert bool(stats.stationary) is stationary

    def test_opposite_millions_are_stationary(self):
        """Where float32 sums are off by 3e-4 of the length."""
        j = torch.randn(2_000_000)
        h, stats = mmpareto_rule([j.clone()], [-3 * j])
        assert stats.stationary
        assert not h[0].any()

    def test_large_norm(self):
        """The released solver fails from a squared norm of 5e7 on."""
        h, _ = mmpareto_rule(tensors([1e6, 0]), tensors([-1e6, 1e6]))
        assert float(h[0].norm()) == pytest.approx(1.5e6)

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    @pytest.mark.parametrize("granularity", GRANULARITIES)
    def test_not_finite_stays_visible(self, bad, granularity):
        h, _ = mmpareto_rule(tensors([bad, 1.0]), tensors([1.0, 1.0]), granularity=granularity)
        assert not h[0].isfinite().all()

    @pytest.mark.parametrize("granularity", GRANULARITIES)
    def test_nothing_to_train(self, granularity):
        h, stats = mmpareto_rule([], [], granularity=granularity)
        assert h == []
        assert not stats.conflict


def random_pairs(count):
    """j and g (count, 20), of lengths from 1e-2 to 1e2."""
    generator = torch.Generator().manual_seed(1)
    lengths = 10 ** (4 * torch.rand(count, 2, 1, generator=generator, dtype=torch.float64) - 2)
    values = torch.randn(count, 2, 20, generator=generator, dtype=torch.float64)
    return (values * lengths).unbind(1)


def apart(row):
    """20 numbers as five new tensors."""
    return [part.clone() for part in row.split([1, 4, 2, 5, 8])]


def of_pairs(j, g, **settings):
    """h (count, 20) of such pairs, and whether each pair is in conflict."""
    found = [mmpareto_rule(apart(x), apart(y), **settings) for x, y in zip(j, g, strict=True)]
    conflicts = torch.stack([stats.conflict for _, stats in found])
    return torch.stack([reference.flat(h) for h, _ in found]), conflicts


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_random_pairs_equal_the_reference(granularity):
    j, g = random_pairs(600)
    h, conflicts = of_pairs(j, g, granularity=granularity)
    pairs = [(apart(x), apart(y)) for x, y in zip(j, g, strict=True)]
    expected = [reference.flat(reference.mmpareto(*pair, 1.5, granularity)) for pair in pairs]
    torch.testing.assert_close(h, torch.stack(expected), rtol=1e-9, atol=1e-12)
    assert torch.equal(conflicts, (j * g).sum(1) <= 0)
    assert 0.4 < conflicts.double().mean() < 0.6
    if granularity == "encoder":  # length gamma * ||s||, no ascent, gamma * s without conflict
        length = 1.5 * (j + g).norm(dim=1)
        torch.testing.assert_close(h.norm(dim=1), length, rtol=1e-9, atol=0)
        for gradient in (j, g):
            assert ((h * gradient).sum(1) >= -1e-9 * length * gradient.norm(dim=1)).all()
        torch.testing.assert_close(h[~conflicts], 1.5 * (j + g)[~conflicts])


def nearly_opposite_pairs(count, dtype):
    """j and g (count, 20) that miss being opposite by 1 to 1e-7, of lengths up to 1e6 apart.

    In every second pair the miss has coordinates of its own, so that any type can hold it.
    """
    generator = torch.Generator().manual_seed(2)
    j, other = torch.randn(2, count, 20, generator=generator, dtype=torch.float64)
    j[::2, 10:] = other[::2, :10] = 0
    j = j.to(dtype).double()
    miss, ratio = torch.rand(2, count, 1, generator=generator, dtype=torch.float64)
    g = (10 ** (-7 * miss) * other - j) * 2 ** (40 * ratio - 20).round()
    return j.to(dtype), g.to(dtype)


@pytest.mark.parametrize(
    ("granularity", "count"),
    [
        *((granularity, 100) for granularity in GRANULARITIES),
        pytest.param("encoder", 10_000, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nearly_opposite_in_few_digits(dtype, granularity, count):
    """h has few digits only where its type has; in float32 it never ascends a loss."""
    j, g = nearly_opposite_pairs(count, dtype)
    h = of_pairs(j, g, granularity=granularity)[0].double()
    j, g = j.double(), g.double()
    pairs = [(apart(x), apart(y)) for x, y in zip(j, g, strict=True)]
    expected = [reference.flat(reference.mmpareto(*pair, 1.5, granularity)) for pair in pairs]
    rounding = torch.finfo(dtype).eps / 2
    off = 2e-7 / integrate.CANCELLING if dtype == torch.float32 else 2 * rounding
    sizes = [1, 4, 2, 5, 8] if granularity == "tensor" else [20]
    pieces = (x.split(sizes, dim=1) for x in (h, torch.stack(expected)))
    for found, wanted in zip(*pieces, strict=True):
        moves = found.any(1)  # else it is stationary
        assert moves.any()
        found, wanted = found[moves], wanted[moves]
        length, right = found.norm(dim=1, keepdim=True), wanted.norm(dim=1, keepdim=True)
        assert_close(length, right, rtol=max(1e-3, rounding), atol=0)
        assert ((found / length - wanted / right).norm(dim=1) <= off).all()
    if granularity != "tensor":
        allowed = -rounding if dtype == torch.bfloat16 else 0
        for gradient in (j, g):
            least = allowed * h.norm(dim=1) * gradient.norm(dim=1)
            assert ((h * gradient).sum(1) >= least).all()


def test_nearly_opposite_parts_of_processes():
    """Each has a half of every pair, and the Gramian of both."""
    for x, y in zip(*nearly_opposite_pairs(30, torch.float32), strict=True):
        halves = [([a.clone()], [b]) for a, b in zip(x.split(10), y.split(10), strict=True)]
        gram = sum(gramian(*half) for half in halves)
        found = [mmpareto_rule(*half, gram=gram)[0][0] for half in halves]
        whole = mmpareto_rule([x.clone()], [y])[0][0]
        assert_close(torch.cat(found), whole, rtol=1e-6, atol=1e-6 * float(whole.norm()))


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_a_gpu_is_never_waited_for(granularity):
    with FakeTensorMode():  # it refuses to give a value to the host
        j = [torch.empty(4, 3, device="cuda"), torch.empty((), device="cuda").bfloat16()]
        h, stats = mmpareto_rule(j, [torch.empty_like(x) for x in j], granularity=granularity)
    assert [x.dtype for x in h] == [torch.float32, torch.bfloat16]
    assert {x.device.type for x in (*h, *stats)} == {"cuda"}


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_homogeneous(granularity):
    j, g = (x.float() for x in random_pairs(60))
    h, _ = of_pairs(j, g, granularity=granularity)
    for factor in (1e-20, 1e-3, 7.0, 1e15):
        scaled, _ = of_pairs(j * factor, g * factor, granularity=granularity)
        torch.testing.assert_close(scaled, h * factor, rtol=1e-4, atol=1e-6 * factor)


def test_symmetric_in_j_and_g():
    j, g = random_pairs(200)
    h, _ = of_pairs(j, g)
    swapped, _ = of_pairs(g, j)
    torch.testing.assert_close(h, swapped, rtol=1e-7, atol=1e-12)


def test_splitting_the_tensors_changes_nothing_at_encoder_level():
    j, g = random_pairs(200)
    h, _ = of_pairs(j, g)
    whole = [mmpareto_rule([x.clone()], [y])[0][0] for x, y in zip(j, g, strict=True)]
    torch.testing.assert_close(h, torch.stack(whole), rtol=1e-9, atol=1e-12)


def test_min_norm_equals_torchjd():
    solver = MGDAWeighting()
    j, g = random_pairs(500)
    jj, jg, gg = ((x * y).sum(1) for x, y in ((j, j), (j, g), (g, g)))
    grams = torch.stack([jj, jg, jg, gg], dim=1) / (jj * gg).sqrt()[:, None]
    # the solver stops at absolute differences, hence the division
    expected = torch.stack([solver(gram.view(2, 2))[0] for gram in grams])
    torch.testing.assert_close(min_norm(jj, jg, gg), expected, rtol=0, atol=1e-6)


def test_gramian_is_exact_in_any_layout_and_type():
    x = torch.randn(70_000, dtype=torch.float64).view(350, 200).T
    y = torch.randn(200, 350, dtype=torch.float64)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.bfloat16, 1e-9)):
        a, b = x.to(dtype), y.to(dtype)
        gram = gramian([a], [b])
        expected = [(p.double() * q.double()).sum() for p, q in ((a, a), (a, b), (b, b))]
        assert gram[:, 0].tolist() == pytest.approx([float(e) for e in expected], rel=tolerance)


@pytest.mark.parametrize("at_once", [1, 7, 50, 1000])
@pytest.mark.parametrize("noise", [1.0, 1e-5], ids=["plain", "cancelling"])
def test_small_tensors_together_large_ones_in_parts(monkeypatch, at_once, noise):
    """Of any type and layout; a direction that nearly vanishes is computed as a GPU does it all."""
    wide, combine = [], integrate._combine_wide
    monkeypatch.setattr(integrate, "_combine_wide", lambda *a: wide.append(1) or combine(*a))
    monkeypatch.setitem(integrate.AT_ONCE, "cpu", at_once)
    torch.manual_seed(0)
    j = [torch.randn(2, 3, 2, 2).to(memory_format=torch.channels_last), torch.randn(4, 5).T,
         torch.randn(3), torch.randn(()), torch.randn(0), torch.randn(6).double()]  # fmt: skip
    g = [noise * torch.randn_like(x) - 1.0001 * x for x in j]
    flat = [torch.cat([x.reshape(-1).double() for x in side]) for side in (j, g)]
    expected = torch.stack([flat[0] @ flat[0], flat[0] @ flat[1], flat[1] @ flat[1]])
    for each in (False, True):
        gram = gramian(j, g, each=each)
        torch.testing.assert_close(gram.sum(1), expected, rtol=1e-12, atol=0)
    assert gram.shape == (3, len(j))
    assert gram[0].tolist() == pytest.approx([float(x.double().square().sum()) for x in j])
    alpha = min_norm(*expected)
    d = 2 * (alpha * flat[0] + (1 - alpha) * flat[1])
    wanted = 1.5 * (flat[0] + flat[1]).norm() / d.norm() * d
    shapes = [(x.shape, x.stride(), x.dtype) for x in j]
    h, stats = mmpareto_rule(j, g)
    assert stats.conflict and bool(wide) == (noise < 1)
    assert [(x.shape, x.stride(), x.dtype) for x in h] == shapes
    found = torch.cat([x.reshape(-1).double() for x in h])
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


def test_gradients_that_are_conjugated_lazily():
    """As autograd hands them out for complex parameters; the direction nearly vanishes."""
    j = [torch.randn(3, dtype=torch.complex64).conj() for _ in range(2)]
    g = [1e-5 * torch.randn_like(x) - x for x in j]
    alpha = min_norm(*gramian(j, g).sum(1))
    d = [2 * (alpha * x.cdouble() + (1 - alpha) * y.cdouble())
         for x, y in zip(j, g, strict=True)]  # fmt: skip
    h, _ = mmpareto_rule(j, g, gamma=1, granularity="none")
    assert_close([x.cdouble() for x in h], d, rtol=1e-6, atol=1e-9)


def test_a_gramian_that_is_not_of_each_tensor():
    j, g = tensors([1.0], [2.0]), tensors([1.0], [-1.0])
    with pytest.raises(ValueError, match="gram is of 1 parts, and 2 tensors are rescaled"):
        mmpareto_rule(j, g, gram=gramian(j, g), granularity="tensor")
    assert j[0] == 1


def test_keeps_type_and_scalars():
    j, g = ([torch.tensor(x), torch.ones(2).bfloat16()] for x in (1.0, 2.0))
    h, _ = mmpareto_rule(j, g)
    assert [x.dtype for x in h] == [torch.float32, torch.bfloat16]
    assert h[0].shape == ()
