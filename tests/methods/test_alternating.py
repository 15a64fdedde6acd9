"""MLA and AUG, which train one modality after the other, and the fusions they predict with."""

import re
from argparse import ArgumentTypeError
from copy import deepcopy
from types import SimpleNamespace

import pytest
import reference_alternating as literal
import tiny_models
import torch
from balance import accumulate, assert_equal, double, method_of, trainer_of
from torch import nn
from toy_kinds import ToyKinds

from mmpareto.methods import aug, mla
from mmpareto.models.fusions import shared_head
from mmpareto.models.fusions.growing import Growing
from mmpareto.models.fusions.shared_head import SharedHead
from mmpareto.run import options, setup
from mmpareto.system.errors import UserError

OA, OV = double(2, 0, -1, 0.2, 0.1, 0).view(2, 3), double(0.5, 0.4, 0.3, 0, 3, 0).view(2, 3)
TARGETS = torch.tensor([0, 1])


class Given(nn.Identity):
    out_dim = 3


def built(fusion, modalities=2, **settings):
    encoders = {name: tiny_models.Encoder() for name in "abc"[:modalities]}
    return fusion(encoders, tiny_models.CLASSES, **settings).double()


def sgd(model):
    params = list(model.parameters())
    return torch.optim.SGD(params, lr=0.05, momentum=0.9, weight_decay=0.01)


def turns(method, optimizer, inputs, targets, parts=1):
    """What the training loop does with a batch, or with its micro-batches."""
    for turn in range(method.turns):
        method.turn = turn
        accumulate(method, inputs, targets, parts)
        optimizer.step()
        optimizer.zero_grad()


def chunks(inputs, targets, parts):
    return [(x, y) for x, y, _ in tiny_models.micro_batches(inputs, targets, parts)]


def start(method, epoch, steps=8):
    method.start_epoch(SimpleNamespace(epoch=epoch, steps=steps))


class TestWeights:
    def test_by_entropy(self):
        found = shared_head.entropy_weights(torch.stack([OA, OV]))
        torch.testing.assert_close(found[0], double(0.638999, 0.325482), atol=1e-6, rtol=0)
        for b in range(2):
            expected = literal.entropy_weights({"a": OA[b], "v": OV[b]})
            assert found[:, b].tolist() == pytest.approx([*expected.values()])

    @pytest.mark.parametrize(
        ("weights", "expected"),
        [
            ("entropy", (1.458498, 0.144401, -0.530698, 0.065096, 2.056104, 0)),
            ("equal", (1.25, 0.2, -0.35, 0.1, 1.55, 0)),
            ("0.55,0.45", (1.325, 0.18, -0.415, 0.11, 1.405, 0)),
        ],
    )
    def test_joint_logits(self, weights, expected):
        model = SharedHead({"a": Given(), "v": Given()}, 3, weights=weights).double()
        model.head.weight.data, model.head.bias.data = torch.eye(3).double(), double(0, 0, 0)
        output = model({"a": OA, "v": OV})
        torch.testing.assert_close(output.joint, double(*expected).view(2, 3), atol=1e-6, rtol=0)
        torch.testing.assert_close(output.joint, sum(model.read_out(output.features).values()))
        assert torch.equal(output.unimodal["a"], OA) and torch.equal(output.unimodal["v"], OV)

    def test_extreme_logits(self):
        """A probability of 0, a tie, and one modality: finite, and the weights add up to 1."""
        sure = double(1e4, 0, 0).expand(2, 2, 3)
        assert shared_head.entropy_weights(sure).tolist() == [[0.5, 0.5]] * 2
        assert shared_head.entropy_weights(OA[None]).tolist() == [[1, 1]]

    @pytest.mark.parametrize("text", ["loud", "0.5,", "0,0", "-1,2", "nan,1", ""])
    def test_wrong_words(self, text):
        with pytest.raises(ArgumentTypeError, match="neither entropy nor equal, nor numbers"):
            shared_head.weights(text)

    def test_wrong_numbers(self):
        with pytest.raises(
            UserError, match="one number for each modality expected, in the order a, b, c"
        ):
            built(SharedHead, 3, weights="0.5,0.5")
        with pytest.raises(UserError, match="give 3 numbers, or entropy or equal"):
            built(Growing, 3, weights="0.4,0.6")
        assert built(Growing).fixed == [0.4, 0.6] and built(Growing, 3).fixed == [1 / 3] * 3

    def test_one_width(self):
        """What the message says to type serves every kind of modality."""
        data = ToyKinds.load(None)
        flags = options.parse(["--dataset", "toy", "--method", "mla", "--encoder", "film=cnn"])
        with pytest.raises(UserError, match="found film 128, words 64, pose 128: give ") as error:
            setup.build_model(flags, data)
        flags.encoder = re.search("give --encoder (.*?),", str(error.value))[1].split()
        assert setup.build_model(flags, data).head.in_features == 64

    def test_gradients_treat_the_weights_as_constants(self):
        model = built(SharedHead)
        output = model(tiny_models.batch(model)[0])
        weights = shared_head.entropy_weights(torch.stack([*output.unimodal.values()])).detach()
        expected = weights[0, :, None] * output.unimodal["a"]
        params = list(model.encoders["a"].parameters())
        found, expected = (
            torch.autograd.grad(x.square().sum(), params, retain_graph=True)
            for x in (output.joint - (output.joint - expected).detach(), expected)
        )
        torch.testing.assert_close(found, expected)


class TestMLA:
    def test_p(self):
        p = mla.updated(torch.eye(3).double(), double(1, 0, 2), 0.1)
        expected = double(0.568404, 0, -0.277270, 0, 0.707039, 0, -0.277270, 0, 0.152499)
        torch.testing.assert_close(p.flatten(), expected, atol=1e-6, rtol=0)
        changed = double(1, 2, 3, 0, 1, -1).view(2, 3) @ p
        expected = double(-0.263407, 1.414078, 0.180226, 0.277270, 0.707039, -0.152499)
        torch.testing.assert_close(changed.flatten(), expected, atol=1e-6, rtol=0)
        p = mla.updated(p, double(0, 1, 1), 0.1)
        expected = (0.685758, 0.286935, -0.327518, 0.261300, -0.157814, 0.180135)
        assert p[[0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]].tolist() == pytest.approx(
            expected, abs=1e-6
        )
        assert torch.equal(p, p.T)

    @pytest.mark.parametrize(("share", "alpha"), [(0, 0.1), (50, 0.031623), (99, 0.010233)])
    def test_alpha(self, share, alpha):
        method = method_of("mla", model := built(SharedHead))
        method.batches, method.steps = share, 100
        inputs, targets = tiny_models.batch(model)
        mean = model.encode(inputs)[0]["a"].mean(0).detach()
        turns_of_a = tiny_models.step(method, inputs, targets)
        expected = mla.updated(torch.eye(5).double(), mean, alpha)
        torch.testing.assert_close(method.state["P"], expected, atol=1e-6, rtol=0)
        assert turns_of_a.measures["head_gradient_a"] == 1  # nothing was seen before

    @pytest.mark.parametrize("modalities", [1, 2, 3])
    @pytest.mark.parametrize("order", ["previous", "current", "plain"])
    def test_it_equals_the_reference(self, order, modalities):
        """24 batches of three epochs; every third one comes in two micro-batches."""
        ours = built(SharedHead, modalities).train()
        theirs = deepcopy(ours)
        method, optimizer = method_of("mla", ours, head_gradient=order), sgd(ours)
        slow = literal.MLA(theirs, sgd(theirs), order)
        for step in range(24):
            if step % 8 == 0:
                start(method, step // 8)
            inputs, targets = tiny_models.batch(ours)
            parts = 2 if step % 3 == 2 else 1
            turns(method, optimizer, inputs, targets, parts)
            slow.train(chunks(inputs, targets, parts), step % 8 / 8)
        assert_equal(ours, theirs, 1e-9)
        if order != "plain":
            expected = torch.tensor(slow.p, dtype=torch.float64)
            torch.testing.assert_close(method.state["P"], expected, atol=1e-9, rtol=0)

    def test_nothing_is_left(self):
        """Where rounding makes P zero, or features are zero, P stays finite."""
        one = torch.ones(1, 1)
        assert mla.updated(one, torch.full((1,), 1e6), 0.1).tolist() == [[1]]
        assert mla.updated(torch.eye(2) / 2**0.5, torch.zeros(2), 0.1).isfinite().all()

    def test_degenerate_batches(self):
        """One class, and a modality of zeros."""
        model = built(SharedHead)
        method, optimizer = method_of("mla", model), sgd(model)
        inputs, targets = tiny_models.batch(model)
        inputs["b"].zero_()
        for _ in range(3):
            turns(method, optimizer, inputs, torch.zeros_like(targets))
        assert all(p.isfinite().all() for p in [*model.parameters(), method.state["P"]])


class TestAUG:
    def test_loss(self):
        """CE(o) + CE(old) + CE(new) - CE(new, y * softmax(old)) / 2."""
        whole = nn.functional.cross_entropy(OA + OV, TARGETS)
        assert whole.item() == pytest.approx(0.123283, abs=1e-6)
        found = aug.newest(OA, OV, TARGETS)
        assert found.item() == pytest.approx(0.635894 + 0.548433 - 0.438485 / 2, abs=1e-6)
        assert (whole + found).item() == pytest.approx(1.088368, abs=1e-6)

    @pytest.mark.parametrize("frozen", [False, True])
    def test_it_equals_the_reference(self, frozen):
        """48 batches of six epochs, some in two micro-batches: a leads, then b; both get layers."""
        ours = built(Growing, layers=4).train()
        theirs = deepcopy(ours)
        own = {"epochs": 7, "grow_every": 2, "frozen_layers": frozen}
        method, optimizer = method_of("aug", ours, **own), sgd(ours)
        for head in theirs.unimodal_heads.values():
            head.layers[1:].requires_grad_(not frozen)
        slow = literal.AUG(theirs, sgd(theirs))
        for step in range(48):
            if step % 8 == 0:
                start(method, step // 8)
            inputs, targets = tiny_models.batch(ours)
            inputs["a" if step < 8 else "b"] += 2 * targets[:, None]
            parts = 2 if step % 3 == 2 else 1
            turns(method, optimizer, inputs, targets, parts)
            slow.train(chunks(inputs, targets, parts))
            if step % 8 == 7:
                scores = method.state["scores"].tolist()
                assert scores == pytest.approx([*slow.scores.values()], rel=1e-9)
                slow.end_epoch(grows=step // 8 % 2 == 0)
        assert slow.used == {"a": 3, "b": 2}
        for name, head in theirs.unimodal_heads.items():
            head.get_buffer("used").fill_(slow.used[name])
        assert_equal(ours, theirs, 1e-9)

    @pytest.mark.parametrize(
        ("scores", "epoch", "counts"),
        [
            ((5.0, 3.0), 1, [1, 2]),
            ((3.0, 5.0), 4, [2, 1]),
            ((1.0, 1.0), 1, [1, 1]),
            ((1.0, 0.995), 1, [1, 1]),
            ((0.0, 0.0), 1, [1, 1]),
            ((1.0, 0.0), 1, [1, 2]),
            ((5.0, 3.0), 0, [1, 1]),
            ((5.0, 3.0), 2, [1, 1]),
            ((5.0, 3.0), 3, [1, 1]),
        ],
    )
    def test_who_gets_a_layer(self, scores, epoch, counts):
        """Of 30 epochs, the 1st and every third one decide."""
        method = method_of("aug", built(Growing), epochs=30)
        method.state["scores"].copy_(torch.tensor(scores))
        start(method, epoch)
        assert [head.count for head in method.heads] == counts
        assert method.state["scores"].tolist() == [0, 0]

    def test_layers_that_are_not_in_use_keep_still(self):
        """Whatever weight decay and momentum; a loaded model uses as many as the saved one."""
        model = built(Growing, layers=3)
        model.unimodal_heads["a"].grow()
        before = deepcopy(model.state_dict())
        method, optimizer = method_of("aug", model, epochs=10, grow_every=9), sgd(model)
        for _ in range(2):
            turns(method, optimizer, *tiny_models.batch(model))
        for name, param in model.named_parameters():
            idle = ("a.layers.2", "b.layers.1", "b.layers.2")
            assert torch.equal(param, before[name]) == name.startswith(
                tuple(f"unimodal_heads.{place}" for place in idle)
            ), name
        loaded = built(Growing, layers=3)
        loaded.load_state_dict(model.state_dict())
        inputs, _ = tiny_models.batch(model)
        assert torch.equal(loaded.eval()(inputs).joint, model.eval()(inputs).joint)
        assert [head.count for head in loaded.unimodal_heads.values()] == [2, 1]

    def test_no_more_layers_than_there_are(self):
        head = built(Growing, layers=2).unimodal_heads["a"]
        for count in (2, 2):
            head.grow()
            assert head.count == head.used == count

    def test_degenerate_batches(self):
        """One class, a modality of zeros, and a true class of probability 0."""
        model = built(Growing)
        method, optimizer = method_of("aug", model, epochs=10), sgd(model)
        for head in method.heads:
            head.grow()
        inputs, targets = tiny_models.batch(model)
        inputs["b"].zero_()
        for _ in range(3):
            turns(method, optimizer, inputs, torch.zeros_like(targets))
        assert all(p.isfinite().all() for p in model.parameters())
        sure = double(0, 1e4, 0).expand(2, 3)
        assert aug.newest(sure, sure, TARGETS * 0).item() == 2e4

    def test_what_it_cannot_train(self, tmp_path):
        with pytest.raises(UserError, match="aug compares two modalities, found a, b, c"):
            trainer_of(tmp_path / "run", "--method", "aug", dataset="toy3")
        with pytest.raises(UserError, match="a modality may get 7: give --layers 7, or a larger"):
            method_of("aug", built(Growing, layers=6), epochs=13, grow_every=2)


@pytest.mark.parametrize("fusion", [SharedHead, Growing])
def test_heads_of_the_joint_prediction_are_no_probes(fusion):
    """Nothing but the joint loss trains and clips them."""
    model = built(fusion)
    joint = method_of("joint", model)
    record = tiny_models.step(joint, *tiny_models.batch(model))
    assert record.probes == {} and [*record.losses] == ["joint"]
    clipped = {p for group in joint.clip_groups() for p in group}
    assert clipped == set(model.parameters())
