"""studies/beside_sklearn.py reads what encoders read: standardised, padding at the mean."""

import torch
from sklearn.neighbors import KNeighborsClassifier

import beside_sklearn
from mmpareto.data.samples import Data, Modality, TensorSplit
from mmpareto.datasets import DATASETS
from mmpareto.datasets.base import Dataset

NAN = torch.nan


class Two(Dataset):
    """Vectors of unlike scales: the nearest neighbour is right only if these are alike."""

    @classmethod
    def load(cls, flags):
        inputs = {
            "wide": torch.tensor([[0.0, 0], [900, 1], [400, 0], [500, 1]]),
            "long": torch.tensor([[[0.0], [0]], [[1], [NAN]], [[0], [0]], [[1], [NAN]]]),
        }
        whole = TensorSplit(inputs, torch.tensor([0, 1, 0, 1]))
        specs = {"wide": Modality("array", (2,)), "long": Modality("sequence", (2, 1))}
        test = TensorSplit(
            {"wide": torch.tensor([[440.0, 1.0]]), "long": inputs["long"][1:2]}, torch.tensor([1])
        )
        return Data("two", ["a", "b"], specs, {"train": whole, "test": test}, {})


def test_table(monkeypatch, capsys):
    monkeypatch.setattr(DATASETS, "parts", DATASETS.parts | {"two": Two})
    nearest = {"nearest": KNeighborsClassifier(1)}
    monkeypatch.setattr(beside_sklearn, "CLASSIFIERS", nearest)
    beside_sklearn.main(["--dataset", "two", "--batch_size", "2"])
    rows = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()[1:])
    assert rows == {"wide": "nearest 1.0000", "long": "nearest 1.0000", "joint": "nearest 1.0000"}
