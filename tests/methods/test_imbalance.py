"""The methods that balance modalities: published values, literal references, released bugs."""

from argparse import Namespace
from copy import deepcopy
from math import log
from types import SimpleNamespace

import pytest
import reference_imbalance as literal
import tiny_models
import torch
import torch.nn.functional as F
from torch import nn

from mmpareto.data.samples import Batch, TensorSplit
from mmpareto.methods import METHODS, agm, gblend, greedy, ogm_ge, pmr
from mmpareto.models.fusions.concat import Concat
from mmpareto.models.fusions.mmtm import MMTM
from mmpareto.models.fusions.sum import Sum
from mmpareto.models.predict import mean_losses
from mmpareto.run import options
from mmpareto.run.folder import Run
from train import Trainer

OPTIONS = {
    "no_probes": True, "alpha": 1.0, "window": [1, 99], "without_ge": True, "mu": 0.05,
    "entropy_epochs": 10, "prototype_momentum": 0.2, "variant": "paper", "bn_mode": "running",
    "threshold": 0.01, "balancing_steps": 3, "warmup_epochs": 1,
}  # fmt: skip


def method_of(name, model, **settings):
    return METHODS[name](model, Namespace(**(OPTIONS | settings)))


def trainer_of(folder, *flags, dataset="toy"):
    words = ["--dataset", dataset, "--encoder", "cnn", "--out", str(folder), *map(str, flags)]
    parsed = options.parse(words)
    return Trainer(parsed, Run(parsed.out, options.as_config(parsed), resume=False))


def pair(modalities=2, fusion=Concat):
    """Two equal models and their optimizers."""
    ours = tiny_models.build(fusion, modalities)
    theirs = deepcopy(ours)
    steppers = [torch.optim.SGD(m.parameters(), lr=0.05, momentum=0.9) for m in (ours, theirs)]
    return ours, theirs, steppers


def assert_equal(ours, theirs, close=1e-8):
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=close, atol=close)
    for mine, other in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(mine, other, rtol=close, atol=close)


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


class TestReadOut:
    def test_concat(self):
        """W = [[1,2,3,4],[0,1,0,-1]], b = (.4,-.2), x = (1,-1), y = (2,.5)."""
        one = nn.Identity()
        one.out_dim = 2
        model = Concat({"x": one, "y": deepcopy(one)}, 2)
        weight = torch.tensor([[1.0, 2, 3, 4], [0, 1, 0, -1]])
        model.joint_head.weight.data, model.joint_head.bias.data = weight, torch.tensor([0.4, -0.2])
        features = {"x": torch.tensor([[1.0, -1]]), "y": torch.tensor([[2.0, 0.5]])}
        found = model.read_out(features)
        torch.testing.assert_close(found["x"], torch.tensor([[-0.8, -1.1]]))
        torch.testing.assert_close(found["y"], torch.tensor([[8.2, -0.6]]))
        torch.testing.assert_close(model.joint(features), torch.tensor([[7.4, -1.7]]))

    @pytest.mark.parametrize(("fusion", "share"), [(Concat, 1), (Sum, 1), (MMTM, 3)])
    def test_parts_make_the_joint_logits(self, fusion, share):
        """Their sum; of MMTM their mean."""
        encoders = {name: tiny_models.Staged() for name in "abc"}
        model = fusion(encoders, 3).double()
        features = {name: torch.randn(4, 5, dtype=torch.float64) for name in "abc"}
        parts = sum(model.read_out(features).values()) / share
        torch.testing.assert_close(parts, model.joint(features))


class TestOGM:
    @pytest.mark.parametrize(("alpha", "c"), [(0.1, 0.802625), (0.3, 0.462950), (0.8, 0.078331)])
    def test_two(self, alpha, c):
        found = ogm_ge.coefficients(double(1.7, 0.85), alpha)
        assert found.tolist() == pytest.approx((c, 1), abs=1e-6)
        assert ogm_ge.coefficients(double(0.85, 1.7), alpha).tolist() == found.flip(0).tolist()

    def test_three(self):
        found = ogm_ge.coefficients(double(3, 2, 1), 0.3)
        assert found.tolist() == pytest.approx((0.462950, 1, 1), abs=1e-6)

    def test_equal_scores_damp_nobody(self):
        assert ogm_ge.coefficients(double(1.3, 1.3), 0.3).tolist() == [1, 1]

    def test_a_score_of_zero_and_a_single_modality(self):
        assert ogm_ge.coefficients(double(1, 0), 0.8).tolist() == [0, 1]
        assert ogm_ge.coefficients(double(0, 0), 0.8).tolist() == [1, 1]
        assert ogm_ge.coefficients(double(2.5), 0.8).tolist() == [1]

    @pytest.mark.parametrize("modalities", [2, 3])
    @pytest.mark.parametrize("parts", [1, 3])
    def test_forty_steps_equal_the_reference(self, modalities, parts):
        ours, theirs, steppers = pair(modalities)
        ours.eval(), theirs.eval()
        method, damped = method_of("ogm_ge", ours, alpha=0.4), 0
        for _ in range(40):
            inputs, targets = tiny_models.batch(ours)
            inputs["a"] = inputs["a"] + targets[:, None]  # a leads
            for stepper in steppers:
                stepper.zero_grad()
            for chunk, truth, told in tiny_models.micro_batches(inputs, targets, parts):
                tiny_models.step(method, chunk, truth, **told)
            output = theirs(inputs)
            F.cross_entropy(output.joint, targets).backward()
            scores = literal.ogm_scores(theirs, output.features, targets)
            found = literal.ogm_coefficients(scores, 0.4)
            damped += sum(c < 1 for c in found)
            for c, encoder in zip(found, theirs.encoders.values(), strict=True):
                for p in encoder.parameters():
                    if p.dim() >= 2:  # no convolutions here
                        p.grad *= c
            for stepper in steppers:
                stepper.step()
        assert damped >= 40
        assert_equal(ours, theirs)

    def test_noise(self):
        """As wide as the entries of the gradient vary: 1.290994 for (1, -1, 2, 0)."""
        weight = nn.Parameter(torch.zeros(1, 1, 2, 2))
        weight.grad = torch.tensor([1.0, -1, 2, 0]).view(1, 1, 2, 2)
        draws = torch.stack([ogm_ge.noise_of(weight) for _ in range(25_000)])
        assert draws.std().item() == pytest.approx(1.290994, rel=0.01)
        assert draws.mean().abs() < 0.02

    def test_what_is_modulated(self, tmp_path):
        """The convolutions of all encoders, and nothing else; noise is of the whole gradient."""
        trainer = trainer_of(tmp_path / "run", "--method", "ogm_ge")
        method, model = trainer.method, trainer.model
        inputs, targets = trainer.data.splits["train"].read(list(range(32)))
        method.epoch = 99  # outside the window: the joint loss
        tiny_models.step(method, inputs, targets)
        plain = {name: p.grad.clone() for name, p in model.named_parameters()}
        model.zero_grad()
        method.epoch = 1
        record = tiny_models.step(method, inputs, targets)
        found = [record.measures[f"coefficient_{name}"].item() for name in "ab"]
        assert min(found) < 1 and max(found) == 1
        for name, p in model.named_parameters():
            if p.dim() != 4:
                assert torch.equal(p.grad, plain[name]), name
                continue
            c = found[0] if name.startswith("encoders.a") else found[1]
            noise = p.grad - c * plain[name]
            assert noise.std().item() == pytest.approx(plain[name].std().item(), rel=0.3), name
        assert all(not value.requires_grad for value in record.measures.values())


class TestPMR:
    def test_at_distance_zero(self):
        """z = (0,0), prototypes (0,0) and (3,4): all is known, and the gradient is finite."""
        z = torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
        log_p = (-pmr.distances(z, double(0, 0, 3, 4).view(2, 2))).log_softmax(1)
        assert log_p.exp()[0].tolist() == pytest.approx((0.993307, 0.006693), abs=1e-6)
        loss = F.nll_loss(log_p, torch.tensor([0]))
        entropy = -(log_p.exp() * log_p).sum()
        assert loss.item() == pytest.approx(0.006715, abs=1e-6)
        assert entropy.item() == pytest.approx(0.040180, abs=1e-6)
        (loss + entropy).backward()
        assert z.grad.isfinite().all()

    def test_weights(self):
        assert pmr.weights_of(double(1.8, 1.2), "paper").tolist() == pytest.approx((0, 0.5))
        assert pmr.weights_of(double(1, 3), "paper").tolist() == [1, 0]
        assert pmr.weights_of(double(1, 3, 2), "paper").tolist() == pytest.approx((1, 0, 0.5))
        assert pmr.weights_of(double(2.9, 3), "release").tolist() == [1, 0]
        assert pmr.weights_of(double(0, 0), "paper").tolist() == [0, 0]

    def test_cross_entropy_and_entropy(self):
        """Of distances 3 and 4."""
        log_p = double(-3, -4).log_softmax(0)
        assert -log_p[0].item() == pytest.approx(0.313262, abs=1e-6)
        z, at = double(0, 0).view(1, 2), double(3, 0, 0, 4).view(2, 2)
        assert pmr.distances(z, at).tolist() == [[3, 4]]

    @pytest.mark.parametrize("modalities", [2, 3])
    @pytest.mark.parametrize(
        ("settings", "epoch"),
        [({}, 1), ({"variant": "release"}, 1), ({"alpha": 2.0, "mu": 0.5}, 10), ({}, 11)],
    )
    def test_forty_steps_equal_the_reference(self, modalities, settings, epoch):
        ours, theirs, steppers = pair(modalities)
        ours.eval(), theirs.eval()
        method, chosen = method_of("pmr", ours, **settings), OPTIONS | settings
        method.epoch = epoch
        prototypes = {name: torch.randn(3, 5, dtype=torch.float64) for name in ours.encoders}
        for name, values in prototypes.items():
            method.state[f"prototypes_{name}"].copy_(values)
        method.state["known"].fill_(True)
        hard = chosen["variant"] == "release"
        for _ in range(40):
            inputs, targets = tiny_models.batch(ours)
            inputs["a"] = inputs["a"] + targets[:, None]
            for stepper in steppers:
                stepper.zero_grad()
            tiny_models.step(method, inputs, targets)
            output = theirs(inputs)
            loss = F.cross_entropy(output.joint, targets) + literal.pmr_loss(
                output.features, targets, prototypes, alpha=chosen["alpha"], mu=chosen["mu"],
                hard=hard, entropy=not hard and epoch <= 10,
            )  # fmt: skip
            loss.backward()
            for stepper in steppers:
                stepper.step()
        assert_equal(ours, theirs)

    def trainer(self, split, epoch=0):
        """What start_epoch asks of the training loop; no other split can be read."""
        flags = Namespace(random_seed=3, batch_size=4)
        data = SimpleNamespace(splits={"train": split})
        return SimpleNamespace(data=data, flags=flags, epoch=epoch, device=torch.device("cpu"))

    def split(self, targets):
        targets = torch.tensor(targets)
        inputs = {n: torch.randn(len(targets), tiny_models.SIZE, dtype=torch.float64) for n in "ab"}
        return TensorSplit(inputs, targets)

    def test_prototypes(self):
        """Class means over a tenth, in evaluation mode, then blended; absent classes: no NaN."""
        model = tiny_models.build().train()
        before = {name: b.clone() for name, b in model.named_buffers()}
        method, split = method_of("pmr", model), self.split([0, 1] * 30)
        expected: dict = dict.fromkeys("ab")
        for epoch in range(3):
            method.start_epoch(self.trainer(split, epoch))
            indices = pmr.sample(split, 3, epoch + 1)
            inputs, targets = split.read(indices)
            model.eval()
            with torch.no_grad():
                features = model(inputs).features
            model.train()
            for name in "ab":
                new = literal.class_means(features[name], targets, 3)
                old = expected[name]
                expected[name] = [
                    n if old is None or n is None else 0.2 * o + 0.8 * n
                    for n, o in zip(new, old or new, strict=True)
                ]
                found = method.state[f"prototypes_{name}"]
                for y in range(2):
                    torch.testing.assert_close(found[y], expected[name][y])
                assert found[2].tolist() == [0] * 5
            for p in model.encoders.parameters():
                p.data += 0.1 * torch.randn_like(p)
        assert method.state["known"].tolist() == [True, True, False]
        assert all(torch.equal(b, before[name]) for name, b in model.named_buffers())
        tiny_models.step(method, *split.read([0, 1, 2, 3]))  # class 2 is nowhere in training
        assert all(p.grad.isfinite().all() for p in model.encoders.parameters())
        assert method.state["prototypes_a"].requires_grad is False

    def test_a_class_without_a_prototype_has_no_probability(self):
        model = tiny_models.build()
        method, split = method_of("pmr", model), self.split([0, 1] * 30)
        method.start_epoch(self.trainer(split))
        losses = []
        for far in (0.0, 1000.0):
            method.state["prototypes_a"][2] = far
            inputs, targets = split.read(list(range(12)))
            model.eval()
            losses.append(method.rebalance(model(inputs).features, targets)[0])
        assert losses[0] == losses[1]

    def test_sample(self):
        """A tenth, another one each epoch and seed, and every class whatever its size."""
        split = self.split([0] * 98 + [1, 2])
        found = pmr.sample(split, 0, 1)
        assert 10 <= len(found) <= 12 and {98, 99} <= set(found)
        assert len(set(found)) == len(found)
        assert set(found) != set(pmr.sample(split, 0, 2)) != set(pmr.sample(split, 1, 1))
        assert found == pmr.sample(split, 0, 1)

    def test_the_head_sees_the_joint_loss_only(self):
        model = tiny_models.build().eval()
        method = method_of("pmr", model)
        method.state["known"].fill_(True)
        inputs, targets = tiny_models.batch(model)
        expected = torch.autograd.grad(
            F.cross_entropy(model(inputs).joint, targets), list(model.joint_head.parameters())
        )
        tiny_models.step(method, inputs, targets)
        for p, g in zip(model.joint_head.parameters(), expected, strict=True):
            torch.testing.assert_close(p.grad, g)


class TestAGM:
    def test_two(self):
        """q = (.5, 1), running means (.8, .9): the stronger one takes less."""
        q, mean = double(0.5, 1), double(0.8, 0.9)
        assert agm.discrepancy(q).tolist() == pytest.approx((1.648721, 0.606531), abs=1e-6)
        assert agm.discrepancy(mean).tolist() == pytest.approx((1.105171, 0.904837), abs=1e-6)
        found = agm.modulation(q, mean, 1.0)
        assert found.tolist() == pytest.approx((0.580683, 1.347575), abs=1e-6)

    def test_three(self):
        found = agm.discrepancy(double(0.5, 1, 1.5))
        assert found.tolist() == pytest.approx((2.117000, 1, 0.472367), abs=1e-6)

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
        found = agm.shapley(["a", "v"], double(4, 1), logits.__getitem__)
        assert found["a"].tolist() == [2.5, 0.75] and found["v"].tolist() == [1.5, 0.25]

    @pytest.mark.parametrize("number", [1, 2, 3, 4])
    def test_parts_add_up(self, number):
        """To the joint logits, since the empty coalition counts; as the mean over all orders."""
        names = list("abcd"[:number])
        random = {}

        def logits(coalition):
            return random.setdefault(frozenset(coalition), torch.randn(3, dtype=torch.float64))

        whole = logits(names)
        found = agm.shapley(names, whole, logits)
        torch.testing.assert_close(sum(found.values()), whole)
        expected = literal.shapley(names, lambda s: logits(s) if s else torch.zeros_like(whole))
        for name in names:
            torch.testing.assert_close(found[name], expected[name])

    @pytest.mark.parametrize(
        ("fusion", "modalities"),
        [(Concat, 2), (Concat, 3), (Sum, 2), (tiny_models.Mixing, 2), (tiny_models.Mixing, 3)],
    )
    @pytest.mark.parametrize("parts", [1, 2])
    def test_thirty_steps_equal_the_reference(self, fusion, modalities, parts):
        """All zeroed passes made one by one; also where late fusion takes the short way."""
        ours, theirs, steppers = pair(modalities, fusion)
        ours.train(), theirs.train()
        method, slow = method_of("agm", ours, alpha=0.7), literal.AGM(0.7, modalities)
        clipped = 0
        for step in range(30):
            inputs, targets = tiny_models.batch(ours)
            if step % 5 == 0:
                inputs = {name: 20 * x for name, x in inputs.items()}
            for stepper in steppers:
                stepper.zero_grad()
            total = [torch.zeros_like(p) for p in literal.trained(theirs)]
            for part in range(parts):
                rows = slice(part * 12 // parts, (part + 1) * 12 // parts)
                chunk = {name: x[rows] for name, x in inputs.items()}
                record = tiny_models.step(
                    method, chunk, targets[rows], share=1 / parts, last=part == parts - 1
                )
                found = slow.gradients(theirs, chunk, targets[rows], 1 / parts)
                total = [a + b for a, b in zip(total, found, strict=True)]
                kappas = [k.item() for k in record.measures.values()]
                assert kappas == pytest.approx(slow.kappas, rel=1e-5)
            for p, g in zip(literal.trained(theirs), total, strict=True):
                p.grad = g
            inside = {id(p) for p in theirs.encoders.parameters()}
            heads = [p for p in literal.trained(theirs) if id(p) not in inside and p.dim() > 1]
            if any(p.grad.abs().max() > 1 for p in heads):
                clipped += 1
                nn.utils.clip_grad_norm_(literal.trained(theirs), 1.0)
            for stepper in steppers:
                stepper.step()
        assert clipped < 30
        assert_equal(ours, theirs, 1e-4)  # the state is kept in float32

    def test_clipping(self):
        model = tiny_models.build()
        method = method_of("agm", model)
        inputs, targets = tiny_models.batch(model)
        model.joint_head.weight.data *= 200
        for encoder in model.encoders.values():
            encoder[3].weight.data *= 50
        tiny_models.step(method, inputs, targets)
        norm = torch.stack([p.grad.norm() for p in literal.trained(model)]).norm()
        assert norm.item() == pytest.approx(1, abs=1e-4)

    @pytest.mark.parametrize("bn_mode", ["running", "batch"])
    @pytest.mark.parametrize("fusion", [Concat, tiny_models.Mixing])
    def test_zeroed_passes_leave_no_trace(self, bn_mode, fusion):
        """BatchNorm's running statistics are those of a single plain pass."""
        model = tiny_models.build(fusion, 3)
        plain = deepcopy(model)
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
        model = tiny_models.build(fusion, 3).train()
        inputs, targets = tiny_models.batch(model)
        plain = deepcopy(model)
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
        inputs, targets = tiny_models.batch(model)
        assert tiny_models.step(method, inputs, targets).measures == {}
        assert method.state["steps"] == 0


class TestGreedy:
    def test_conditional_speed(self):
        """Speeds (.02, .05) and (.08, .1): branch 1 leans on the other and loses its gate."""
        found = greedy.conditional_speed(double(0.02, 0.05), double(0.08, 0.1))
        assert found.tolist() == pytest.approx((-0.602060, -0.301030), abs=1e-6)
        assert found.argmax() == 1

    @pytest.mark.parametrize("modalities", [2, 3])
    @pytest.mark.parametrize("parts", [1, 3])
    def test_sixty_steps_equal_the_reference(self, modalities, parts):
        ours = tiny_models.mmtm(modalities)
        theirs = deepcopy(ours)
        steppers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (ours, theirs)]
        method = method_of("greedy", ours, threshold=0.05)
        slow = literal.Greedy(list(ours.encoders), 3, threshold=0.05, steps=3)
        ours.train()
        windows = []
        for step in range(60):
            method.epoch = 1 if step < 5 else 2  # one epoch of warm-up
            inputs, targets = tiny_models.batch(ours)
            inputs["b"] = inputs["b"] / 9 + targets[:, None]
            for stepper in steppers:
                stepper.zero_grad()
            for chunk, truth, told in tiny_models.micro_batches(inputs, targets, parts):
                tiny_models.step(method, chunk, truth, **told)
                features = slow.features(theirs, chunk)
                logits = [theirs.joint_heads[n](z) for n, z in features.items()]
                (sum(F.cross_entropy(u, truth) for u in logits) / parts).backward()
            windows.append(slow.left)
            slow.after_backward(theirs, warm=step >= 5)
            for stepper in steppers:
                stepper.step()
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
        method = method_of("greedy", model, threshold=0.0, warmup_epochs=0)
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

    def test_gates_of_a_window(self):
        """The frozen branch's gates take no gradient; all others do."""
        model = tiny_models.mmtm().train()
        method = method_of("greedy", model)
        model(tiny_models.batch(model)[0])
        method.state["window"].copy_(torch.tensor([2, 1]))
        tiny_models.step(method, *tiny_models.batch(model))
        for exchange in model.exchanges:
            assert exchange.excite["b"].weight.grad is None
            assert exchange.excite["a"].weight.grad.abs().sum() > 0

    def test_the_joint_prediction_is_the_mean(self):
        model = tiny_models.mmtm().eval()
        output = model(tiny_models.batch(model)[0])
        logits = model.read_out(output.features)
        torch.testing.assert_close(output.joint, (logits["a"] + logits["b"]) / 2)


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

    @pytest.mark.parametrize("dataset", ["toy", "toy3"])
    @pytest.mark.parametrize(("own", "at", "length"), [([], 0, 3), (["--super_epoch", 2], 2, 1)])
    def test_weights_are_those_of_separate_trainings(self, tmp_path, dataset, own, at, length):
        """Offline, and online before the third epoch, whose copies go on from where it is."""
        flags = ["--epochs", 3, "--lr_decay_step", 1]
        ours = trainer_of(tmp_path / "a", "--method", "gblend", *own, *flags, dataset=dataset)
        for _ in range(at):
            ours.train_epoch()
            ours.scheduler.step()
            ours.epoch += 1
        model = deepcopy(ours.model.state_dict())
        optimizer = deepcopy(ours.optimizer.state_dict())
        before, after = self.losses(ours), {"train": {}, "val": {}}
        for objective in [*ours.model.encoders, "joint"]:
            method = "joint" if objective == "joint" else "unimodal"
            alone = trainer_of(
                tmp_path / objective, "--method", method, "--no_probes", *flags, dataset=dataset
            )
            alone.model.load_state_dict(model)
            alone.optimizer.load_state_dict(deepcopy(optimizer))
            alone.scheduler.load_state_dict(ours.scheduler.state_dict())
            alone.epoch = at
            for _ in range(length):
                alone.train_epoch()
                alone.scheduler.step()
                alone.epoch += 1
            found = self.losses(alone)
            for split in after:
                after[split][objective] = found[split][objective]
        raw = {}
        for name in before["val"]:
            gain = before["val"][name] - after["val"][name]
            gap = [losses["val"][name] - losses["train"][name] for losses in (before, after)]
            raw[name] = max(float(gain), 0) / float(gap[1] - gap[0]) ** 2
        ours.method.start_epoch(ours)
        names = [*ours.model.encoders, "joint"]
        expected = [raw[name] / sum(raw.values()) for name in names]
        assert ours.method.state["weights"].tolist() == pytest.approx(expected, rel=5e-3)
        assert len({round(value, 3) for value in expected}) > 1
        for name, value in ours.model.state_dict().items():
            assert torch.equal(value, model[name])
        for index, state in ours.optimizer.state_dict()["state"].items():
            assert torch.equal(
                state["momentum_buffer"], optimizer["state"][index]["momentum_buffer"]
            )

    def test_estimates_when_due_only(self, tmp_path, monkeypatch):
        due = []
        monkeypatch.setattr(
            gblend.GBlend, "estimate",
            lambda self, trainer, epochs: due.append((trainer.epoch, epochs)) or torch.ones(3) / 3,
        )  # fmt: skip
        trainer = trainer_of(
            tmp_path / "run", "--method", "gblend", "--super_epoch", 2, "--epochs", 5
        )
        trainer.train()
        assert due == [(0, 2), (2, 2), (4, 1)]

    def test_step(self):
        """Weighted losses in one pass; weights are constants of the given sum."""
        model = tiny_models.build().eval()
        method = METHODS["gblend"](model, Namespace(super_epoch=None, weight_sum=3.0))
        method.estimate = lambda trainer, epochs: torch.tensor([0.5, 0.2, 0.3])
        flags = Namespace(epochs=4)
        method.start_epoch(SimpleNamespace(epoch=0, flags=flags))
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


@pytest.mark.parametrize("name", ["ogm_ge", "pmr", "agm", "greedy", "gblend"])
def test_a_skipped_step_leaves_state_and_statistics(tmp_path, name, monkeypatch):
    trainer = trainer_of(tmp_path / "run", "--method", name, "--limit_batches", 2)
    trainer.train_epoch()
    trainer.epoch += 1
    trainer.method.start_epoch(trainer)
    monkeypatch.setattr(trainer.method, "start_epoch", lambda trainer: None)
    kept = {
        **{f"model {k}": v.clone() for k, v in trainer.model.state_dict().items()},
        **{f"state {k}": v.clone() for k, v in trainer.method.state.items()},
    }
    split = trainer.data.splits["train"]
    monkeypatch.setitem(split.inputs, "a", torch.full_like(split.inputs["a"], torch.nan))
    steps = trainer.train_epoch()
    assert all(step["skipped"] for step in steps)
    now = {
        **{f"model {k}": v for k, v in trainer.model.state_dict().items()},
        **{f"state {k}": v for k, v in trainer.method.state.items()},
    }
    for key, value in kept.items():
        assert torch.equal(now[key].nan_to_num(-1), value.nan_to_num(-1)), key
