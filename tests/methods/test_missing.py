"""Training on samples that lack modalities: literal references, sample by sample."""

from functools import partial
from types import SimpleNamespace

import pytest
import tiny_models
import torch
from balance import assert_equal, cases, method_of, pair

from mmpareto.data.batches import shared_out
from mmpareto.data.samples import Batch, Present
from mmpareto.methods import METHODS
from mmpareto.models.fusions import FUSIONS
from mmpareto.models.fusions.concat import Concat
from mmpareto.models.fusions.cosine import Cosine
from mmpareto.models.fusions.sum import Mean, Sum

SIZE = 12
FLAGS = {"torchjd": {"aggregator": "GradDrop"}}


def table(step, modalities):
    """Who has what, bool (SIZE, modalities): at times nobody has the first, or one alone has."""
    generator = torch.Generator().manual_seed(step)
    found = torch.rand(SIZE, modalities, generator=generator) < 0.6
    found[:, -1] |= ~found.any(1)
    if step % 5 == 3:
        found[:, 0], found[:, -1] = False, True
    if step % 5 == 4:
        found[:, 0], found[:, -1] = torch.arange(SIZE) == 7, True
    return found


def logits_of(model, features):
    """The joint logits (C,) of one sample, from the features {modality: (D,)} that it has."""
    if isinstance(model, Concat):
        parts = model.joint_head.weight.split(5, dim=1)
        weight = dict(zip(model.encoders, parts, strict=True))
        return sum(weight[k] @ z for k, z in features.items()) + model.joint_head.bias
    if isinstance(model, Cosine):
        parts = model.joint_head.weight.split(5, dim=1)
        weight = dict(zip(model.encoders, parts, strict=True))
        return 10 * sum(
            (weight[k] / weight[k].norm(dim=1, keepdim=True)) @ (z / z.norm())
            for k, z in features.items()
        )
    whole = sum(model.joint_heads[k](z) for k, z in features.items())
    return whole / len(features) if isinstance(model, Mean) else whole


def told(model, inputs, targets, present):
    """What a method asks of an output, with losses that are computed in a loop."""
    having, own, z = {}, {}, [{} for _ in targets]
    nothing = 0
    for k, name in enumerate(model.encoders):
        having[name] = rows = [b for b in range(len(targets)) if present[b, k]]
        if not rows:  # the modality's parameters have a gradient of zero
            parts = [part for key, part in model.named_parameters() if f".{name}." in key]
            own[name] = 0 * sum(p.sum() for p in parts)
            nothing = nothing + own[name]
            continue
        twice = rows * 2 if len(rows) == 1 else rows
        found = model.encoders[name](torch.stack([inputs[name][b] for b in twice]))
        losses = []
        for b, x in zip(rows, found, strict=False):
            z[b][name] = x
            losses.append(-model.unimodal_heads[name](x).log_softmax(0)[targets[b]])
        own[name] = sum(losses) / len(losses)
    every = [-logits_of(model, z[b]).log_softmax(0)[y] for b, y in enumerate(targets)]
    joint = sum(every) / len(every) + nothing
    return SimpleNamespace(
        features={}, losses=lambda _: {"joint": joint, **own}, joint_loss=lambda _: joint,
        unimodal_losses=lambda _: own,
    )  # fmt: skip


ABLE = [(name,) for name, method in METHODS.items() if method.masks]


def fitting(name, fusion):
    return Cosine if name == "mmcosine" else fusion


@pytest.mark.parametrize("name", cases(*ABLE))
def test_twenty_steps_equal_the_reference(name):
    """Weights, running statistics and the method's own state, in three modalities."""
    twenty_steps(name, Concat)


@pytest.mark.parametrize("fusion", [Sum, Mean, Cosine])
def test_fusions(fusion):
    twenty_steps("mmpareto", fusion)


def twenty_steps(name, fusion):
    settings = {"no_probes": True, **FLAGS.get(name, {})}
    models = pair(3, fitting(name, fusion))
    methods = [method_of(name, model, **settings) for model in models]
    if name == "gblend":
        for method in methods:
            method.state["weights"].copy_(torch.tensor([0.2, 0.3, 0.4, 0.5]))
    optimizers = [
        torch.optim.SGD([*model.parameters(), *method.parameters()], lr=0.05, momentum=0.9)
        for model, method in zip(models, methods, strict=True)
    ]
    for step in range(20):
        inputs, targets = tiny_models.batch(models[0], SIZE)
        there = table(step, 3)
        batch = Batch(inputs, targets, Present.of(there, inputs))
        for method, optimizer in zip(methods, optimizers, strict=True):
            if step % 7 == 0 and name != "gblend":
                method.start_epoch(SimpleNamespace(epoch=step // 7))
            torch.manual_seed(step)
            is_ours = method is methods[0]
            output = method.forward(batch) if is_ours else told(method.model, *batch[:2], there)
            optimizer.zero_grad()
            method.backward(method.decide(output, batch))
            optimizer.step()
    assert_equal(*models, close=1e-9)
    for key, value in methods[0].state.items():
        torch.testing.assert_close(value, methods[1].state[key], rtol=1e-9, atol=1e-9)
    assert models[0].encoders["a"][0].weight.isfinite().all()


@pytest.mark.parametrize("gramian", ["features", "adaptive"])
def test_gradients_at_features(gramian):
    """The features of absent modalities say nothing: other heads' weights do not matter there."""
    ours, theirs = pair()
    inputs, targets = tiny_models.batch(ours, SIZE)
    present = Present.of(table(0, 2), inputs)
    for model in (ours, theirs):
        method = method_of("mmpareto", model, gramian=gramian)
        output = method.forward(Batch(inputs, targets, present))
        gradients = torch.autograd.grad(output.joint_loss(targets), [*output.features.values()])
        for k, x in enumerate(gradients):
            assert torch.equal(x.any(1), table(0, 2)[:, k])
        output = method.forward(Batch(inputs, targets, present))
        method.backward(method.decide(output, Batch(inputs, targets, present)))
    assert_equal(ours, theirs)


@pytest.mark.slow  # importing the compiler takes seconds
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_compiled(monkeypatch, precision):
    """In batches of which all lack other modalities, or nobody or one alone has the first."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    models = pair(3)
    methods = [method_of("mmpareto", model.float()) for model in models]
    models[0].compile()
    for step in (0, 1, 3, 4):
        inputs, targets = tiny_models.batch(models[0], SIZE)
        inputs = {name: x.float() for name, x in inputs.items()}
        present, losses = Present.of(table(step, 3), inputs), []
        for model, method in zip(models, methods, strict=True):
            model.precision = precision
            batch = Batch(inputs, targets, present)
            decision = method.decide(method.forward(batch), batch)
            losses.append(method.backward(decision).loss.item())
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    pairs = zip(*(model.named_parameters() for model in models), strict=True)
    for (name, ours), (_, theirs) in pairs:
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("name", ["uniform", "mmpareto"])
def test_micro_batches_are_one_batch(name):
    """Each loss is the mean over the samples of the whole step that have the modality."""
    for model in (ours := pair(3)):
        model.eval()  # BatchNorm's statistics are those of a micro-batch
    inputs, targets = tiny_models.batch(ours[0], SIZE)
    there = table(1, 3)
    there[:4, 0] = False
    whole = Batch(inputs, targets, Present.of(there, inputs))
    parts = [
        Batch(
            {k: x[rows] for k, x in inputs.items()}, targets[rows], Present.of(there[rows], inputs)
        )
        for rows in (slice(0, 4), slice(4, 8), slice(8, 12))
    ]
    for model, batches in zip(ours, ([whole], parts), strict=True):
        method, seen = method_of(name, model), 0
        for number, batch in enumerate(shared_out(batches), start=1):
            decision = method.decide(method.forward(batch), batch)
            seen += decision.loss.item() / len(batches)
            method.backward(decision, share=1 / len(batches), last=number == len(batches))
        if model is ours[0]:
            expected = seen
    assert seen == pytest.approx(expected, rel=1e-12)
    found, wanted = map(tiny_models.gradients, ours)
    assert found.keys() == wanted.keys()
    for key, x in found.items():
        torch.testing.assert_close(x, wanted[key], rtol=1e-12, atol=1e-14)


def test_probes_see_the_samples_that_have_the_modality():
    """The probes of joint learn as the heads of unimodal do, where the encoders are the same."""
    ours, theirs = pair(3)
    inputs, targets = tiny_models.batch(ours, SIZE)
    batch = Batch(inputs, targets, Present.of(table(2, 3), inputs))
    for name, model in (("joint", ours), ("unimodal", theirs)):
        method = method_of(name, model, no_probes=False)
        method.backward(method.decide(method.forward(batch), batch))
    for found, wanted in zip(
        ours.unimodal_heads.parameters(), theirs.unimodal_heads.parameters(), strict=True
    ):
        assert torch.equal(found.grad, wanted.grad) and found.grad.any()


def test_default_is_to_refuse():
    """A part that does not say so cannot do it; exchanges of modalities inherit nothing."""
    assert {name for name, fusion in FUSIONS.items() if fusion.masks} == {
        "concat", "sum", "cosine", "mean",
    }  # fmt: skip
    assert {name for name, method in METHODS.items() if method.masks} == {
        "joint", "unimodal", "uniform", "pareto", "mmpareto", "uw", "dwa", "rlw", "gblend",
        "mmcosine", "pcgrad", "cagrad", "upgrad", "imtl_g", "aligned_mtl", "torchjd", "metabalance",
    }  # fmt: skip
