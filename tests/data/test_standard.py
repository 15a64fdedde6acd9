"""Arrays are standardised: by which numbers, and which parts of a run know them."""

import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler

from mmpareto.data import standard
from mmpareto.data.samples import Data, Modality, TensorSplit

SHAPES = {"vector": (6,), "sequence": (5, 3), "maps": (4, 2, 3)}


def data_of(*, kind="array", seed=0, **arrays):
    arrays = arrays or {
        name: np.random.default_rng(seed).normal(50, 9, (40, *shape)).astype(np.float32)
        for name, shape in SHAPES.items()
    }
    inputs = {name: torch.tensor(x) for name, x in arrays.items()}
    whole = TensorSplit(inputs, torch.arange(40) % 2)
    splits = {"train": whole.subset(range(30)), "test": whole.subset(range(30, 40))}
    specs = {name: Modality(kind, x.shape[1:]) for name, x in inputs.items()}
    return Data("toy", ["a", "b"], specs, splits, {})


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(standard, "BLOCK", 30)


def test_as_scikit_learn(small_blocks):
    """Each number of a vector is a column; of several axes, each number of a time step."""
    data = data_of()
    found = standard.standardised(data, standard.measured(data))
    for name, shape in SHAPES.items():
        train, test = (data.splits[part].inputs[name] for part in ("train", "test"))
        rows = (-1, *standard.columns(data.modalities[name]))
        scaler = StandardScaler().fit(train.reshape(len(train), -1).reshape(-1, np.prod(rows[1:])))
        assert len(scaler.mean_) == np.prod(shape[1:] or shape)
        wanted = scaler.transform(test.reshape(-1, len(scaler.mean_))).reshape(test.shape)
        read = found.splits["test"].read([3, 1, 4])[0][name]
        np.testing.assert_allclose(read, wanted[[3, 1, 4]], rtol=1e-4, atol=1e-5)
        assert read.dtype == torch.float32


def test_constant_columns_are_centred_and_nan_does_not_count(small_blocks):
    x = np.random.default_rng(0).normal(1e4, 1e-3, (40, 4))
    x[:, 0], x[:, 1] = 5000.1, 0
    x[35:, 0] = 7  # after training
    x[:, 3] = np.arange(40)
    x[::3, 3] = np.nan
    data = data_of(pose=x)
    numbers = standard.measured(data)
    assert numbers["pose"][1, :3].tolist() == [1] * 3  # 1e-3 of 1e4: float32's rounding
    np.testing.assert_allclose(numbers["pose"][0, :3], [5000.1, 0, 1e4], rtol=1e-6)
    known = [i for i in range(30) if i % 3]
    wanted = [np.mean(known), np.std(known)]
    np.testing.assert_allclose(numbers["pose"][:, 3], wanted, rtol=1e-6)
    read = standard.standardised(data, numbers).splits["test"].read([6, 7])[0]["pose"]
    np.testing.assert_allclose(read[:, :2], [[7 - 5000.1, 0]] * 2, rtol=1e-6)
    assert read[0, 3].isnan()
    (said,) = standard.line(data._replace(standard=numbers))
    assert "pose; 3 of their columns are constant" in said


def test_only_arrays_and_only_once():
    data = data_of(kind="spectrogram")
    assert standard.measured(data) == {}
    assert standard.standardised(data, {}).splits == data.splits
    data = data_of()
    numbers = standard.measured(data)
    once = standard.standardised(data, numbers)
    again = standard.standardised(once, numbers)
    for one, other in zip(once.splits["test"].subset([2]).read([0])[0].values(),
                          again.splits["test"].read([2])[0].values(), strict=True):  # fmt: skip
        assert torch.equal(one, other)
    assert standard.standardised(once, {}).splits == data.splits
    data.splits["test"].present = torch.ones(10, 3, dtype=torch.bool)
    found = standard.standardised(data, numbers).splits["test"]
    assert found.present is data.splits["test"].present


@pytest.mark.parametrize(
    "wrong",
    [{"other": torch.ones(2, 6)}, {"vector": torch.ones(2, 5)}, {"sequence": torch.ones(2, 5, 3)},
     {"vector": torch.ones(2, 6).double()}, {"vector": torch.ones(2, 6).to_sparse()}],
)  # fmt: skip
def test_numbers_that_do_not_fit(wrong):
    with pytest.raises(ValueError, match=f"no mean and deviation of {min(wrong)}"):
        standard.check(wrong, data_of().modalities)
