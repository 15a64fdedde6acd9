"""DGL, OPM, CML and MBSD: literal references, values by hand, and degenerate batches."""

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from balance import accumulate, assert_equal, double, method_of, pair, steps
from tiny_models import batch, step
from torch import nn

from mmpareto.methods import mbsd, opm
from mmpareto.models.fusions.concat import Concat
from mmpareto.models.fusions.sum import Sum

A, V = double(2, 0, -1, 0.2, 0.1, 0).view(2, 3), double(0.5, 0.4, 0.3, 0, 3, 0).view(2, 3)
TRUTH = torch.tensor([0, 1])


class Given(nn.Identity):
    def __init__(self, width=3):
        super().__init__()
        self.out_dim = width


def given(fusion=Sum, number=2, width=3):
    """A model whose features are its read-outs."""
    model = fusion({name: Given(width) for name in "abc"[:number]}, 3).double()
    for head in getattr(model, "joint_heads", {}).values():
        head.weight.data, head.bias.data = torch.eye(3).double(), torch.zeros(3).double()
    return model


def columns(model):
    """Each modality's columns of a concat head, which all have 5 features."""
    return dict(zip(model.encoders, model.joint_head.weight.split(5, 1), strict=True))


def without(model, features, gone, head=None):
    weight = head or columns(model)
    kept = [z @ weight[name].T for name, z in features.items() if name not in gone]
    return sum(kept) + (model.joint_head.bias if head is None else model.joint_head.bias.detach())


class TestDGL:
    def loss(self, model, features, targets, alpha):
        """Stopped gradients stated as detached factors."""
        weights = columns(model)
        fixed = {name: w.detach() for name, w in weights.items()}
        joint = sum(z.detach() @ weights[n].T for n, z in features.items()) + model.joint_head.bias
        loss = F.cross_entropy(joint, targets)
        for name in features:
            others = [n for n in features if n != name]
            loss = loss + alpha * F.cross_entropy(without(model, features, others, fixed), targets)
        return loss

    @pytest.mark.parametrize("modalities", [2, 3])
    def test_twenty_steps_equal_the_reference(self, modalities):
        ours, theirs = pair(modalities)
        ours.eval(), theirs.eval()
        method = method_of("dgl", ours, no_probes=True, alpha=1.5)
        for number, (inputs, targets) in enumerate(steps(20, ours, theirs)):
            accumulate(method, inputs, targets, parts=3 if number % 2 else 1)
            features = {name: theirs.encoders[name](x) for name, x in inputs.items()}
            self.loss(theirs, features, targets, 1.5).backward()
        assert_equal(ours, theirs, 1e-9)

    def test_by_hand(self):
        model = Concat({"x": Given(2), "y": Given(2)}, 3).double()
        model.joint_head.bias.data.zero_()
        model.joint_head.weight.data = double(1, 0, 9, 9, 0, 1, 9, 9, 1, 1, 9, 9).view(3, 4)
        x = double(3, 4)[None].requires_grad_()
        inputs = {"x": x, "y": double(0, 0)[None]}
        step(method_of("dgl", model), inputs, torch.tensor([0]))
        assert x.grad[0].tolist() == pytest.approx((-0.186450, 3.931409), abs=1e-6)

    def test_no_gradient_is_entangled(self):
        """The head's are those of the joint loss; the encoders' are not touched by it."""
        ours, plain = pair()
        inputs, targets = batch(ours)
        step(method_of("dgl", ours), inputs, targets)
        F.cross_entropy(plain(inputs).joint, targets).backward()
        for mine, other in zip(
            ours.joint_head.parameters(), plain.joint_head.parameters(), strict=True
        ):
            torch.testing.assert_close(mine.grad, other.grad)


class TestOPM:
    SURE = {"no_probes": True, "drop_chance": 1.0, "warmup_epochs": 0}

    @pytest.mark.parametrize(
        ("scores", "base", "growth", "expected"),
        [
            ((6, 3), 0.5, 0.5, (0.690399, 0)),
            ((6, 3), 0.4, 0.5, (0.552319, 0)),
            ((5, 5), 0.5, 0.5, (0, 0)),
            ((6.6, 6), 0.5, 0.5, (0.524917, 0)),
            ((1, 0), 0.9, 0.5, (1, 0)),
            ((0, 0), 0.5, 0.5, (0, 0)),
            ((2,), 0.5, 0.5, (0,)),
            ((4, 2, 1), 0.5, 0, (0.5, 0.5, 0)),  # ratios 2, 4; 1/2, 2; 1/4, 1/2
        ],
    )
    def test_drop_rates(self, scores, base, growth, expected):
        found = opm.drop_rates(double(*scores), base, growth).tolist()
        assert found == pytest.approx(expected, abs=1e-6)

    def test_the_weakest_is_never_dropped(self):
        for number in (1, 2, 3, 5):
            for scores in torch.rand(50, number):
                assert opm.drop_rates(scores, 1.0, 9.0)[scores.argmin()] == 0

    @pytest.mark.parametrize("modalities", [2, 3])
    def test_twenty_steps_equal_the_reference(self, modalities):
        ours, theirs = pair(modalities)
        method, dropped = method_of("opm", ours, **self.SURE), 0
        for number, (inputs, targets) in enumerate(steps(20, ours, theirs)):
            inputs["a"] = inputs["a"] + targets[:, None]  # a leads
            torch.manual_seed(number)
            step(method, inputs, targets)
            torch.manual_seed(number)
            torch.rand(())
            drawn = torch.rand(len(targets), modalities)
            features = {name: theirs.encoders[name](x) for name, x in inputs.items()}
            scores = []
            for name, z in features.items():
                logits = z @ columns(theirs)[name].T + theirs.joint_head.bias / modalities
                scores.append(sum(logits.softmax(1)[b, t].item() for b, t in enumerate(targets)))
            rates = []
            for k, s in enumerate(scores):
                ratios = [s / other for j, other in enumerate(scores) if j != k]
                rho = math.tanh(max(0, sum(ratios) / len(ratios) - 1))
                rates.append(min(1, 0.5 * (1 + 0.5 * rho)) if rho > 0 else 0)
            left = 1 - sum(5 * q for q in rates) / (5 * modalities)
            rows = []
            for b in range(len(targets)):
                row = theirs.joint_head.bias
                for k, (name, z) in enumerate(features.items()):
                    gone = drawn[b, k].item() < rates[k]  # the gradient is then zero, not missing
                    row = row + columns(theirs)[name] @ z[b] * (0 if gone else 1 / left)
                    dropped += gone
                rows.append(row)
            F.cross_entropy(torch.stack(rows), targets).backward()
        assert dropped > 40
        assert_equal(ours, theirs, 1e-9)

    def test_nothing_is_dropped_before_and_between(self):
        ours, plain = pair()
        inputs, targets = batch(ours)
        F.cross_entropy(plain(inputs).joint, targets).backward()
        for settings in ({"warmup_epochs": 1}, {"drop_chance": 0.0}):
            ours.zero_grad()
            record = step(method_of("opm", ours, **{**self.SURE, **settings}), inputs, targets)
            assert [q.item() for q in record.measures.values()] == [0, 0]
            for mine, other in zip(ours.parameters(), plain.parameters(), strict=True):
                assert (mine.grad is None) or torch.equal(mine.grad, other.grad)

    def test_each_process_takes_its_own_rows(self, monkeypatch):
        """Two halves of a batch have the masks of the whole."""
        z, kept = {"a": torch.ones(12, 3), "b": torch.ones(12, 5)}, []
        for rank, size in ((0, 1), (0, 2), (1, 2)):
            monkeypatch.setattr(opm.distributed, "rank", lambda rank=rank: rank)
            monkeypatch.setattr(opm.distributed, "size", lambda size=size: size)
            torch.manual_seed(0)
            rows = {name: x[rank::size] for name, x in z.items()}
            found = opm.modulated(rows, torch.tensor([0.6, 0]))
            kept.append(found["a"][:, 0])
            assert found["b"].unique().item() == pytest.approx(1 / (1 - 0.6 * 3 / 8))
        assert 0 < (kept[0] == 0).sum() < 12
        assert torch.equal(kept[0][::2], kept[1]) and torch.equal(kept[0][1::2], kept[2])


class TestCML:
    @pytest.mark.parametrize(
        ("compare", "expected"),
        [("batch", 0.034766), ("samples", 0.315271), ("released", 0.315271)],
    )
    def test_rise(self, compare, expected):
        """o = (1,1.2,0), (2,0,0); without a modality (1,.5,0), (2,0,0)."""
        full = double(2, 0, 0, 1, 1.2, 0).view(2, 3)
        part = double(1, 0.5, 0, 2, 0, 0).view(2, 3)
        model = given()
        method = method_of("cml", model, compare=compare, no_probes=True)
        inputs = {"a": (full - part).requires_grad_(), "b": part}
        record = step(method, inputs, TRUTH)
        assert record.measures["rise"].item() == pytest.approx(expected, abs=1e-6)
        losses = [F.cross_entropy(u, TRUTH).item() for u in (full, part)]
        assert record.loss.item() == pytest.approx(sum(losses) / 2 + 0.1 * expected, abs=1e-6)

    @pytest.mark.parametrize("compare", ["samples", "released", "batch"])
    @pytest.mark.parametrize("modalities", [2, 3])
    def test_twenty_steps_equal_the_reference(self, modalities, compare):
        ours, theirs = pair(modalities)
        ours.eval(), theirs.eval()
        parts = 1 if compare == "batch" else 2
        settings = {"compare": compare, "no_probes": True, "accumulate": parts}
        method, orders = method_of("cml", ours, **settings), set()
        for inputs, targets in steps(20, ours, theirs):
            method.start_epoch(type("Trainer", (), {"epoch": 0}))
            orders.add(tuple(method.order))
            accumulate(method, inputs, targets, parts)
            features = {name: theirs.encoders[name](x) for name, x in inputs.items()}
            logits = [without(theirs, features, method.order[:i]) for i in range(modalities)]
            loss = sum(F.cross_entropy(u, targets) for u in logits) / modalities
            for more, less in pairwise(logits):
                rises = []
                for u, v, y in zip(more, less, targets, strict=True):
                    before, after = max(u.softmax(0)), max(v.softmax(0))
                    if compare == "released" and u.argmax() != y:
                        before = before.detach() if v.argmax() != y else 1
                    rises.append(after - before)
                if compare == "batch":
                    rises = [sum(rises)]
                loss = loss + 0.1 * sum(r for r in rises if r > 0)
            loss.backward()
        assert len(orders) == math.factorial(modalities)
        assert_equal(ours, theirs, 1e-9)


class TestMBSD:
    def test_by_hand(self):
        """Weights (.476629, .577218): in both samples one modality is right."""
        distance, divergence = mbsd.distillation(A, V, TRUTH)
        assert distance.item() == pytest.approx(1.138612, abs=1e-6)
        assert divergence.item() == pytest.approx(0.330789, abs=1e-6)
        assert mbsd.distillation(V, A, TRUTH)[1].item() == pytest.approx(0.330789, abs=1e-6)

    def test_without_a_right_or_a_stronger_one(self):
        assert [x.item() for x in mbsd.distillation(A, V, torch.tensor([2, 2]))] == [0, 0]
        assert [x.item() for x in mbsd.distillation(A, A, TRUTH)] == [0, 0]

    @pytest.mark.parametrize("modalities", [1, 2, 3])
    def test_twenty_steps_equal_the_reference(self, modalities):
        ours, theirs = pair(modalities)
        ours.eval(), theirs.eval()
        method = method_of("mbsd", ours, no_probes=True)
        for number, (inputs, targets) in enumerate(steps(20, ours, theirs)):
            accumulate(method, inputs, targets, parts=3 if number % 2 else 1)
            features = {name: theirs.encoders[name](x) for name, x in inputs.items()}
            logits = [
                z @ columns(theirs)[name].T + theirs.joint_head.bias / modalities
                for name, z in features.items()
            ]
            loss = sum(F.cross_entropy(u, targets) for u in [sum(logits), *logits])
            pairs = [(i, j) for i in range(modalities) for j in range(i)]
            for i, j in pairs:
                for b, y in enumerate(targets):
                    two = sorted((logits[i][b], logits[j][b]), key=lambda u: u.softmax(0)[y].item())
                    weak, strong = (u.softmax(0) for u in two)
                    if y not in (weak.argmax(), strong.argmax()):
                        continue
                    weight = (strong[y] - weak[y]).item() / len(targets) / len(pairs)
                    teacher = strong.detach()
                    loss = loss + weight * sum((u - v) ** 2 for u, v in zip(*two, strict=True)) / 3
                    loss = loss + weight * (teacher * (teacher / weak).log()).sum()
            loss.backward()
        assert_equal(ours, theirs, 1e-9)


@pytest.mark.parametrize("name", ["dgl", "opm", "cml", "mbsd"])
@pytest.mark.parametrize("modalities", [1, 2])
def test_one_class_and_zeros(name, modalities):
    model = given(number=modalities)
    settings = {"drop_chance": 1.0, "warmup_epochs": 0} if name == "opm" else {}
    inputs = {n: torch.zeros(4, 3, dtype=torch.float64).requires_grad_() for n in model.encoders}
    record = step(method_of(name, model, **settings), inputs, torch.ones(4, dtype=torch.int64))
    values = [record.loss, *record.measures.values(), *(x.grad for x in inputs.values())]
    assert all(x.isfinite().all() for x in values)
