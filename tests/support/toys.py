"""Small data for tests, as datasets that train.py knows: no network, no files."""

import torch

from mmpareto.data.samples import Data, Modality, TensorSplit
from mmpareto.datasets import Dataset

CLASSES = 4


def toy_split(modalities: int, size: int, seed: int) -> TensorSplit:
    """Noisy pictures of one template per class, the same for every modality."""
    generator = torch.Generator().manual_seed(0)
    templates = torch.randn(CLASSES, 1, 8, 8, generator=generator)
    generator.manual_seed(seed)
    targets = torch.arange(size) % CLASSES
    noisy = [
        templates[targets] + 2 * torch.randn(size, 1, 8, 8, generator=generator)
        for _ in range(modalities)
    ]
    return TensorSplit(dict(zip("abcde", noisy, strict=False)), targets)


class Toy(Dataset):
    """Two modalities, a and b; `Toy3` has three."""

    modalities = 2
    defaults = {"epochs": 2, "batch_size": 16, "learning_rate": 0.05}

    @classmethod
    def load(cls, flags) -> Data:
        sizes = {"train": 104, "val": 40, "test": 48}
        splits = {name: toy_split(cls.modalities, n, n) for name, n in sizes.items()}
        return Data(
            name="toy",
            classes=[f"class {i}" for i in range(CLASSES)],
            modalities={name: Modality("image", (1, 8, 8)) for name in "abcde"[: cls.modalities]},
            splits=splits,
            recipe={"source": "toy"},
        )


class Toy3(Toy):
    modalities = 3


class ToyWithoutVal(Toy):
    @classmethod
    def load(cls, flags) -> Data:
        data = super().load(flags)
        return data._replace(splits={k: v for k, v in data.splits.items() if k != "val"})


class ToyTasks(Toy):
    """Two tasks on one modality: the class, and whether it is odd."""

    modalities = 1
    is_multitask = True

    @classmethod
    def load(cls, flags) -> Data:
        data = super().load(flags)
        for split in data.splits.values():
            split.targets = torch.stack([split.targets, split.targets % 2], dim=1)
        return data._replace(tasks=("easy", "hard"))


TOYS = {"toy": Toy, "toy3": Toy3, "toy_without_val": ToyWithoutVal, "toy_tasks": ToyTasks}
