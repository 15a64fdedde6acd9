"""Weights of whole losses (uw, dwa, rlw): literal references, values computed by hand."""

import math
from types import SimpleNamespace

import pytest
import tiny_models
import torch
from balance import accumulate, assert_equal, double, method_of, pair, steps, trainer_of


def still(modalities):
    """Two equal models whose BatchNorm treats a batch and its parts alike."""
    ours, theirs = pair(modalities)
    return ours.eval(), theirs.eval()


def backward(model, inputs, targets, weights):
    """The backward pass of the weighted losses; returns the losses."""
    joint, unimodal = tiny_models.losses(model(inputs), targets)
    losses = [joint, *unimodal.values()]
    sum(w * loss for w, loss in zip(weights, losses, strict=True)).backward()
    return [loss.item() for loss in losses]


class TestLosses:
    """Every second step accumulates gradients over three micro-batches."""

    @pytest.mark.parametrize(("modalities", "penalty"), [(2, 0.5), (3, 1.0)])
    def test_uw(self, modalities, penalty):
        """Each s moves by hand, with momentum and weight decay."""
        ours, theirs = still(modalities)
        method = method_of("uw", ours, penalty=penalty)
        optimizer = torch.optim.SGD(method.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
        s, speed = [0.0] * (modalities + 1), [0.0] * (modalities + 1)
        for step, (inputs, targets) in enumerate(steps(20, ours, theirs)):
            optimizer.zero_grad()
            accumulate(method, inputs, targets, parts=3 if step % 2 else 1)
            optimizer.step()
            weights = [math.exp(-x) for x in s]
            losses = backward(theirs, inputs, targets, weights)
            for i, (w, loss) in enumerate(zip(weights, losses, strict=True)):
                speed[i] = 0.9 * speed[i] + penalty - w * loss + 0.1 * s[i]
                s[i] -= 0.1 * speed[i]
        assert_equal(ours, theirs, 1e-9)
        assert method.state["s"].tolist() == pytest.approx(s, abs=1e-9)

    def test_uw_s_loss(self):
        """Its loss has the terms in s: 0.5 (ln 2 - ln 4 + 0) with weights 1/2, 4 and 1."""
        model = tiny_models.build()
        method = method_of("uw", model)
        method.state["s"].copy_(double(2, 0.25, 1).log())
        decision = tiny_models.step(method, *tiny_models.batch(model))
        joint, a, b = (x.item() for x in decision.losses.values())
        expected = joint / 2 + 4 * a + b - 0.5 * math.log(2)
        assert decision.loss.item() == pytest.approx(expected, abs=1e-12)

    @pytest.mark.parametrize("modalities", [2, 3])
    def test_dwa(self, modalities):
        """Five epochs of five steps."""
        ours, theirs = still(modalities)
        method, number, means = method_of("dwa", ours, temperature=0.5), modalities + 1, []
        for step, (inputs, targets) in enumerate(steps(25, ours, theirs)):
            if step % 5 == 0:
                method.start_epoch(SimpleNamespace(epoch=step // 5))
                weights, seen = [1.0] * number, []
                if step >= 10:
                    grown = [math.exp(x / y / 0.5) for x, y in zip(*means[:-3:-1], strict=True)]
                    weights = [number * x / sum(grown) for x in grown]
                    assert max(weights) - min(weights) > 0.01
            accumulate(method, inputs, targets, parts=3 if step % 2 else 1)
            seen.append(backward(theirs, inputs, targets, weights))
            if step % 5 == 4:
                means.append([sum(column) / 5 for column in zip(*seen, strict=True)])
        assert_equal(ours, theirs, 1e-9)

    @pytest.mark.parametrize(
        ("last", "before", "weights"),
        [
            ((1, 2, 3), (2, 2, 2), (0.762826, 0.979488, 1.257687)),  # of exp(1/4, 1/2, 3/4)
            ((1, 1, 1), (0, 1, 1), (1, 1, 1)),
            ((0, 1, 1), (0, 1, 1), (1, 1, 1)),
        ],
    )
    def test_dwa_weights(self, last, before, weights):
        method = method_of("dwa")
        method.lasting["means"].copy_(torch.stack([double(*last), double(*before)]))
        assert method.weights().tolist() == pytest.approx(weights, abs=1e-6)

    @pytest.mark.parametrize(("modalities", "weight_sum"), [(2, 1.0), (3, 4.0)])
    def test_rlw(self, modalities, weight_sum):
        """One draw a step, whatever the number of micro-batches."""
        ours, theirs = still(modalities)
        method, drawn = method_of("rlw", ours, weight_sum=weight_sum), set()
        for step, (inputs, targets) in enumerate(steps(20, ours, theirs)):
            before = torch.get_rng_state()
            grown = [math.exp(z) for z in torch.randn(modalities + 1, dtype=torch.float64)]
            torch.set_rng_state(before)
            accumulate(method, inputs, targets, parts=3 if step % 2 else 1)
            weights = [weight_sum * x / sum(grown) for x in grown]
            backward(theirs, inputs, targets, weights)
            drawn.add(weights[0])
        assert_equal(ours, theirs, 1e-9)
        assert len(drawn) == 20

    @pytest.mark.parametrize("name", ["uw", "dwa", "rlw"])
    def test_tasks(self, tmp_path, name):
        """Two losses, called by their tasks."""
        trainer = trainer_of(tmp_path / "run", "--method", name, "--limit_batches", 1,
                             dataset="toy_tasks")  # fmt: skip
        (step,) = trainer.train_epoch()
        assert step["measures"].keys() == {f"weight_{task}" for task in trainer.data.tasks}
