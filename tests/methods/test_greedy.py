"""The greedy method and G-Blend: published values, literal references, separate trainings."""

from argparse import Namespace
from copy import deepcopy

import pytest
import reference_imbalance as literal
import tiny_models
import torch
import torch.nn.functional as F
from balance import double, method_of, steps, trainer_of

from mmpareto.data.samples import Batch
from mmpareto.methods import gblend, greedy
from mmpareto.models.predict import mean_losses


class TestGreedy:
    def test_conditional_speed(self):
        """Speeds (.02, .05) and (.08, .1): branch 1 leans on the other and loses its gate."""
        found = greedy.conditional_speed(double(0.02, 0.05), double(0.08, 0.1))
        assert found.tolist() == pytest.approx((-0.602060, -0.301030), abs=1e-6)
        assert found.argmax() == 1

    @pytest.mark.parametrize(("modalities", "count_held"), [(2, False), (3, True)])
    def test_sixty_steps_equal_the_reference(self, modalities, count_held):
        """Every second step accumulates gradients over three micro-batches."""
        ours = tiny_models.mmtm(modalities)
        theirs = deepcopy(ours)
        settings = {"threshold": 0.05, "balancing_steps": 3, "no_probes": True}
        method = method_of("greedy", ours, count_held=count_held, **settings)
        slow = literal.Greedy(list(ours.encoders), 3, 0.05, steps=3, count_held=count_held)
        windows = []
        for step, (inputs, targets) in enumerate(steps(60, ours, theirs, lr=0.1, momentum=0)):
            method.epoch = 1 if step < 5 else 2  # one epoch of warm-up
            inputs["b"] = inputs["b"] / 9 + targets[:, None]
            parts = 3 if step % 2 else 1
            for chunk, truth, told in tiny_models.micro_batches(inputs, targets, parts):
                tiny_models.step(method, chunk, truth, **told)
                features = slow.features(theirs, chunk)
                logits = [theirs.joint_heads[n](z) for n, z in features.items()]
                (sum(F.cross_entropy(u, truth) for u in logits) / parts).backward()
            windows.append(slow.left)
            slow.after_backward(theirs, warm=step >= 5)
            assert method.state["window"][0] == slow.left
        assert not any(windows[:6]) and 5 < sum(left > 0 for left in windows) < 60
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-6)
        for exchange, seen in zip(ours.exchanges, slow.gates, strict=True):
            for name, gates in seen.items():  # each gate its own mean
                expected = sum(gates) / len(gates)
                torch.testing.assert_close(exchange.mean_gate(name), expected, rtol=1e-5, atol=1e-6)

    def test_speeds_are_measured_before_the_step_and_outside_windows(self):
        model = tiny_models.mmtm().train()
        settings = {"threshold": 0.0, "warmup_epochs": 0, "balancing_steps": 3}
        method = method_of("greedy", model, **settings)
        method.epoch = 1
        inputs, targets = tiny_models.batch(model)
        tiny_models.step(method, inputs, targets)
        assert method.state["window"][0] == 3
        before = method.state["main_speed"].clone()
        for left in (2, 1, 0):
            model.zero_grad()
            record = tiny_models.step(method, inputs, targets)
            assert method.state["window"][0] == left and record.measures["window"] == 1
            assert torch.equal(method.state["main_speed"], before)
        model.zero_grad()
        assert tiny_models.step(method, inputs, targets).measures["window"] == 0
        assert (method.state["main_speed"] > before).all()


class TestGBlend:
    # losses of A, V, J: training before and after, validation before and after
    TABLE = (1.8, 1.9, 1.5), (2.0, 2.0, 1.6), (1.0, 1.6, 0.9), (1.5, 1.8, 1.2)

    def test_values(self):
        found = gblend.blend(*(double(*row) for row in self.TABLE))
        assert found.tolist() == pytest.approx((0.15625, 0.5625, 0.28125), abs=1e-6)

    def test_no_generalisation(self):
        """Weight zero, not its absolute value; if nobody generalises all are equal."""
        rows = [double(*row) for row in self.TABLE]
        rows[3][1] = 2.5
        found = gblend.blend(*rows)
        assert found[1] == 0 and found.sum().item() == pytest.approx(1)
        rows[3] = rows[1] + 1
        assert gblend.blend(*rows).tolist() == pytest.approx([1 / 3] * 3)

    def test_no_overfitting_at_all(self):
        found = gblend.blend(double(2, 2), double(2, 2), double(1, 1), double(1, 1.5))
        assert found.isfinite().all() and found[0] > 0.99

    def losses(self, trainer):
        """Means over samples in evaluation mode, one sample after the other."""
        found = {}
        for name in ("train", "val"):
            split, rows = trainer.data.splits[name], []
            for i in range(len(split)):
                inputs, targets = split.read([i])
                with torch.no_grad():
                    joint, unimodal = tiny_models.losses(trainer.model.eval()(inputs), targets)
                rows.append({"joint": joint, **unimodal})
            found[name] = {k: torch.stack([r[k] for r in rows]).mean().double() for k in rows[0]}
        return found

    def trained(self, trainer, epochs):
        for _ in range(epochs):
            trainer.train_epoch()
            trainer.scheduler.step()
            trainer.epoch += 1
        return trainer

    @pytest.mark.parametrize(
        ("dataset", "own", "at", "length"),
        [("toy3", [], 0, 2), ("toy", ["--super_epoch", 1], 1, 1)],
    )
    @pytest.mark.slow
    def test_weights_are_those_of_separate_trainings(self, tmp_path, dataset, own, at, length):
        """Offline, and online before the second epoch, whose copies go on from where it is."""
        flags = ["--epochs", 2, "--lr_decay_step", 1]
        ours = trainer_of(tmp_path / "a", "--method", "gblend", *own, *flags, dataset=dataset)
        self.trained(ours, at)
        model = deepcopy(ours.model.state_dict())
        optimizer = deepcopy(ours.optimizer.state_dict())
        before, after = self.losses(ours), {"train": {}, "val": {}}
        objectives = [*ours.model.encoders, "joint"]
        for objective in objectives:
            method = "joint" if objective == "joint" else "unimodal"
            own = "--method", method, "--no_probes"
            alone = trainer_of(tmp_path / objective, *own, *flags, dataset=dataset)
            alone.model.load_state_dict(model)
            alone.optimizer.load_state_dict(deepcopy(optimizer))
            alone.scheduler.load_state_dict(ours.scheduler.state_dict())
            alone.epoch = at
            found = self.losses(self.trained(alone, length))
            for split in after:
                after[split][objective] = found[split][objective]
        raw = []
        for name in objectives:
            gain = before["val"][name] - after["val"][name]
            gap = [losses["val"][name] - losses["train"][name] for losses in (before, after)]
            raw.append(max(float(gain), 0) / float(gap[1] - gap[0]) ** 2)
        ours.method.start_epoch(ours)
        expected = [value / sum(raw) for value in raw]
        assert ours.method.state["weights"].tolist() == pytest.approx(expected, rel=5e-3)
        assert len({round(value, 3) for value in expected}) > 1
        for name, value in ours.model.state_dict().items():
            assert torch.equal(value, model[name])
        for index, state in ours.optimizer.state_dict()["state"].items():
            before = optimizer["state"][index]["momentum_buffer"]
            assert torch.equal(state["momentum_buffer"], before)

    def test_estimates_when_due_only(self, tmp_path, monkeypatch):
        due = []

        def estimate(self, trainer, epochs):
            due.append((trainer.epoch, epochs))
            return torch.ones(3) / 3

        monkeypatch.setattr(gblend.GBlend, "estimate", estimate)
        flags = "--super_epoch", 2, "--epochs", 5, "--limit_batches", 1
        trainer_of(tmp_path / "run", "--method", "gblend", *flags).train()
        assert due == [(0, 2), (2, 2), (4, 1)]

    def test_step(self):
        """Weighted losses in one pass; weights are constants of the given sum."""
        model = tiny_models.build().eval()
        method = method_of("gblend", model, weight_sum=3.0)
        method.estimate = lambda trainer, epochs: torch.tensor([0.5, 0.2, 0.3])
        method.start_epoch(Namespace(epoch=0, flags=Namespace(epochs=4)))
        inputs, targets = tiny_models.batch(model)
        joint, unimodal = tiny_models.losses(model(inputs), targets)
        loss = 3 * (0.5 * unimodal["a"] + 0.2 * unimodal["b"] + 0.3 * joint)
        expected = torch.autograd.grad(loss, list(model.parameters()))
        record = tiny_models.step(method, inputs, targets)
        for p, g in zip(model.parameters(), expected, strict=True):
            torch.testing.assert_close(p.grad, g, rtol=1e-6, atol=1e-8)
        assert record.loss.item() == pytest.approx(loss.item())

    def test_losses_are_means(self, tmp_path):
        """Twice the samples, and batches of another size, change nothing."""
        trainer = trainer_of(tmp_path / "run", "--method", "gblend")
        split = trainer.data.splits["val"]
        found = []
        for indices, size in ((range(40), 16), (list(range(40)) * 2, 7)):
            part = split.subset(indices)
            batches = [Batch(*part.read(list(range(i, min(i + size, len(part))))))
                       for i in range(0, len(part), size)]  # fmt: skip
            found.append(mean_losses(trainer.model, batches, trainer.device))
        assert found[0] == pytest.approx(found[1], rel=1e-5)
