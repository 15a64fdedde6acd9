"""The fusion mmtm: gates, their running means, and encoders of every kind."""

import pytest
import tiny_models
import torch
from torch import nn

import train
from mmpareto.data.samples import Modality
from mmpareto.models.encoders import ENCODERS
from mmpareto.models.fusions.mmtm import MMTM, Exchange
from mmpareto.run import options, setup
from mmpareto.system.errors import UserError

KINDS = {
    "film": ("resnet18", Modality("frames", (2, 3, 32, 32))),
    "photo": ("cnn", Modality("image", (1, 16, 16))),
    "table": ("mlp", Modality("array", (7,))),
}


def encoders(*names):
    return {name: ENCODERS[KINDS[name][0]](KINDS[name][1]) for name in names}


def batch(*names):
    return {name: torch.randn(4, *KINDS[name][1].shape) for name in names}


@pytest.mark.parametrize("scale", [1, 2])
def test_excitations_of_zero(scale):
    """Every gate is half the scale; the squeeze has int(2 (2 + 3) / 4) = 2 units."""
    exchange = Exchange({"a": 2, "b": 3}, ratio=4, gate_scale=scale)
    for p in exchange.excite.parameters():
        nn.init.zeros_(p)
    assert exchange.squeeze.weight.shape == (2, 5)
    maps = {"a": torch.randn(4, 2, 5, 5), "b": torch.randn(4, 3)}
    for name, x in exchange(maps, 4).items():
        torch.testing.assert_close(x, scale / 2 * maps[name])


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


def test_refusals():
    with pytest.raises(UserError, match=r"encoder of a \(Encoder\) does not say the widths"):
        MMTM({"a": tiny_models.Encoder(), "b": tiny_models.Encoder()}, 3)
    with pytest.raises(UserError, match="--ratio 999"):
        MMTM(encoders("photo", "table"), 4, ratio=999)


def test_flags_reach_the_fusion():
    words = ["--dataset", "toy", "--encoder", "cnn", "--fusion", "mmtm"]
    flags = options.parse([*words, "--ratio", "8", "--gate_scale", "2"])
    first = setup.build_model(flags, setup.load_data(flags)).exchanges[0]
    assert (first.gate_scale, first.squeeze.out_features) == (2, int(2 * 64 / 8))


@pytest.mark.parametrize("method", ["mmpareto", "greedy"])
def test_in_bfloat16(tmp_path, method):
    words = ["--dataset", "toy", "--encoder", "cnn", "--fusion", "mmtm", "--method", method]
    words += ["--epochs", "1", "--precision", "bf16", "--out", str(tmp_path / "run")]
    train.main(words)
    assert "skipped" not in (tmp_path / "run/train.log").read_text()
