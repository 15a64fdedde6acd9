"""MMCosine and its fusion: values by hand, a literal reference, and rows of zeros."""

import pytest
import torch
import torch.nn.functional as F
from balance import assert_equal, double, method_of, pair, steps
from tiny_models import step
from torch import nn

from mmpareto.models.fusions.cosine import Cosine


def cosine(x, w):
    return (x * w).sum() / ((x * x).sum() * (w * w).sum()).sqrt()


def logits(model, features, scale):
    """Sample by sample, class by class, from columns of the joint head's weight."""
    rows = []
    for sample in range(len(next(iter(features.values())))):
        row = []
        for weight in model.joint_head.weight:
            start, found = 0, torch.zeros(())
            for z in features.values():
                found = found + scale * cosine(z[sample], weight[start : (start := start + 5)])
            row.append(found)
        rows.append(torch.stack(row))
    return torch.stack(rows)


@pytest.mark.parametrize("modalities", [2, 3])
def test_twenty_steps_equal_the_reference(modalities):
    ours, theirs = pair(modalities, Cosine)
    method = method_of("mmcosine", ours, no_probes=True)
    for inputs, targets in steps(20, ours, theirs):
        step(method, inputs, targets)
        features = {name: theirs.encoders[name](x) for name, x in inputs.items()}
        F.cross_entropy(logits(theirs, features, 10), targets).backward()
    assert_equal(ours, theirs, 1e-9)


class Given(nn.Identity):
    out_dim = 2


@pytest.fixture
def by_hand():
    model = Cosine({"x": Given(), "y": Given()}, 3).double()
    model.joint_head.weight.data = double(1, 0, 0, 2, 0, 1, 1, 0, 1, 1, 1, 1).view(3, 4)
    return model


def test_by_hand(by_hand):
    """Features of any length give the same."""
    for length in (1, 1e-6, 1e6):
        features = {"x": double(3, 4)[None] * length, "y": double(0, 5)[None]}
        output = by_hand(features)
        assert output.joint[0].tolist() == pytest.approx((16, 8, 16.970563))
        assert output.joint_loss(torch.tensor([0])).item() == pytest.approx(1.291919, abs=1e-6)
        parts = by_hand.read_out(features)
        assert parts["x"][0].tolist() == pytest.approx((6, 8, 9.899495))
        torch.testing.assert_close(sum(parts.values()), output.joint)


def test_zeros_have_no_direction(by_hand):
    by_hand.joint_head.weight.data[1, :2] = 0
    x = double(0, 0, 3, 4).view(2, 2).requires_grad_()
    y = double(0, 5, 0, 0).view(2, 2).requires_grad_()
    output = by_hand({"x": x, "y": y})
    assert output.joint.tolist() == [
        pytest.approx((10, 0, 7.071068)), pytest.approx((6, 0, 9.899495)),
    ]  # fmt: skip
    output.joint_loss(torch.tensor([0, 1])).backward()
    assert not x.grad[0].any() and not y.grad[1].any() and x.grad[1].any()
    assert not by_hand.joint_head.weight.grad[1, :2].any()
    assert by_hand.joint_head.weight.grad.isfinite().all()
