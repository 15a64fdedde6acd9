"""Every method: what it trains, what it leaves alone, and that it does what its name says."""

import pytest
import reference
import tiny_models
import torch
import torch.nn.functional as F
from balance import cases, method_of, trainer_of
from torch import nn

from mmpareto import MMPareto
from mmpareto.core import integrate
from mmpareto.core.integrator import Integrator
from mmpareto.methods import METHODS
from mmpareto.methods.base import Method
from mmpareto.models.fusions import FUSIONS
from mmpareto.models.fusions.growing import Head
from mmpareto.models.fusions.sum import Sum
from mmpareto.run import options
from mmpareto.system.errors import UserError

DEFAULTS = [(method, METHODS[method].default_fusion) for method in METHODS]
PAIRS = [
    (method, fusion)
    for method in METHODS for fusion in FUSIONS if METHODS[method].runs_with(FUSIONS[fusion])
]  # fmt: skip
THREE = [
    *DEFAULTS, *(("mmpareto", f) for m, f in PAIRS if m == "mmpareto" and not FUSIONS[f].multitask)
]  # fmt: skip


def gradients(module):
    return [p.grad for p in module.parameters()]


def same(first, second):
    """Whether two lists of tensors are equal to the last bit."""
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def check_moved(trainer, before):
    """Finite, and every encoder and head moves (probes train the heads nobody else does)."""
    heads = trainer.model.unimodal_heads.named_modules(prefix="unimodal_heads")
    idle = {  # layers that --fusion growing does not use yet
        f"{place}.layers.{number}.{kind}"
        for place, head in heads if isinstance(head, Head)
        for number in range(head.count, len(head.layers)) for kind in ("weight", "bias")
    }  # fmt: skip
    for name, param in trainer.model.named_parameters():
        assert param.isfinite().all()
        assert torch.equal(param, before[name]) == (name in idle), name


def parameters(trainer):
    return {name: p.clone() for name, p in trainer.model.named_parameters()}


@pytest.mark.parametrize(
    ("method", "fusion", "dataset"),
    cases(
        *((m, f, "toy_tasks" if FUSIONS[f].multitask else "toy") for m, f in PAIRS
          if (m, f) not in DEFAULTS),
        *((m, f, "toy3") for m, f in dict.fromkeys(THREE) if m != "aug"),  # it compares two
    ),
)  # fmt: skip
def test_two_steps(tmp_path, method, fusion, dataset):
    encoder = FUSIONS[fusion].default_encoder or "cnn"
    own = {"reconboost": ["--stage_epochs", 0]}  # else one modality would train alone
    flags = "--method", method, "--fusion", fusion, "--limit_batches", 2
    trainer = trainer_of(
        tmp_path / "run", *flags, *own.get(method, []), dataset=dataset, encoder=encoder
    )
    before = parameters(trainer)
    steps = trainer.train_epoch()
    assert len(steps) == 2 * trainer.method.turns and not any(step["skipped"] for step in steps)
    check_moved(trainer, before)


@pytest.mark.parametrize("method", cases(*zip(METHODS)))
def test_the_loss_falls(tmp_path, method):
    # a batch of aug is two steps, with up to three losses each; mbsd's distances grow with logits
    own = {name: ["--learning_rate", 0.02] for name in ("aug", "mbsd")}
    trainer = trainer_of(tmp_path / "run", "--method", method, *own.get(method, []))
    before, losses = parameters(trainer), []
    for _ in range(4):
        steps = trainer.train_epoch()
        assert not any(step["skipped"] for step in steps)
        losses += [step["loss"] for step in steps]
        trainer.epoch += 1
    assert sum(losses[-6:]) < 0.5 * sum(losses[:6])
    check_moved(trainer, before)


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


@pytest.mark.parametrize(
    ("integrator", "expected"),
    [
        (lambda *parts: Integrator(*parts, integrate.uniform_rule), [8, 2, -6]),
        (MMPareto, [12, 2, -6]),  # multiplies encoders only
    ],
)
def test_scalars(integrator, expected):
    """z = theta x with theta 1, x 2; heads 1 and -1; loss (out - y)^2 / 2 with y 1."""
    model = nn.ModuleDict({k: nn.Linear(1, 1, bias=False) for k in ("encoder", "joint", "own")})
    for name, value in (("encoder", 1.0), ("joint", 1.0), ("own", -1.0)):
        nn.init.constant_(model[name].weight, value)
    z = model["encoder"](torch.tensor([[2.0]]))
    joint, own = (0.5 * (model[head](z) - 1).square().sum() for head in ("joint", "own"))
    integrator(model, {"x": model["encoder"]}).backward(joint, {"x": own})
    assert [p.grad.item() for p in model.parameters()] == expected


class TestJoint:
    def test_without_probes_unimodal_heads_stay(self):
        model = tiny_models.build()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
        heads = [p.clone() for p in model.unimodal_heads.parameters()]
        method = method_of("joint", model, no_probes=True)
        record = tiny_models.step(method, *tiny_models.batch(model))
        optimizer.step()
        assert all(g is None for g in gradients(model.unimodal_heads))
        assert same(heads, model.unimodal_heads.parameters())
        assert list(record.losses) == ["joint"]

    @pytest.mark.parametrize("clip", [[], ["--clip_grad", "0.1"]])
    def test_probes_change_nothing_else(self, tmp_path, clip):
        """To the last bit, over an epoch, also where gradients are clipped."""
        trained = []
        for extra in ([], ["--no_probes"]):
            trainer = trainer_of(tmp_path / "run", "--method", "joint", *clip, *extra)
            trainer.train_epoch()
            trained.append(trainer.model)
        for part in ("encoders", "joint_head"):
            assert same(*(getattr(model, part).state_dict().values() for model in trained))
        assert not torch.equal(*(model.unimodal_heads["a"].weight for model in trained))

    def test_is_plain_backward_of_the_joint_loss(self):
        model = tiny_models.build(Sum, 3)
        inputs, targets = tiny_models.batch(model)
        loss = F.cross_entropy(model(inputs).joint, targets)
        expected = torch.autograd.grad(loss, list(model.encoders.parameters()))
        tiny_models.step(method_of("joint", model), inputs, targets)
        assert same(gradients(model.encoders), expected)


class TestUnimodal:
    @pytest.mark.parametrize("clip", [[], ["--clip_grad", "0.1"]])
    def test_equals_separate_trainings(self, tmp_path, clip):
        together, alone = (
            trainer_of(tmp_path / "run", "--method", "unimodal", *clip) for _ in range(2)
        )
        original = alone.method.backward

        def backward(decision, **settings):
            """The same step, but b's own gradients are thrown away."""
            record = original(decision, **settings)
            for part in (alone.model.encoders["b"], alone.model.unimodal_heads["b"]):
                part.zero_grad()
            return record

        alone.method.backward = backward
        for trainer in (together, alone):
            trainer.train_epoch()
        for part in ("encoders", "unimodal_heads"):
            assert same(*(getattr(t.model, part)["a"].parameters() for t in (together, alone)))

    def test_encoders_see_their_own_loss_only(self):
        model = tiny_models.build()
        inputs, targets = tiny_models.batch(model)
        loss = F.cross_entropy(model(inputs).unimodal["a"], targets)
        expected = torch.autograd.grad(loss, list(model.encoders["a"].parameters()))
        tiny_models.step(method_of("unimodal", model), inputs, targets)
        assert same(gradients(model.encoders["a"]), expected)


class TestObserve:
    """The uniform baseline with its gradients looked at."""

    def trainer(self, folder, *flags, **settings):
        return trainer_of(folder / "run", "--method", "uniform", *flags, **settings)

    @pytest.mark.parametrize("fusion", ["concat", "mmtm"])
    def test_it_trains_the_same_weights(self, tmp_path, fusion):
        plain, seen = (
            self.trainer(tmp_path, "--fusion", fusion, *more) for more in ([], ["--observe"])
        )
        for step, other in zip(plain.train_epoch(), seen.train_epoch(), strict=True):
            encoders = other.pop("encoders")
            assert other == step
            for stats in encoders.values():
                assert (stats["joint_weight"], stats["unimodal_weight"]) == (1, 1)
                assert stats["scale"] == pytest.approx(1) and type(stats["conflict"]) is bool
        assert same(plain.model.state_dict().values(), seen.model.state_dict().values())

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
            self.trainer(tmp_path, "--observe", "--accumulate", "2")
        with pytest.raises(UserError, match="--fusion separate no encoder has two losses"):
            self.trainer(tmp_path, "--observe", "--fusion", "separate", dataset="toy_tasks")
        record = self.trainer(tmp_path, "--observe", dataset="toy_tasks").train_epoch()[0]
        assert record["encoders"].keys() == {"shared"}


def test_no_method_replaces_the_base_class_s_backward():
    """It alone knows of accumulation and of other processes."""
    with pytest.raises(TypeError, match="Forgetful replaces backward"):
        type("Forgetful", (Method,), {"backward": lambda self, inputs, targets: None})
