"""LFM: a literal reference, the values of the publication, degenerate batches, and processes."""

from types import SimpleNamespace

import pytest
import tiny_models
import torch
import torch.nn.functional as F
from balance import accumulate, assert_equal, double, method_of, pair, steps

from mmpareto.core import distributed
from mmpareto.methods import lfm
from mmpareto.models.fusions.sum import Mean
from mmpareto.system.errors import UserError

OA, OV = double(2, 0, -1, 0.2, 0.1, 0).view(2, 3), double(0.5, 0.4, 0.3, 0, 3, 0).view(2, 3)
ZA, ZV = double(3, 4, 1, 0).view(2, 2), double(0, 5, 2, 0).view(2, 2)


def method_in(epoch, model=None, **settings):
    method = method_of("lfm", model or tiny_models.build(Mean), epochs=200, **settings)
    method.start_epoch(SimpleNamespace(epoch=epoch))
    return method


class TestPublishedValues:
    def test_alignments(self):
        assert lfm.disagreement(OA, OV).item() == pytest.approx(0.197053, abs=1e-6)
        assert lfm.contrast(ZA, ZV, 0.07).item() == pytest.approx(0.014787, abs=1e-6)
        assert lfm.contrast(ZA, ZV, 1.0).item() == pytest.approx(0.448879, abs=1e-6)

    @pytest.mark.parametrize(
        ("epoch", "alpha"),
        [(0, 0.95), (1, 0.740818), (2, 0.548812), (5, 0.22313), (10, 0.05), (99, 0.05)],
    )
    def test_heuristic(self, epoch, alpha):
        assert method_in(epoch).alpha() == pytest.approx(alpha, abs=1e-6)

    @pytest.mark.parametrize(
        ("epoch", "joint"),
        [(0, 0.204624), (10, 0.247759), (50, 0.436681), (100, 0.539155), (150, 0.821314),
         (199, 0.915989)],
    )  # fmt: skip
    def test_fitted(self, epoch, joint):
        assert 1 - method_in(epoch, schedule="fitted").alpha() == pytest.approx(joint, abs=1e-6)
        half = method_of("lfm", tiny_models.build(Mean), epochs=100, schedule="fitted")
        half.epoch = 1 + epoch / 2
        assert 1 - half.alpha() == pytest.approx(joint, abs=1e-6)

    def test_loss_of_the_last_release(self):
        class Given(Mean):
            def read_out(self, features):
                return {"a": OA, "b": OV}

        method = method_in(0, tiny_models.build(Given), alignment="labels", schedule="fitted")
        inputs = {name: torch.zeros(2, 6, dtype=torch.float64) for name in "ab"}
        decision = tiny_models.step(method, inputs, torch.tensor([0, 1]), share=0)
        assert decision.losses["joint"].item() == pytest.approx(0.404402, abs=1e-6)
        assert 2 * decision.loss.item() == pytest.approx(0.478962, abs=1e-6)


def literal_contrast(one, other):
    one = [row / row.norm() for row in one]
    other = [row / row.norm() for row in other]
    terms = []
    for ours, theirs in ((one, other), (other, one)):
        for i, row in enumerate(ours):
            similar = torch.stack([(row * z).sum() / 0.07 for z in theirs])
            terms.append(-torch.log(similar[i].exp() / similar.exp().sum()))
    return sum(terms) / len(terms)


def literal_labels(one, other):
    terms = []
    for p, q in zip(one.softmax(1), other.softmax(1), strict=True):
        m = (p + q) / 2
        terms += [(m[c] * torch.log(m[c] / x[c])) / 2 for x in (p, q) for c in range(len(m))]
    return sum(terms) / len(one)


def literal_alpha(schedule, epoch, joint, align):
    if schedule == "heuristic":
        return min(0.95, max(0.05, 2.718281828459045 ** (-0.3 * epoch)))
    dot = sum(float((x * y).sum()) for x, y in zip(joint, align, strict=True))
    if dot < 0:
        return 0.5
    jj, gg = (sum(float((x * x).sum()) for x in g) for g in (joint, align))
    grid = [0.0, 1.0, (jj - dot) / (jj + gg - 2 * dot)]
    length = {a: (1 - a) ** 2 * jj + 2 * a * (1 - a) * dot + a * a * gg for a in grid}
    return min((a for a in grid if 0 <= a <= 1), key=length.__getitem__)


@pytest.mark.parametrize(
    ("modalities", "alignment", "schedule"),
    [(2, "contrastive", "heuristic"), (3, "labels", "heuristic"), (2, "labels", "minnorm"),
     (3, "contrastive", "minnorm")],
)  # fmt: skip
def test_twenty_four_steps_equal_the_reference(modalities, alignment, schedule):
    """Three epochs; every second step accumulates over three micro-batches."""
    ours, theirs = pair(modalities, Mean)
    ours.eval(), theirs.eval()
    method = method_in(0, ours, alignment=alignment, schedule=schedule, no_probes=True)
    names, found = list("abc"[:modalities]), set()
    trained = [p for n, p in theirs.named_parameters() if "unimodal" not in n]
    for step, (inputs, targets) in enumerate(steps(24, ours, theirs)):
        if step % 8 == 0:
            method.start_epoch(SimpleNamespace(epoch=step // 8))
        parts = 3 if step % 2 else 1
        accumulate(method, inputs, targets, parts)
        sums = [[torch.zeros_like(p) for p in trained] for _ in range(2)]
        for chunk, truth, told in tiny_models.micro_batches(inputs, targets, parts):
            z = {n: theirs.encoders[n](chunk[n]) for n in names}
            o = {n: theirs.joint_heads[n](z[n]) for n in names}
            joint = F.cross_entropy(sum(o.values()) / modalities, truth)
            of, literal = (
                (z, literal_contrast) if alignment == "contrastive" else (o, literal_labels)
            )
            align = sum(literal(of[a], of[b]) for i, a in enumerate(names) for b in names[i + 1 :])
            for total, loss in zip(sums, (joint, align), strict=True):
                own = torch.autograd.grad(loss, trained, retain_graph=True, allow_unused=True)
                for x, y in zip(total, own, strict=True):
                    x += 0 if y is None else y * told["share"]
        alpha = literal_alpha(schedule, step // 8, *sums)
        found.add(round(alpha, 6))
        for p, x, y in zip(trained, *sums, strict=True):
            p.grad = (1 - alpha) * x + alpha * y
    assert len(found) > 2
    assert_equal(ours, theirs, close=1e-9)


@pytest.mark.parametrize("alignment", ["contrastive", "labels"])
@pytest.mark.parametrize("schedule", ["heuristic", "minnorm"])
@pytest.mark.parametrize("modalities", [1, 2])
def test_degenerate_batches(alignment, schedule, modalities):
    """Equal samples of one class, features of zeros, sure predictions, one modality."""
    model = tiny_models.build(Mean, modalities)
    for head in [*model.joint_heads.values(), model.encoders["a"][-1]]:
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.zeros_(head.bias)
    model.joint_heads["a"].bias.data = double(0, 2000, 0)
    method = method_in(1, model, alignment=alignment, schedule=schedule)
    inputs = {name: torch.ones(4, 6, dtype=torch.float64) for name in model.encoders}
    decision = tiny_models.step(method, inputs, torch.zeros(4, dtype=torch.int64))
    assert all(value.isfinite().all() for value in decision.measures.values())
    assert all(g.isfinite().all() for g in tiny_models.gradients(model).values())


def test_features_of_different_widths():
    model = tiny_models.build(Mean)
    model.encoders["b"].out_dim = 4
    with pytest.raises(UserError, match=r"a 5, b 4: give .*--alignment labels"):
        method_in(0, model)
    assert method_in(0, model, alignment="labels")


def test_rows_of_two_processes(monkeypatch):
    """The mean of the ranks' gradients is the gradient of a loss of all rows."""
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, dtype=torch.float64, requires_grad=True)

    def loss(rows):
        return (rows @ rows.T).sin().sum()

    (expected,) = torch.autograd.grad(loss(x * weight), weight)
    monkeypatch.setattr(distributed, "size", lambda: 2)
    monkeypatch.setattr(distributed, "total", lambda every: (x * weight).detach().view(2, 2, 3))
    found = 0
    for rank in range(2):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        value = loss(distributed.rows((x * weight)[2 * rank : 2 * rank + 2]))
        torch.testing.assert_close(value, loss(x * weight))
        found = found + torch.autograd.grad(value, weight)[0] / 2
    torch.testing.assert_close(found, expected)
