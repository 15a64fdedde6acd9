"""AGM: published values, a literal reference, and what passes with zeroed inputs leave."""

from math import log

import pytest
import reference_imbalance as literal
import tiny_models
import torch
import torch.nn.functional as F
from balance import assert_equal, double, method_of, pair, steps
from torch import nn

from mmpareto.methods import agm
from mmpareto.models.fusions.concat import Concat
from mmpareto.models.fusions.sum import Sum


class TestAGM:
    @pytest.mark.parametrize(
        ("scores", "expected"),
        [
            ((0.5, 1), (1.648721, 0.606531)),
            ((0.8, 0.9), (1.105171, 0.904837)),
            ((0.5, 1, 1.5), (2.117000, 1, 0.472367)),
        ],
    )
    def test_discrepancy(self, scores, expected):
        assert agm.discrepancy(double(*scores)).tolist() == pytest.approx(expected, abs=1e-6)

    def test_modulation(self):
        """q = (.5, 1), running means (.8, .9): the stronger one takes less."""
        found = agm.modulation(double(0.5, 1), double(0.8, 0.9), 1.0)
        assert found.tolist() == pytest.approx((0.580683, 1.347575), abs=1e-6)

    def test_cap_and_single_modality(self):
        """tau - r is at most 10, before alpha."""
        found = agm.modulation(double(9, 0), double(0, 9), 0.5)
        assert found[0].item() == pytest.approx(torch.tensor(5.0).exp().item())
        assert agm.modulation(double(2), double(1), 1.0).tolist() == [1]

    def test_floor(self):
        phi = double(1000, 0).view(1, 2)
        assert agm.score(phi, torch.tensor([1])).item() == pytest.approx(-log(1e-8))

    def test_parts(self):
        """T = (4,1), P_a = (1,0), P_v = (2,.5) with audio or visual zeroed."""
        logits = {frozenset("v"): double(1, 0), frozenset("a"): double(2, 0.5)}
        found = agm.shares(["a", "v"], double(4, 1), logits.__getitem__)
        assert found["a"].tolist() == [2.5, 0.75] and found["v"].tolist() == [1.5, 0.25]

    @pytest.mark.parametrize("number", [1, 2, 3, 4])
    def test_parts_add_up(self, number):
        """To the joint logits, since the empty coalition counts; as the mean over all orders."""
        names = list("abcd"[:number])
        random = {}

        def logits(coalition):
            return random.setdefault(frozenset(coalition), torch.randn(3, dtype=torch.float64))

        whole = logits(names)
        found = agm.shares(names, whole, logits)
        torch.testing.assert_close(sum(found.values()), whole)
        expected = literal.shapley(names, lambda s: logits(s) if s else torch.zeros_like(whole))
        for name in names:
            torch.testing.assert_close(found[name], expected[name])

    @pytest.mark.parametrize(
        ("fusion", "modalities"),
        [(Concat, 2), (Concat, 3), (Sum, 2), (tiny_models.Mixing, 2), (tiny_models.Mixing, 3)],
    )
    def test_twenty_steps_equal_the_reference(self, fusion, modalities):
        """All zeroed passes made one by one; also where late fusion takes the short way.

        Every second step accumulates gradients over two micro-batches.
        """
        ours, theirs = pair(modalities, fusion)
        for model in (ours, theirs):
            model.encoders["a"][3].weight.data *= 10  # the head's gradients, too: some are clipped
        method = method_of("agm", ours, alpha=0.7, no_probes=True)
        slow, params = literal.AGM(0.7, modalities), literal.trained(theirs)
        inside, clipped = set(theirs.encoders.parameters()), 0
        heads = [p for p in params if p not in inside and p.dim() > 1]
        for step, (inputs, targets) in enumerate(steps(20, ours, theirs)):
            parts = 1 + step % 2
            for chunk, truth, told in tiny_models.micro_batches(inputs, targets, parts):
                record = tiny_models.step(method, chunk, truth, **told)
                found = slow.gradients(theirs, chunk, truth, 1 / parts)
                for p, g in zip(params, found, strict=True):
                    p.grad = g if p.grad is None else p.grad + g
                kappas = [k.item() for k in record.measures.values()]
                assert kappas == pytest.approx(slow.kappas, rel=1e-5)
            if any(p.grad.abs().max() > 1 for p in heads):
                clipped += 1
                nn.utils.clip_grad_norm_(params, 1.0)
        assert clipped < 20
        assert (clipped > 0) is (fusion is not tiny_models.Mixing)  # whose features stay below 1
        assert_equal(ours, theirs, 1e-4)  # the state is kept in float32

    @pytest.mark.parametrize("bn_mode", ["running", "batch"])
    @pytest.mark.parametrize("fusion", [Concat, tiny_models.Mixing])
    def test_zeroed_passes_leave_no_trace(self, bn_mode, fusion):
        """BatchNorm's running statistics are those of a single plain pass."""
        model, plain = pair(3, fusion)
        inputs, targets = tiny_models.batch(model)
        plain.train()(inputs)
        model.train()
        tiny_models.step(method_of("agm", model, bn_mode=bn_mode), inputs, targets)
        assert model.training
        for mine, other in zip(model.buffers(), plain.buffers(), strict=True):
            assert torch.equal(mine, other)

    @pytest.mark.parametrize("alpha", [0.0, 1.0])
    @pytest.mark.parametrize("fusion", [Concat, tiny_models.Mixing])
    def test_equal_kappas_are_the_joint_loss(self, fusion, alpha):
        """alpha 0 makes every kappa 1."""
        model, plain = pair(3, fusion)
        inputs, targets = tiny_models.batch(model)
        F.cross_entropy(plain(inputs).joint, targets).backward()
        tiny_models.step(method_of("agm", model, alpha=alpha), inputs, targets)
        same = [
            torch.allclose(p.grad, q.grad, atol=1e-12)
            for p, q in zip(literal.trained(model), literal.trained(plain), strict=True)
        ]
        assert all(same) if alpha == 0 else not all(same)

    def test_outside_the_window(self):
        model = tiny_models.build().train()
        method = method_of("agm", model, window=[5, 9])
        for method.epoch in (4, 10):
            assert tiny_models.step(method, *tiny_models.batch(model)).measures == {}
        assert method.state["steps"] == 0
