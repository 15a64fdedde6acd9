"""Methods with teachers: literal references, values worked by hand, and batches at their limits."""

from copy import deepcopy
from math import exp, log

import pytest
import tiny_models
import torch
from balance import accumulate, assert_equal, double, method_of, pair, steps
from torch import nn

from mmpareto.data.samples import Batch
from mmpareto.methods import g2d, taught
from mmpareto.models.fusions.base import Output
from mmpareto.models.fusions.sum import Mean
from mmpareto.system.errors import UserError

OA, OV = double([2, 0, -1], [0.2, 0.1, 0]), double([0.5, 0.4, 0.3], [0, 3, 0])
Y = torch.tensor([0, 1])


def teachers_of(modalities):
    """Their BatchNorm is not at its start, so that training mode would show."""
    teachers = tiny_models.build(Mean, modalities)
    for _ in range(3):
        teachers(tiny_models.batch(teachers)[0])
    return teachers.eval().requires_grad_(False)


def method_with_teachers(name, model, teachers, **settings):
    method = method_of(name, model, no_probes=True, **settings)
    method.teach(teachers)
    return method


def probabilities(logits, temperature=1.0):
    """One sample's, as plain numbers."""
    powers = [exp(u / temperature) for u in logits.tolist()]
    return [power / sum(powers) for power in powers]


def cross_entropy(logits, targets):
    """Written out, sample by sample."""
    rows = [-(u[y] - u.exp().sum().log()) for u, y in zip(logits, targets, strict=True)]
    return sum(rows) / len(rows)


def squares(z, t):
    """The mean over all entries, one by one."""
    found = [(x - y) ** 2 for a, b in zip(z, t, strict=True) for x, y in zip(a, b, strict=True)]
    return sum(found) / len(found)


def kl(teacher, logits, temperature):
    """KL of two softmaxes, class by class and sample by sample; a mean over samples."""
    rows = []
    for u, v in zip(teacher, logits, strict=True):
        p, scaled = probabilities(u, temperature), v / temperature
        q = scaled - scaled.exp().sum().log()
        rows.append(sum(a * (log(a) - b) for a, b in zip(p, q, strict=True)))
    return sum(rows) / len(rows)


@pytest.mark.parametrize("modalities", [2, 3])
@pytest.mark.parametrize("name", ["umt", "g2d"])
def test_steps_equal_the_reference(name, modalities):
    """In 22 steps; every second one accumulates over three micro-batches. g2d freezes in 11."""
    ours, theirs = pair(modalities, Mean)
    ours.eval(), theirs.eval()
    teachers, own, ahead = teachers_of(modalities), {}, set()
    if name == "g2d":
        own = {"temperature": 2.0, "freeze_epochs": 1}
    method = method_with_teachers(name, ours, deepcopy(teachers), **own)
    for step, (inputs, targets) in enumerate(steps(22, ours, theirs)):
        method.epoch = 1 + step // 11
        accumulate(method, inputs, targets, parts=3 if step % 2 else 1)
        output, told = theirs(inputs), teachers(inputs)
        loss, scores = cross_entropy(output.joint, targets), {}
        for k in theirs.encoders:
            distance = squares(output.features[k], told.features[k])
            if name == "umt":
                loss = loss + 10 * distance
            else:
                loss = loss + 4 * kl(told.unimodal[k], output.joint, 2.0) + distance
            rows = zip(told.unimodal[k], targets.tolist(), strict=True)
            scores[k] = sum(probabilities(u)[y] for u, y in rows)
        loss.backward()
        if name == "g2d" and step < 11:
            first = max(scores, key=scores.get)
            ahead.add(first)
            for param in theirs.encoders[first].parameters():
                if param.dim() > 1:
                    param.grad.zero_()
    assert_equal(ours, theirs, 1e-9)
    assert name == "umt" or len(ahead) > 1


def test_distances():
    z, t = double([1, 2], [0, 1]), double([0, 2], [1, 3])
    found = taught.distances(Output(None, {}, {"a": z}), Output(None, {}, {"a": t}))
    assert found["a"].item() == 1.5


class TestG2D:
    def decided(self, logits, joint, targets, **settings):
        """What is decided about logits, whose features are the teachers'."""
        model = tiny_models.build(Mean)
        method, z = method_of("g2d", model, no_probes=True, **settings), {"a": OA, "v": OA}
        method.teachers = lambda _: Output(None, logits, z)
        return method, method.decide(Output(joint, {}, z), Batch({}, targets))

    @pytest.mark.parametrize(
        ("temperature", "audio", "visual"), [(1.0, 0.187353, 0.156285), (2.0, 0.215769, None)]
    )
    def test_published_values(self, temperature, audio, visual):
        both = (OA + OV) / 2
        method, found = self.decided({"a": OA, "v": OV}, both, Y, temperature=temperature)
        assert found.losses["joint"].item() == pytest.approx(0.404402, abs=1e-6)
        assert found.measures["kl_a"].item() == pytest.approx(audio, abs=1e-6)
        assert method._scores[0].tolist() == pytest.approx([1.176020, 1.276608], abs=1e-6)
        assert g2d.leading(method._scores[0]).tolist() == [False, True]
        if visual:
            assert found.measures["kl_v"].item() == pytest.approx(visual, abs=1e-6)
            assert found.loss.item() == pytest.approx(0.748041, abs=1e-6)

    @pytest.mark.parametrize(
        ("scores", "expected"),
        [((2, 1, 1), (1, 0, 0)), ((1, 2, 2), (0, 0, 0)), ((0, 0), (0, 0)), ((3,), (1,))],
    )
    def test_who_leads(self, scores, expected):
        assert g2d.leading(double(*scores)).tolist() == [*map(bool, expected)]

    def test_batches_at_their_limits(self):
        """One sample, a teacher with probabilities of 0 and 1, and a student without any doubt."""
        sure = double([1e4, 0, 0])
        for joint in (sure, -sure, 0 * sure):
            joint = joint.clone().requires_grad_()
            _, found = self.decided({"a": sure, "v": -sure}, joint, Y[:1])
            found.loss.backward()
            assert found.loss.isfinite() and joint.grad.isfinite().all()

    @pytest.mark.parametrize(
        ("flags", "frozen"), [({}, 2), ({"freeze_epochs": 3}, 3), ({"freeze_epochs": 0}, 0)]
    )
    def test_how_long(self, flags, frozen):
        model = tiny_models.build(Mean)
        method = method_with_teachers("g2d", model, teachers_of(2), epochs=5, **flags)
        found = []
        for method.epoch in range(1, 6):
            decision = tiny_models.step(method, *tiny_models.batch(model))
            found.append("frozen_a" in decision.measures)
        assert found == [True] * frozen + [False] * (5 - frozen)


def test_nothing_else_learns():
    """Teachers keep weights and statistics, and the student's heads only probe."""
    model, teachers = tiny_models.build(), teachers_of(2)
    before = deepcopy(teachers.state_dict())
    method = method_of("umt", model)
    method.teach(teachers)
    heads = {name: deepcopy(head) for name, head in model.unimodal_heads.items()}
    inputs, targets = tiny_models.batch(model)
    decision = tiny_models.step(method, inputs, targets)
    assert all(p.grad is None for p in teachers.parameters())
    assert all(torch.equal(x, before[n]) for n, x in teachers.state_dict().items())
    assert [*decision.losses] == ["joint", "a", "b"]
    z = model(inputs).features["a"].detach()
    loss = nn.functional.cross_entropy(heads["a"](z), targets)
    (expected,) = torch.autograd.grad(loss, [heads["a"].weight])
    torch.testing.assert_close(model.unimodal_heads["a"].weight.grad, expected)


def test_flags_that_exclude_each_other():
    with pytest.raises(UserError, match="--teacher_epochs acts only without --teacher: drop"):
        method_of("umt", teacher=["x"], teacher_epochs=3)
