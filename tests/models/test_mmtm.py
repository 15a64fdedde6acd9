"""The fusion mmtm: gates, their running means, and encoders of every kind."""

import pytest
import tiny_models
import torch
from torch import nn

import train
from mmpareto.data.samples import Modality
from mmpareto.models.encoders import ENCODERS
from mmpareto.models.fusions.mmtm import MMTM, Exchange
from mmpareto.run import options
from mmpareto.system.errors import UserError

KINDS = {
    "film": ("resnet18", Modality("frames", (2, 3, 32, 32))),
    "photo": ("cnn", Modality("image", (1, 16, 16))),
    "table": ("mlp", Modality("array", (7,))),
}


def encoders(*names):
    return {name: ENCODERS[KINDS[name][0]](KINDS[name][1]) for name in names}


def batch(*names, size=4):
    return {name: torch.randn(size, *KINDS[name][1].shape) for name in names}


def test_width_of_the_squeeze():
    """int(2 (2 + 2) / 4) = 2."""
    exchange = Exchange({"a": 2, "b": 2}, ratio=4, gate_scale=1)
    assert exchange.squeeze.out_features == 2 and exchange.squeeze.in_features == 4


@pytest.mark.parametrize("scale", [1, 2])
def test_excitations_of_zero(scale):
    """Every gate is half the scale; 2 leaves maps as they are."""
    exchange = Exchange({"a": 2, "b": 3}, ratio=4, gate_scale=scale)
    for layer in exchange.excite.values():
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    maps = {"a": torch.randn(4, 2, 5, 5), "b": torch.randn(4, 3)}
    for name, x in exchange(maps, 4).items():
        torch.testing.assert_close(x, scale / 2 * maps[name])


def test_gates_see_all_modalities_and_serve_all_frames():
    """As written out for one sample of two frames."""
    exchange = Exchange({"a": 2, "b": 3}, ratio=1, gate_scale=1)
    maps = {"a": torch.randn(6, 2, 4, 4), "b": torch.randn(3, 3)}  # 3 samples, a in 2 frames
    found = exchange(maps, 3)
    for i in range(3):
        frames = maps["a"][2 * i : 2 * i + 2]
        squeezed = torch.cat([frames.mean((0, 2, 3)), maps["b"][i]])
        shared = exchange.squeeze(squeezed).relu()
        gate = exchange.excite["a"](shared).sigmoid()
        expected = frames * gate[None, :, None, None]
        torch.testing.assert_close(found["a"][2 * i : 2 * i + 2], expected)
        torch.testing.assert_close(
            found["b"][i], maps["b"][i] * exchange.excite["b"](shared).sigmoid()
        )


def test_running_mean():
    """Batches with mean gates .2, .4, .6: .4, and evaluation leaves it so."""
    exchange = Exchange({"a": 1, "b": 1}, ratio=1, gate_scale=1)
    nn.init.zeros_(exchange.excite["a"].weight)
    maps = {"a": torch.randn(5, 1), "b": torch.randn(5, 1)}
    for gate in (0.2, 0.4, 0.6):
        exchange.excite["a"].bias.data = torch.tensor([gate]).logit()
        exchange(maps, 5)
    assert exchange.mean_gate("a").item() == pytest.approx(0.4)
    exchange.eval()(maps, 5)
    assert exchange.mean_gate("a").item() == pytest.approx(0.4)
    assert "mean_gate_a" in exchange.state_dict()


def test_frozen_gate():
    """The same for the whole batch, in training only; the others stay live."""
    exchange = Exchange({"a": 2, "b": 2}, ratio=1, gate_scale=1)
    maps = {"a": torch.rand(5, 2) + 1, "b": torch.rand(5, 2) + 1}
    live = exchange(maps, 5)
    kept = exchange.mean_gate("a").clone()
    exchange.frozen = "a"
    for _ in range(2):
        held = exchange({"a": maps["a"], "b": 3 * maps["b"]}, 5)
        torch.testing.assert_close(held["a"] / maps["a"], kept.expand(5, 2))
    assert not torch.equal(held["b"] / 3, live["b"])
    assert torch.equal(exchange.mean_gate("a"), kept)
    torch.testing.assert_close(exchange.eval()(maps, 5)["a"], live["a"])


@pytest.mark.parametrize(
    ("names", "exchanges"),
    [(("film", "photo"), 3), (("photo", "table"), 2), (("film", "photo", "table"), 2)],
)
def test_encoders_of_every_kind(names, exchanges):
    """After as many last stages as all encoders have, three at most."""
    model = MMTM(encoders(*names), 4)
    assert len(model.exchanges) == exchanges
    output = model(batch(*names))
    assert output.joint.shape == (4, 4)
    assert {name: z.shape for name, z in output.features.items()} == {
        name: (4, model.encoders[name].out_dim) for name in names
    }
    output.joint.sum().backward()
    assert all(p.grad is not None for e in model.exchanges for p in e.parameters())


def test_identity_gates_leave_the_encoders_as_they_are():
    names = list(KINDS)
    model = MMTM(encoders(*names), 4, gate_scale=2).eval()
    for exchange in model.exchanges:
        for layer in exchange.excite.values():
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
    inputs = batch(*names)
    features, _ = model.encode(inputs)
    for name, z in features.items():
        torch.testing.assert_close(z, model.encoders[name](inputs[name]))


def test_modalities_mix():
    """One modality's features depend on the other's input: the fusion is not late."""
    model = tiny_models.mmtm()
    inputs, _ = tiny_models.batch(model)
    inputs["b"].requires_grad_()
    features, _ = model.encode(inputs)
    features["a"].sum().backward()
    assert inputs["b"].grad.abs().sum() > 0 and not model.late


def test_encoder_without_widths():
    with pytest.raises(UserError, match=r"encoder of a \(Encoder\) does not say the widths"):
        MMTM({"a": tiny_models.Encoder(), "b": tiny_models.Encoder()}, 3)


def test_ratio_that_leaves_nothing():
    with pytest.raises(UserError, match="--ratio 999"):
        MMTM(encoders("photo", "table"), 4, ratio=999)


def test_flags_reach_the_fusion(tmp_path):
    words = ["--dataset", "toy", "--encoder", "cnn", "--fusion", "mmtm", "--method", "uniform",
             "--ratio", "8", "--gate_scale", "2", "--out", str(tmp_path / "run")]  # fmt: skip
    trainer = train.Trainer(options.parse(words), train.Run(tmp_path / "run", {}, resume=False))
    first = trainer.model.exchanges[0]
    assert (first.gate_scale, first.squeeze.out_features) == (2, int(2 * 64 / 8))


@pytest.mark.parametrize("method", ["mmpareto", "greedy"])
def test_in_bfloat16(tmp_path, method):
    words = ["--dataset", "toy", "--encoder", "cnn", "--fusion", "mmtm", "--method", method]
    words += ["--epochs", "1", "--precision", "bf16", "--out", str(tmp_path / "run")]
    train.main(words)
    assert "skipped" not in (tmp_path / "run/train.log").read_text()
