"""OGM-GE, PMR and what they read out: published values, literal references, released bugs."""

from argparse import Namespace
from types import SimpleNamespace

import pytest
import reference_imbalance as literal
import tiny_models
import torch
import torch.nn.functional as F
from balance import accumulate, assert_equal, double, method_of, pair, steps, trainer_of

from mmpareto.data.samples import TensorSplit
from mmpareto.methods import ogm_ge, pmr
from mmpareto.models.fusions.concat import Concat
from mmpareto.models.fusions.mmtm import MMTM
from mmpareto.models.fusions.sum import Sum


@pytest.mark.parametrize(("fusion", "share"), [(Concat, 1), (Sum, 1), (MMTM, 3)])
def test_read_out_parts_make_the_joint_logits(fusion, share):
    """Their sum; of MMTM their mean."""
    encoders = {name: tiny_models.Staged() for name in "abc"}
    model = fusion(encoders, 3).double()
    features = {name: torch.randn(4, 5, dtype=torch.float64) for name in "abc"}
    parts = sum(model.read_out(features).values()) / share
    torch.testing.assert_close(parts, model.joint(features))


class TestOGM:
    @pytest.mark.parametrize(
        ("scores", "alpha", "expected"),
        [
            ((1.7, 0.85), 0.1, (0.802625, 1)),
            ((1.7, 0.85), 0.3, (0.462950, 1)),
            ((1.7, 0.85), 0.8, (0.078331, 1)),
            ((0.85, 1.7), 0.8, (1, 0.078331)),
            ((3, 2, 1), 0.3, (0.462950, 1, 1)),
            ((1.3, 1.3), 0.3, (1, 1)),  # nobody leads
            ((1, 0), 0.8, (0, 1)),
            ((0, 0), 0.8, (1, 1)),
            ((2.5,), 0.8, (1,)),
        ],
    )
    def test_coefficients(self, scores, alpha, expected):
        found = ogm_ge.coefficients(double(*scores), alpha)
        assert found.tolist() == pytest.approx(expected, abs=1e-6)

    @pytest.mark.parametrize("modalities", [2, 3])
    def test_forty_steps_equal_the_reference(self, modalities):
        """Every second step accumulates gradients over three micro-batches."""
        ours, theirs = pair(modalities)
        ours.eval(), theirs.eval()
        settings = {"alpha": 0.4, "without_ge": True, "no_probes": True}
        method, damped = method_of("ogm_ge", ours, **settings), 0
        for step, (inputs, targets) in enumerate(steps(40, ours, theirs)):
            inputs["a"] = inputs["a"] + targets[:, None]  # a leads
            accumulate(method, inputs, targets, parts=3 if step % 2 else 1)
            output = theirs(inputs)
            F.cross_entropy(output.joint, targets).backward()
            scores = literal.ogm_scores(theirs, output.features, targets)
            found = literal.ogm_coefficients(scores, 0.4)
            damped += sum(c < 1 for c in found)
            for c, encoder in zip(found, theirs.encoders.values(), strict=True):
                for p in encoder.parameters():
                    if p.dim() >= 2:  # no convolutions here
                        p.grad *= c
        assert damped >= 40
        assert_equal(ours, theirs)

    @pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
    def test_noise(self, layout):
        """As wide as the entries of the gradient vary: 1.290994 for (1, -1, 2, 0)."""
        gradient = torch.tensor([1.0, -1, 2, 0]).view(1, 2, 2, 1).contiguous(memory_format=layout)
        draws = torch.stack([ogm_ge.noise_of(gradient) for _ in range(8_000)]).flatten(1)
        torch.testing.assert_close(draws.T.cov(), 1.290994**2 * torch.eye(4), rtol=0, atol=0.1)
        assert draws.mean(0).abs().max() < 0.06

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
        assert pmr.distances(z, double(3, 0, 0, 4).view(2, 2)).tolist() == [[3, 4]]
        loss = F.nll_loss(log_p, torch.tensor([0]))
        entropy = -(log_p.exp() * log_p).sum()
        assert loss.item() == pytest.approx(0.006715, abs=1e-6)
        assert entropy.item() == pytest.approx(0.040180, abs=1e-6)
        (loss + entropy).backward()
        assert z.grad.isfinite().all()

    @pytest.mark.parametrize(
        ("scores", "variant", "expected"),
        [
            ((1.8, 1.2), "paper", (0, 0.5)),
            ((1, 3), "paper", (1, 0)),
            ((1, 3, 2), "paper", (1, 0, 0.5)),
            ((2.9, 3), "release", (1, 0)),
            ((0, 0), "paper", (0, 0)),
        ],
    )
    def test_weights(self, scores, variant, expected):
        assert pmr.weights_of(double(*scores), variant).tolist() == pytest.approx(expected)

    @pytest.mark.parametrize(
        ("settings", "epoch", "modalities"),
        [
            ({}, 1, 2),
            ({"variant": "release"}, 1, 3),
            ({"alpha": 2.0, "mu": 0.5}, 10, 3),
            ({}, 11, 2),
        ],
    )
    def test_forty_steps_equal_the_reference(self, settings, epoch, modalities):
        ours, theirs = pair(modalities)
        ours.eval(), theirs.eval()
        method = method_of("pmr", ours, no_probes=True, **{"mu": 0.05, **settings})
        method.epoch, chosen = epoch, method.flags
        prototypes = {name: torch.randn(3, 5, dtype=torch.float64) for name in ours.encoders}
        for name, values in prototypes.items():
            method.state[f"prototypes_{name}"].copy_(values)
        method.state["known"].fill_(True)
        hard = chosen.variant == "release"
        for inputs, targets in steps(40, ours, theirs):
            inputs["a"] = inputs["a"] + targets[:, None]
            tiny_models.step(method, inputs, targets)
            output = theirs(inputs)
            loss = F.cross_entropy(output.joint, targets) + literal.pmr_loss(
                output.features, targets, prototypes, alpha=chosen.alpha, mu=chosen.mu,
                hard=hard, entropy=not hard and epoch <= 10,
            )  # fmt: skip
            loss.backward()
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

    @pytest.mark.parametrize("variant", ["paper", "release"])
    def test_prototypes(self, variant):
        """Class means over a tenth, in evaluation mode, then blended; absent classes: no NaN."""
        model = tiny_models.build().train()
        before = {name: b.clone() for name, b in model.named_buffers()}
        method, split = method_of("pmr", model, variant=variant), self.split([0, 1] * 30)
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
                old = None if variant == "release" and epoch == 1 else expected[name]
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


@pytest.mark.parametrize("name", ["ogm_ge", "pmr", "agm", "greedy", "gblend"])
def test_a_skipped_step_leaves_state_and_statistics(tmp_path, name, monkeypatch):
    trainer = trainer_of(tmp_path / "run", "--method", name, "--limit_batches", 2)
    trainer.train_epoch()
    trainer.epoch += 1
    trainer.method.start_epoch(trainer)
    monkeypatch.setattr(trainer.method, "start_epoch", lambda trainer: None)

    def state():
        tensors = *trainer.model.state_dict().items(), *trainer.method.state.items()
        return {name: value.nan_to_num(-1).clone() for name, value in tensors}

    kept = state()
    split = trainer.data.splits["train"]
    monkeypatch.setitem(split.inputs, "a", torch.full_like(split.inputs["a"], torch.nan))
    steps = trainer.train_epoch()
    assert all(step["skipped"] for step in steps)
    for name, value in state().items():
        assert torch.equal(value, kept[name]), name
