"""Relearning, InfoReg and CGGM: literal references, published values, degenerate batches."""

import math
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_models
import torch
import torch.nn.functional as F
from balance import accumulate, assert_equal, double, method_of, pair, steps, trainer_of
from sklearn.cluster import KMeans

from mmpareto.methods import cggm, inforeg, relearning
from mmpareto.methods.inforeg import WINDOW
from mmpareto.models.fusions.concat import Concat
from mmpareto.models.fusions.sum import Sum
from mmpareto.system.errors import UserError


def part_logits(model, features, name):
    """Of a concat model: W_k z_k + b / N, row by row."""
    start = 0
    for other, z in features.items():
        stop = start + z.shape[1]
        if other == name:
            head = model.joint_head
            share = head.bias / len(features)
            return torch.stack([head.weight[:, start:stop] @ row + share for row in z])
        start = stop


class TestRelearning:
    @pytest.mark.parametrize(
        ("targets", "found", "expected"),
        [([0, 0, 1, 1, 2, 2], [0, 0, 0, 1, 1, 1], 2 / 3), ([0, 0, 1, 1], [0, 1, 0, 1], 0.5)],
    )
    def test_purity(self, targets, found, expected):
        assert relearning.purity(np.array(targets), np.array(found)) == pytest.approx(expected)

    @staticmethod
    def diagnosed(trainer, name):
        """Return {encoder: purity} of a split, sample by sample."""
        split, found = trainer.data.splits[name], {}
        trainer.model.eval()
        for k, encoder in trainer.model.encoders.items():
            with torch.no_grad():
                z = encoder(split.inputs[k]).double().numpy()
            low, high = z.min(0), z.max(0)
            scaled = [(2 * (row - low) / np.where(high > low, high - low, 1) - 1) for row in z]
            means = KMeans(4, random_state=0, n_init=1).fit(np.array(scaled, np.float32))
            members = {c: Counter() for c in range(4)}
            for c, y in zip(means.labels_, split.targets.tolist(), strict=True):
                members[c][y] += 1
            found[k] = sum(max(m.values(), default=0) for m in members.values()) / len(split)
        return found

    def test_six_epochs_equal_the_reference(self, tmp_path):
        """36 steps. Before the epochs 3 and 4 the encoders go back: not before, not after."""
        words = "--encoder", "cnn", "--epochs", 6, "--batch_size", 16
        ours = trainer_of(
            tmp_path / "run", "--method", "relearning", *words, "--relearn_times", 2,
            "--relearn_every", 1,
        )  # fmt: skip
        theirs = trainer_of(tmp_path / "joint", "--method", "joint", *words)
        start = {n: p.detach().clone() for n, p in theirs.model.encoders.named_parameters()}
        gone_back = []
        for epoch in range(6):
            if epoch in (2, 3):
                train, val = (self.diagnosed(theirs, name) for name in ("train", "val"))
                for name, p in theirs.model.encoders.named_parameters():
                    k = name.split(".")[0]
                    weight = math.tanh(3 * abs(train[k] - val[k]))
                    gone_back.append(weight)
                    p.data = weight * start[name] + (1 - weight) * p.data
            ours.train_epoch(), theirs.train_epoch()
            ours.epoch += 1
            theirs.epoch += 1
        assert max(gone_back) > 0.1
        assert_equal(ours.model, theirs.model, close=1e-4)

    def test_a_small_validation_split(self, tmp_path):
        """With --same_size both splits have as many samples; features of zeros are one cluster."""
        trainer = trainer_of(tmp_path / "run", "--method", "relearning", "--same_size")
        trainer.method.epoch = 3
        trainer.data.splits["train"].inputs["a"].zero_()
        assert trainer.method.purities(trainer, "train")["a"] == pytest.approx(0.25, abs=0.1)


class TestInfoReg:
    def test_published_values(self):
        def pulled(scores, beta):
            return inforeg.strength(double(*scores), double(*beta)).tolist()

        assert pulled((3, 1), (0.95, 0.1)) == pytest.approx((2.491125, 0), abs=1e-6)
        assert pulled((1.1, 1), (0.95, 0.1)) == pytest.approx((1.049564, 0), abs=1e-6)
        assert pulled((1, 3), (0.95, 0.1)) == pytest.approx((0, 0.262224), abs=1e-6)
        assert pulled((2, 2), (1, 1)) == [0, 0] and pulled((2,), (1,)) == [0]

    def test_growth(self):
        found, past = [], [0.0] * (WINDOW + 1)
        for trace in (5, 4, 3.9):
            past = [*past[1:], trace]
            found.append(inforeg.growth(double(past).T).item())
        assert found == pytest.approx((1, 0.444444, 0.302326), abs=1e-6)
        for epochs, expected in ((10, 0.1), (11, 0), (0, 0)):
            past = ([0.0] * (WINDOW + 1) + [5.0] * epochs)[-WINDOW - 1 :]
            assert inforeg.growth(double(past).T).item() == pytest.approx(expected)

    @pytest.mark.parametrize(
        ("modalities", "settings"),
        [(2, {}), (3, {"scores": "mean"}), (2, {"variant": "release"})],
    )
    def test_thirty_steps_equal_the_reference(self, modalities, settings):
        """Three epochs of ten steps, of which every second accumulates over three micro-batches."""
        ours, theirs = pair(modalities)
        ours.eval(), theirs.eval()
        settings = {"no_probes": True, "least_growth": 0.5, **settings}
        method = method_of("inforeg", ours, **settings)
        is_release = settings.get("variant") == "release"
        names, past, trace, pulls = list("abc"[:modalities]), [], dict.fromkeys("abc", 0.0), 0
        start = {n: p.detach().clone() for n, p in theirs.encoders.named_parameters()}
        for step, (inputs, targets) in enumerate(steps(30, ours, theirs)):
            if step % 10 == 0:
                method.start_epoch(SimpleNamespace(epoch=step // 10))
                start = {n: p.detach().clone() for n, p in theirs.encoders.named_parameters()}
                past.append(trace)
                trace = dict.fromkeys("abc", 0.0)
            if step % 3:
                inputs["a"] = inputs["a"] + targets[:, None]  # a leads in most steps
            accumulate(method, inputs, targets, parts=3 if step % 2 else 1)
            output = theirs(inputs)
            parts = {n: part_logits(theirs, output.features, n) for n in names}
            loss = F.cross_entropy(output.joint, targets)
            loss = loss + sum(F.cross_entropy(u, targets) for u in parts.values())
            loss.backward()
            size = len(targets) if settings.get("scores") == "mean" else 1
            score = {n: float(u.detach().softmax(1)[range(len(targets)), targets].sum()) / size
                     for n, u in parts.items()}  # fmt: skip
            for i, n in enumerate(names):
                asked = "a" if is_release else n
                zeros = [0.0] * 10
                every = zeros + [t[asked] for t in past[1:]]
                last, before = sum(every[-10:]), sum(every[-11:-1])
                is_open = len(past) == 1 or (last - before) / last > 0.5
                lead = score[n] - sum(score[m] for m in names if m != n) / (modalities - 1)
                beta = 0.95 if i == 0 or not is_release else 0.1
                for place, p in theirs.encoders[n].named_parameters():
                    if is_open and lead > 0:
                        factor = beta * math.exp(math.tanh(lead))
                        p.grad += factor * (p.detach() - start[f"{n}.{place}"])
                        pulls += 1
                    if p.dim() == 2:
                        trace[n] += float(p.grad.square().sum() / p.grad.numel())
        assert pulls > 100
        assert_equal(ours, theirs, close=1e-9)


class TestCGGM:
    @pytest.mark.parametrize(
        ("gains", "largest", "expected"),
        [
            ((0.2, 0.05), None, (0.2, 0.8)),
            ((0.1, 0, 0.15), None, (0.6, 1, 0.4)),
            ((-0.2, 0.15), None, (-3, 4)),
            ((-0.2, 0.15), 2, (0, 2)),
            ((0, 0), 2, (1, 1)),
            ((0.1,), 2, (0,)),
        ],
    )
    def test_published_values(self, gains, largest, expected):
        found = cggm.balances(double(*gains), largest)
        assert found.tolist() == pytest.approx(expected, abs=1e-5)

    @pytest.mark.parametrize(("modalities", "fusion"), [(2, Concat), (3, Sum)])
    def test_thirty_steps_equal_the_reference(self, modalities, fusion):
        """With the loss of alignment; every second step accumulates over three micro-batches."""
        ours, theirs = pair(modalities, fusion)
        ours.eval(), theirs.eval()
        settings = {"alignment_weight": 0.2, "rho": 1.3, "accuracy_momentum": 0.25}
        method = method_of("cggm", ours, **settings)
        names, accuracy, balance, different = list("abc"[:modalities]), {}, {}, 0
        for step, (inputs, targets) in enumerate(steps(30, ours, theirs)):
            accumulate(method, inputs, targets, parts=3 if step % 2 else 1)
            output = theirs(inputs)
            loss = F.cross_entropy(output.joint, targets)
            if balance:
                cosines, start = {}, 0
                for n in names:
                    if fusion is Concat:
                        weight = theirs.joint_head.weight[:, start : start + 5]
                        start += 5
                    else:
                        weight = theirs.joint_heads[n].weight
                    other = theirs.unimodal_heads[n].weight.detach()
                    cosines[n] = (weight * other).sum() / (weight.norm() * other.norm())
                alignment = sum(abs(balance[n]) - balance[n] * cosines[n] for n in names)
                loss = loss + 0.2 * alignment / modalities
            for n in names:
                logits = theirs.unimodal_heads[n](output.features[n].detach())
                loss = loss + F.cross_entropy(logits, targets)
            loss.backward()
            found, gains = {}, {}
            for n in names:
                guesses = output.unimodal[n].argmax(1).tolist()
                right = sum(p == y for p, y in zip(guesses, targets.tolist(), strict=True))
                found[n] = 0.75 * right / len(targets) + 0.25 * accuracy.get(n, 0.0)
                gains[n] = found[n] - accuracy.get(n, 0.0)
            accuracy, whole = found, sum(gains.values()) + 1e-8
            for n in names:
                balance[n] = min(max((whole - gains[n]) / whole, 0.0), 2.0)
                different += 0 < balance[n] < 2
                for p in theirs.encoders[n].parameters():
                    p.grad *= 1.3 * balance[n]
        assert different > 20
        assert_equal(ours, theirs, close=1e-9)

    def test_without_its_loss_the_alignment_is_logged_only(self):
        inputs, targets = tiny_models.batch(model := tiny_models.build())
        method = method_of("cggm", model)
        for _ in range(2):
            record = tiny_models.step(method, inputs, targets)
        assert record.minimised is None and record.measures["alignment"].isfinite()

    def test_it_needs_probes(self):
        with pytest.raises(UserError, match="drop --no_probes"):
            method_of("cggm", no_probes=True)
