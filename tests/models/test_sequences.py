"""Sequences: their padding has no effect."""

from copy import deepcopy

import pytest
import torch

import train
from mmpareto.data.samples import Data, Modality, TensorSplit
from mmpareto.datasets import DATASETS
from mmpareto.datasets.base import Dataset
from mmpareto.methods import METHODS
from mmpareto.models.encoders import ENCODERS
from mmpareto.models.encoders.base import without_padding
from mmpareto.models.fusions.bottleneck import Bottleneck
from mmpareto.models.fusions.concat import Concat
from mmpareto.run import options, setup
from mmpareto.system.errors import UserError

WIDTH = 3
LENGTHS = [1, 4, 6]


def padded(size, lengths=LENGTHS):
    """Sequences of these lengths, the same numbers for every size."""
    x = torch.full((len(lengths), size, WIDTH), torch.nan)
    for i, length in enumerate(lengths):
        x[i, :length] = torch.randn(length, WIDTH, generator=torch.Generator().manual_seed(i))
    return x


def encoder_of(name, size):
    return ENCODERS[name](Modality("sequence", (size, WIDTH))).eval()


def with_weights(encoder, of):
    """Give an encoder the weights of a longer one."""
    state, own = of.state_dict(), encoder.state_dict()
    if "positions" in state:
        state["positions"] = state["positions"][:, : own["positions"].shape[1]]
    encoder.load_state_dict(state)
    return encoder


@pytest.mark.parametrize("name", ["gru", "gru_wide"])
def test_gru_step_by_step(name):
    """A literal GRU over the true steps of one sequence (PyTorch's equations), then the mean."""
    encoder, x = encoder_of(name, 6), padded(6)
    size = encoder.out_dim
    w, u = encoder.cells.weight_ih_l0, encoder.cells.weight_hh_l0
    b, c = encoder.cells.bias_ih_l0, encoder.cells.bias_hh_l0
    for sequence, length, found in zip(x, LENGTHS, encoder(x), strict=True):
        h, total = torch.zeros(size), torch.zeros(size)
        for step in sequence[:length]:
            (r, z, n), (hr, hz, hn) = (w @ step + b).split(size), (u @ h + c).split(size)
            z = torch.sigmoid(z + hz)
            h = (1 - z) * torch.tanh(n + torch.sigmoid(r + hr) * hn) + z * h
            total += h
        torch.testing.assert_close(found, encoder.norm(total / length))


@pytest.mark.parametrize("name", ["gru", "transformer"])
def test_padding_has_no_effect(name):
    """Neither its amount, nor the length of another sequence of the batch."""
    long = encoder_of(name, 8)
    short = with_weights(encoder_of(name, 6), long)
    wanted = short(padded(6))
    torch.testing.assert_close(long(padded(8)), wanted)
    for i, length in enumerate(LENGTHS):
        torch.testing.assert_close(short(padded(6)[i : i + 1]), wanted[i : i + 1])
        alone = with_weights(encoder_of(name, length), long)
        torch.testing.assert_close(alone(padded(6)[i : i + 1, :length]), wanted[i : i + 1])
    assert not torch.allclose(long(padded(8).nan_to_num(0)), wanted, atol=1e-3)  # zeros do count


def test_bottleneck_reads_no_padding():
    long = {name: encoder_of("transformer", 8) for name in "ab"}
    short = {name: with_weights(encoder_of("transformer", 6), long[name]) for name in "ab"}
    one, other = Bottleneck(long, 2).eval(), Bottleneck(short, 2).eval()
    others = {k: v for k, v in one.state_dict().items() if not k.startswith("encoders.")}
    other.load_state_dict(other.state_dict() | others)
    found = one(dict.fromkeys("ab", padded(8))).joint
    torch.testing.assert_close(found, other(dict.fromkeys("ab", padded(6))).joint)


def test_nan_that_is_no_padding_is_loud():
    x = padded(6)
    x[2, 1, 0] = torch.nan
    filled, padding = without_padding(x)
    assert padding.sum(1).tolist() == [5, 2, 0] and filled.isnan().sum() == 1
    assert encoder_of("gru", 6)(x).isnan().any(1).tolist() == [False, False, True]
    x[0] = torch.nan  # no step at all
    assert encoder_of("gru", 6)(x)[0].isnan().all()


class Own(torch.nn.Module):
    """An encoder of a user's own: the sum of all numbers."""

    out_dim = 1

    def __init__(self, modality):
        super().__init__()

    def forward(self, inputs):
        return inputs.flatten(1).sum(1, keepdim=True)


class Asking(Own):
    takes_padding = True

    def forward(self, inputs):
        return inputs.isnan().flatten(1).sum(1, keepdim=True).float()


class Toy(Dataset):
    @classmethod
    def load(cls, flags):
        x = padded(6, LENGTHS * 8)
        split = TensorSplit({"s": 50 + 9 * x}, torch.arange(24) % 2)
        specs = {"s": Modality("sequence", (6, WIDTH))}
        return Data("toy", ["a", "b"], specs, {"train": split, "test": split}, {})


class Two(Toy):
    @classmethod
    def load(cls, flags):
        data = super().load(flags)
        for split in data.splits.values():
            split.inputs["t"] = split.inputs["s"].flip(0)
        specs = dict.fromkeys("st", data.modalities["s"])
        return data._replace(modalities=specs, splits=data.splits | {"val": data.splits["test"]})


@pytest.fixture
def two(monkeypatch):
    monkeypatch.setattr(DATASETS, "parts", DATASETS.parts | {"two_sequences": Two})


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setattr(DATASETS, "parts", DATASETS.parts | {"toy_sequences": Toy})
    own = {"own": Own, "asking": Asking}
    monkeypatch.setattr(ENCODERS, "parts", ENCODERS.parts | own)


def built(*words):
    flags = options.parse(["--dataset", "toy_sequences", "--batch_size", "8", *words])
    data = setup.load_data(flags)
    return setup.build_model(flags, data), data


def test_encoders_that_cannot_mask_read_the_mean(toy):
    """After standardising, zero is the mean; so sums, and an MLP's first layer, see nothing."""
    inputs, _ = built()[1].splits["train"].read([0, 1, 2])
    known = inputs["s"][~inputs["s"].isnan()]
    assert known.numel() == WIDTH * sum(LENGTHS) and known.abs().max() < 5
    sums = torch.stack([x[~x.isnan()].sum() for x in inputs["s"]])
    model, _ = built("--encoder", "own")
    torch.testing.assert_close(model(inputs).features["s"][:, 0], sums)
    copied = Concat(deepcopy(dict(model.encoders.items())), 2)  # as teachers are put together
    torch.testing.assert_close(copied(inputs).features["s"][:, 0], sums)
    assert built("--encoder", "asking")[0](inputs).features["s"][:, 0].tolist() == [15, 6, 0]
    assert built("--encoder", "mlp")[0](inputs).joint.isfinite().all()


def test_gru_is_the_default_and_refuses_what_is_no_sequence(toy):
    assert type(built()[0].encoders["s"]).__name__ == "GRU"
    for modality in (Modality("array", (6,)), Modality("image", (3, 8, 8))):
        with pytest.raises(UserError, match=r"gru takes arrays of several axes.*choose another"):
            ENCODERS["gru"](modality)
    with pytest.raises(UserError, match=r"\(GRU\) does not say the widths of its stages"):
        built("--fusion", "mmtm")


@pytest.mark.parametrize("name", METHODS)
def test_methods_take_an_encoder_without_stages(two, tmp_path, name):
    """Each trains, or one line says why it cannot."""
    words = ["--dataset", "two_sequences", "--batch_size", "8", "--epochs", "1", "--method", name]
    try:
        train.main([*words, "--out", str(tmp_path / "run")])
    except UserError as error:
        assert name == "greedy" and "does not say the widths of its stages" in str(error)
    else:
        assert '"skipped": true' not in (tmp_path / "run/steps.jsonl").read_text()


@pytest.mark.parametrize("more", [[], ["--precision", "bf16"], ["--encoder", "transformer"]])
def test_training(toy, tmp_path, more):
    words = ["--dataset", "toy_sequences", "--batch_size", "8", "--epochs", "1", *more]
    train.main([*words, "--out", str(tmp_path / "run")])
    assert '"skipped": true' not in (tmp_path / "run/steps.jsonl").read_text()
