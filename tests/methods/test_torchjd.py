"""Any aggregator of torchjd on the two gradients of every encoder, against torchjd itself."""

import pytest
import reference
import tiny_models
import torch
from balance import accumulate, assert_equal, double, method_of, pair, steps
from torchjd import aggregation

from mmpareto.methods.torchjd import why_not
from mmpareto.system.errors import UserError

MEANS = ["AlignedMTL", "DualProj", "IMTLG", "Mean", "MGDA", "Random", "UPGrad"]
SUMS = ["ConFIG", "GradDrop", "PCGrad", "Sum"]


def unit(name, j, g):
    """What torchjd makes of both rows, brought to a mean square length of 1 and back."""
    rows = torch.stack([j, g])
    size = rows.square().sum(1).mean().sqrt()
    return size * getattr(aggregation, name)()(rows / size)


@pytest.mark.parametrize("name", [*MEANS, *SUMS])
def test_two_random_rows(name):
    """Of a length at which torchjd's regularisation would count; any case of letters."""
    method = method_of("torchjd", aggregator=name.upper(), scale=2)
    j, g = 1e-3 * torch.randn(2, 9, dtype=torch.float64)
    before = torch.get_rng_state()
    expected = unit(name, j, g)
    torch.set_rng_state(before)
    ((one, two), stats) = method.rule("a")([j[:4].clone(), j[4:].view(5, 1).clone()],
                                           [g[:4], g[4:].view(5, 1)])  # fmt: skip
    h = torch.cat([one, two.flatten()])
    torch.testing.assert_close(h, 2 * expected, rtol=1e-9, atol=1e-12)
    assert stats.conflict == (j @ g <= 0) and not stats.stationary
    if name != "GradDrop":
        mixed = 2 * (stats.joint_weight * j + stats.unimodal_weight * g)
        torch.testing.assert_close(h, mixed, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("names", "factor"), [(MEANS, 1), (SUMS, 2)])
def test_size(names, factor):
    """Of two equal gradients, as docs/methods.md says."""
    for name in names:
        j = double(1, -2, 0)
        rule = method_of("torchjd", aggregator=name).rule("a")
        ((h,), _) = rule([j.clone()], [j])
        assert h.tolist() == pytest.approx((factor * j).tolist()), name


@pytest.mark.parametrize("name", [*MEANS, *SUMS])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_not_finite_stays_so_and_zero_is_finite(name, bad):
    rule = method_of("torchjd", aggregator=name).rule("a")
    ((h,), _) = rule([double(1, bad)], [double(-1, 1)])
    assert not h.isfinite().all()
    for j, g in ((double(0, 0), double(0, 0)), (double(0, 0), double(0, 1))):
        ((h,), _) = rule([j], [g])
        assert h.isfinite().all()


def test_large_gradients_are_no_error():
    """Their products are infinite in float32; training then ends as it does with other methods."""
    large = torch.tensor([1e25, 2e25])
    ((h,), stats) = method_of("torchjd").rule("a")([large.clone()], [large.flip(0)])
    assert h.shape == large.shape and stats.joint_weight.dim() == 0


def test_config_of_many_numbers():
    """Its two projections are equal and not zero; torchjd itself returns zeros for such rows."""
    torch.manual_seed(0)
    j, g = torch.randn(2, 9_000_000)
    g += j / 2
    ((h,), _) = method_of("torchjd").rule("a")([j.clone()], [g])
    j, g, h = j.double(), g.double(), h.double()
    along_j, along_g = h @ j / j.norm(), h @ g / g.norm()
    assert along_j > 1000
    torch.testing.assert_close(along_g, along_j, rtol=1e-6, atol=0)
    torch.testing.assert_close(h.norm(), h @ (j + g) / h.norm(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("angle", [0, 1e-7, 1e-3, 3.14, 3.1415926, torch.pi])
def test_config_of_parallel_and_opposite_rows(angle):
    """In float64, in which torchjd tells the rows apart up to the last two of these angles."""
    angle = torch.tensor(angle, dtype=torch.float64)
    j, g = double(1, 0, 0), 3 * torch.stack([angle.cos(), angle.sin(), 0 * angle])
    ((h,), _) = method_of("torchjd").rule("a")([j.clone()], [g])
    expected = aggregation.ConFIG()(torch.stack([j, g]))
    torch.testing.assert_close(h, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "modalities"),
    [("ConFIG", 2), ("ConFIG", 3), ("GradDrop", 3), ("Random", 2), ("UPGrad", 3)],
)
def test_twenty_steps(name, modalities):
    """torchjd on the stacked matrix of every encoder; every second step accumulates."""
    ours, theirs = (model.eval() for model in pair(modalities))
    method = method_of("torchjd", ours, aggregator=name)

    def rule(j, g):
        parts = unit(name, reference.flat(j), reference.flat(g)).split([x.numel() for x in j])
        return [part.view_as(x) for part, x in zip(parts, j, strict=True)]

    for step, (inputs, targets) in enumerate(steps(20, ours, theirs)):
        before = torch.get_rng_state()
        accumulate(method, inputs, targets, parts=3 if step % 2 else 1)
        torch.set_rng_state(before)
        losses = tiny_models.losses(theirs(inputs), targets)
        reference.backward(theirs, dict(theirs.encoders), *losses, rule)
    assert_equal(ours, theirs, 1e-9)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("SGD", "torchjd has no aggregator of that name"),
        ("MGDAWeighting", "torchjd has no aggregator of that name"),
        ("CAGrad", "it needs arguments of its own"),
        ("nashmtl", "it remembers earlier steps, and --resume could not put that back"),
    ],
)
def test_refused(name, message):
    listed = ", ".join(sorted([*MEANS, *SUMS], key=str.lower))
    with pytest.raises(UserError) as error:
        method_of("torchjd", aggregator=name)
    assert str(error.value) == f"--aggregator {name}: {message}: choose one of {listed}"


def test_without_the_packages_of_an_aggregator(monkeypatch):
    def fail(self):
        raise ImportError("No module named 'quadprog'")

    monkeypatch.setattr(aggregation.DualProj, "__init__", fail)
    with pytest.raises(UserError, match=r"a package that is missing \(.*quadprog.*ConFIG"):
        method_of("torchjd", aggregator="DualProj")
    assert why_not(aggregation.DualProj)


def test_gramian_of_features():
    settings = {"gramian": "features", "aggregator": "GradDrop"}
    with pytest.raises(UserError, match="GradDrop needs the gradients themselves"):
        method_of("torchjd", **settings)
    for name in ("ConFIG", "IMTLG"):
        method_of("torchjd", **settings | {"aggregator": name})
    with pytest.raises(UserError, match="--fusion mmtm"):
        method_of("torchjd", tiny_models.mmtm(), **settings | {"fusion": "mmtm"})
