"""Every kind of modality in one toy set, small runs on it, and what evaluate.py says of them."""

import numpy as np
import pytest
import torch

import evaluate
from mmpareto.data.samples import Data, Modality, TensorSplit
from mmpareto.datasets import Dataset
from mmpareto.run import checkpoint

VOCABULARY, CLASSES = 12, 4


class ToyKinds(Dataset):
    """Frames as bytes, text with padding, a vector far from zero; no test sample of one class."""

    defaults = {"epochs": 1, "batch_size": 16, "learning_rate": 0.05}

    @classmethod
    def load(cls, flags) -> Data:
        return Data(
            name="toy_kinds",
            classes=["=1+1", "plain", "'-quoted", '\ttab, "and" a\rreturn'],
            modalities={
                "film": Modality("frames", (2, 3, 8, 8)),
                "words": Modality("tokens", (6,), VOCABULARY),
                "pose": Modality("array", (5,)),
            },
            splits={
                name: cls.split(size, size) for name, size in {"train": 64, "test": 33}.items()
            },
            recipe={"source": "toy"},
        )

    @classmethod
    def has_arrays(cls, root):
        return True

    @staticmethod
    def split(size, seed):
        random = np.random.default_rng(seed)
        targets = np.arange(size) % (CLASSES if size == 64 else 3)
        film = random.integers(0, 120, (size, 2, 3, 8, 8)) + 30 * targets[:, None, None, None, None]
        words = random.integers(1, VOCABULARY, (size, 6)) * (np.arange(6) < 4)
        words[:, 1] = targets + 1
        pose = random.normal(50, 3, (size, 5)) + 5 * (np.arange(5) == targets[:, None])
        inputs = {"film": film.astype(np.uint8), "words": words, "pose": pose.astype(np.float32)}
        return TensorSplit({k: torch.tensor(v) for k, v in inputs.items()}, torch.tensor(targets))


class ToyAlone(ToyKinds):
    """The text alone."""

    @classmethod
    def load(cls, flags) -> Data:
        data = super().load(flags)
        words = {"words": data.modalities["words"]}
        splits = {
            name: TensorSplit({"words": split.inputs["words"]}, split.targets)
            for name, split in data.splits.items()
        }
        return data._replace(modalities=words, splits=splits)


TRAINED = {
    "kinds": ["--dataset", "toy_kinds", "--encoder", "film=cnn"],
    "alone": ["--dataset", "toy_alone"],
    "bottleneck": ["--dataset", "toy_kinds", "--fusion", "bottleneck"],
    "mmtm": ["--dataset", "toy3", "--encoder", "cnn", "--fusion", "mmtm"],
    "tasks": ["--dataset", "toy_tasks", "--encoder", "cnn"],
}


def runs(*names):
    return pytest.mark.parametrize("trained", names, indirect=True)


def load(path):
    return checkpoint.load(path, evaluate.parser().parse_args([str(path)]))


def printed(capsys, *arguments):
    capsys.readouterr()
    evaluate.main([str(word) for word in arguments])
    return capsys.readouterr().out


def as_read(values):
    """Bytes normalised by ImageNet's numbers, by hand."""
    if values.dtype != np.uint8:
        return values
    mean, deviation = (
        np.array(numbers).reshape(3, 1, 1)
        for numbers in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    return ((values / 255 - mean) / deviation).astype(np.float32)
