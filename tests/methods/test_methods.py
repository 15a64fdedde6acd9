"""Every method: what it trains, what it leaves alone, and that it does what its name says."""

from argparse import Namespace

import pytest
import reference
import tiny_models
import torch
import torch.nn.functional as F
from torch import nn

from mmpareto import MMPareto
from mmpareto.core import integrate
from mmpareto.core.integrator import Integrator
from mmpareto.methods import METHODS
from mmpareto.methods.base import Method
from mmpareto.models.fusions import FUSIONS
from mmpareto.models.fusions.sum import Sum
from mmpareto.run import options
from mmpareto.run.folder import Run
from mmpareto.system.errors import UserError
from train import Trainer

PAIRS = [
    (method, fusion, dataset)
    for method in METHODS for fusion in FUSIONS if METHODS[method].runs_with(FUSIONS[fusion])
    for dataset in (["toy_tasks"] if FUSIONS[fusion].multitask else ["toy", "toy3"])
]  # fmt: skip
OPTIONS = {
    "no_probes": False, "scale": 1, "gamma": 1.5, "granularity": "encoder",
    "gramian": "parameters", "observe": False, "accumulate": 1,
}  # fmt: skip


def method_of(name, model, **settings):
    return METHODS[name](model, Namespace(**(OPTIONS | settings)))


def gradients(module):
    return [p.grad for p in module.parameters()]


def trainer_of(tmp_path, *flags):
    flags = options.parse(["--encoder", "cnn", *flags, "--out", str(tmp_path / "run")])
    return Trainer(flags, Run(flags.out, options.as_config(flags), resume=False))


@pytest.mark.parametrize(("method", "fusion", "dataset"), PAIRS)
def test_three_steps(tmp_path, method, fusion, dataset):
    """Finite, and every encoder and head moves (probes train the heads nobody else does)."""
    trainer = trainer_of(
        tmp_path, "--dataset", dataset, "--method", method, "--fusion", fusion,
        "--limit_batches", "3", "--encoder", FUSIONS[fusion].default_encoder or "cnn",
    )  # fmt: skip
    before = {name: p.clone() for name, p in trainer.model.named_parameters()}
    steps = trainer.train_epoch()
    assert len(steps) == 3 and not any(step["skipped"] for step in steps)
    for name, param in trainer.model.named_parameters():
        assert param.isfinite().all()
        assert not torch.equal(param, before[name]), name


@pytest.mark.parametrize("method", list(METHODS))
def test_the_loss_falls(tmp_path, method):
    trainer = trainer_of(tmp_path, "--dataset", "toy", "--method", method)
    losses = []
    for _ in range(4):
        losses += [step["loss"] for step in trainer.train_epoch()]
        trainer.epoch += 1
    assert sum(losses[-6:]) < 0.5 * sum(losses[:6])


def test_an_invalid_pair_is_one_clear_error(monkeypatch):
    monkeypatch.setattr(FUSIONS, "parts", FUSIONS.parts | {"mixing": tiny_models.Mixing})
    for method, fusion, choice in (
        ("unimodal", "mixing", "concat, sum"),
        ("gblend", "mmtm", "concat, sum"),
        ("greedy", "concat", "mmtm"),
    ):
        message = f"{method} does not run with --fusion {fusion} on cgdigits: choose {choice}"
        with pytest.raises(UserError, match=message):
            options.parse(["--method", method, "--fusion", fusion])
    assert options.parse(["--method", "mmpareto", "--fusion", "mixing"]).fusion == "mixing"


class TestScalars:
    """z = theta x with theta 1, x 2; heads 1 and -1; loss (out - y)^2 / 2 with y 1."""

    def losses(self):
        model = nn.ModuleDict({k: nn.Linear(1, 1, bias=False) for k in ("encoder", "joint", "own")})
        for name, value in (("encoder", 1.0), ("joint", 1.0), ("own", -1.0)):
            nn.init.constant_(model[name].weight, value)
        z = model["encoder"](torch.tensor([[2.0]]))
        joint, own = (0.5 * (model[head](z) - 1).square().sum() for head in ("joint", "own"))
        return model, joint, own

    def test_uniform(self):
        model, joint, own = self.losses()
        Integrator(model, {"x": model["encoder"]}, integrate.uniform_rule).backward(
            joint, {"x": own}
        )
        assert [p.grad.item() for p in model.parameters()] == [8, 2, -6]

    def test_mmpareto_multiplies_encoders_only(self):
        model, joint, own = self.losses()
        MMPareto(model, {"x": model["encoder"]}).backward(joint, {"x": own})
        assert [p.grad.item() for p in model.parameters()] == [12, 2, -6]


class TestJoint:
    def test_without_probes_unimodal_heads_stay(self):
        model = tiny_models.build()
        method = method_of("joint", model, no_probes=True)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
        heads = [p.clone() for p in model.unimodal_heads.parameters()]
        record = tiny_models.step(method, *tiny_models.batch(model))
        optimizer.step()
        assert all(g is None for g in gradients(model.unimodal_heads))
        assert all(
            torch.equal(a, b) for a, b in zip(heads, model.unimodal_heads.parameters(), strict=True)
        )
        assert list(record.losses) == ["joint"]

    @pytest.mark.parametrize("clip", [[], ["--clip_grad", "0.1"]])
    def test_probes_change_nothing_else(self, tmp_path, clip):
        """To the last bit, over an epoch, also where gradients are clipped."""
        trained = []
        for extra in ([], ["--no_probes"]):
            trainer = trainer_of(tmp_path, "--dataset", "toy", "--method", "joint", *clip, *extra)
            trainer.train_epoch()
            trained.append(trainer.model)
        for part in ("encoders", "joint_head"):
            pairs = zip(*(getattr(m, part).state_dict().values() for m in trained), strict=True)
            assert all(torch.equal(a, b) for a, b in pairs)
        heads = [m.unimodal_heads["a"].weight for m in trained]
        assert not torch.equal(*heads)

    def test_is_plain_backward_of_the_joint_loss(self):
        model = tiny_models.build(Sum, 3)
        inputs, targets = tiny_models.batch(model)
        expected = torch.autograd.grad(
            F.cross_entropy(model(inputs).joint, targets), list(model.encoders.parameters())
        )
        tiny_models.step(method_of("joint", model), inputs, targets)
        assert all(map(torch.equal, gradients(model.encoders), expected))


class TestUnimodal:
    @pytest.mark.parametrize("clip", [[], ["--clip_grad", "0.1"]])
    def test_equals_separate_trainings(self, tmp_path, clip):
        flags = ["--dataset", "toy", "--method", "unimodal", *clip]
        together = trainer_of(tmp_path, *flags)
        alone = trainer_of(tmp_path, *flags)
        original = alone.method.backward

        def backward(decision, **settings):
            """The same step, but b's own gradients are thrown away."""
            record = original(decision, **settings)
            for part in (alone.model.encoders["b"], alone.model.unimodal_heads["b"]):
                part.zero_grad()
            return record

        alone.method.backward = backward
        together.train_epoch()
        alone.train_epoch()
        for part in ("encoders", "unimodal_heads"):
            pairs = zip(
                getattr(together.model, part)["a"].parameters(),
                getattr(alone.model, part)["a"].parameters(),
                strict=True,
            )
            assert all(torch.equal(a, b) for a, b in pairs)

    def test_encoders_see_their_own_loss_only(self):
        model = tiny_models.build()
        inputs, targets = tiny_models.batch(model)
        loss = F.cross_entropy(model(inputs).unimodal["a"], targets)
        expected = torch.autograd.grad(loss, list(model.encoders["a"].parameters()))
        tiny_models.step(method_of("unimodal", model), inputs, targets)
        assert all(map(torch.equal, gradients(model.encoders["a"]), expected))


@pytest.mark.parametrize(
    ("name", "settings", "rule"),
    [
        ("uniform", {"gamma": 1}, lambda j, g: [x + y for x, y in zip(j, g, strict=True)]),
        ("pareto", {"scale": 1}, lambda j, g: reference.pareto(j, g, 1)),
        ("pareto", {"scale": 2}, lambda j, g: reference.pareto(j, g, 2)),
        ("mmpareto", {"gamma": 2.5}, lambda j, g: reference.mmpareto(j, g, 2.5, "encoder")),
        (
            "mmpareto",
            {"granularity": "tensor"},
            lambda j, g: reference.mmpareto(j, g, 1.5, "tensor"),
        ),
    ],
)
@pytest.mark.parametrize("parts", [1, 3])
def test_thirty_steps_equal_the_reference(name, settings, rule, parts):
    """Also with gradients accumulated over three micro-batches."""
    ours, theirs = tiny_models.build(modalities=3).eval(), tiny_models.build(modalities=3).eval()
    theirs.load_state_dict(ours.state_dict())
    method = method_of(name, ours, **settings)
    steppers = [torch.optim.SGD(m.parameters(), lr=0.05, momentum=0.9) for m in (ours, theirs)]
    for _ in range(30):
        inputs, targets = tiny_models.batch(ours)
        for stepper in steppers:
            stepper.zero_grad()
        for chunk, truth, told in tiny_models.micro_batches(inputs, targets, parts):
            tiny_models.step(method, chunk, truth, **told)
        joint, unimodal = tiny_models.losses(theirs(inputs), targets)
        reference.backward(theirs, dict(theirs.encoders), joint, unimodal, rule)
        for stepper in steppers:
            stepper.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-8)


class TestObserve:
    """The uniform baseline with its gradients looked at."""

    def trained(self, folder, *flags):
        trainer = trainer_of(folder, "--dataset", "toy", "--method", "uniform", *flags)
        return trainer.model.state_dict(), trainer.train_epoch()

    @pytest.mark.parametrize("fusion", ["concat", "mmtm"])
    def test_it_trains_the_same_weights(self, tmp_path, fusion):
        plain, steps = self.trained(tmp_path, "--fusion", fusion)
        seen, observed = self.trained(tmp_path, "--fusion", fusion, "--observe")
        assert all(torch.equal(plain[name], seen[name]) for name in plain)
        for step, other in zip(steps, observed, strict=True):
            encoders = other.pop("encoders")
            assert other == step
            for stats in encoders.values():
                assert (stats["joint_weight"], stats["unimodal_weight"]) == (1, 1)
                assert stats["scale"] == pytest.approx(1)

    @pytest.mark.parametrize("fusion", [FUSIONS["concat"], tiny_models.Mixing])
    def test_numbers_are_those_of_plain_gradients(self, fusion):
        model = tiny_models.build(fusion, modalities=3)
        inputs, targets = tiny_models.batch(model)
        record = tiny_models.step(method_of("uniform", model, observe=True), inputs, targets)
        joint, unimodal = tiny_models.losses(model.train()(inputs), targets)
        for name, encoder in model.encoders.items():
            j, g = (
                reference.flat(torch.autograd.grad(loss, encoder.parameters(), retain_graph=True))
                for loss in (joint, unimodal[name])
            )
            stats = record.encoders[name]
            assert stats.cos.item() == pytest.approx(F.cosine_similarity(j, g, dim=0).item())
            assert stats.joint_norm.item() == pytest.approx(j.norm().item())
            assert stats.unimodal_norm.item() == pytest.approx(g.norm().item())

    def test_identical_losses(self):
        model = tiny_models.build()
        inputs, targets = tiny_models.batch(model)
        joint, _ = tiny_models.losses(model(inputs), targets)
        integrator = Integrator(model, model.encoders, integrate.uniform_rule, late=False)
        for j, g in integrator.observe(joint, dict.fromkeys(model.encoders, joint)).values():
            assert abs(integrate.uniform_rule(j, g)[1].cos.item() - 1) < 1e-6
        assert all(g is None for g in gradients(model))
        joint.backward()  # the graph is still there

    def test_what_cannot_be_observed(self, tmp_path):
        with pytest.raises(UserError, match="drop --accumulate 2, or drop --observe"):
            self.trained(tmp_path, "--observe", "--accumulate", "2")
        tasks = ["--dataset", "toy_tasks", "--method", "uniform", "--observe"]
        with pytest.raises(UserError, match="--fusion separate no encoder has two losses"):
            trainer_of(tmp_path, *tasks, "--fusion", "separate")
        record = trainer_of(tmp_path, *tasks).train_epoch()[0]
        assert record["encoders"].keys() == {"shared"}


def test_no_method_replaces_the_base_class_s_backward():
    """It alone knows of accumulation and of other processes."""
    with pytest.raises(TypeError, match="Forgetful replaces backward"):
        type("Forgetful", (Method,), {"backward": lambda self, inputs, targets: None})
