"""Which classes a trained model takes for which others, by every one of its predictions."""

from typing import NamedTuple

from ...data.batches import loader
from ...run.checkpoint import Trained
from ...run.scores import confusion, predict


class Confusion(NamedTuple):
    """Of one prediction: counts[truth][prediction]."""

    name: str
    classes: list[str]
    counts: list[list[int]]

    def shade(self, truth: int, prediction: int) -> int:
        """0 to 10: the share of a class's samples that went to this prediction."""
        return round(10 * self.counts[truth][prediction] / max(1, sum(self.counts[truth])))


def confusions(trained: Trained, part: str, workers: int, limit: int | None) -> list[Confusion]:
    """The joint prediction's, and that of every modality or task."""
    data = trained.data
    batches = loader(trained.part(part), trained.flags.batch_size, workers=workers)
    found = predict(trained.model, batches, trained.device, limit)[:2]
    counts = confusion(*found, len(data.classes))
    return [Confusion(name, data.classes, matrix.tolist()) for name, matrix in counts.items()]
