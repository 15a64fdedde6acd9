"""A model's predictions for each batch, and its losses."""

from collections.abc import Iterator
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from ..core import distributed
from ..data.batches import Loader
from .fusions.base import Fusion, Output


def mean_losses(
    model: Fusion, batches: Loader, device: torch.device, limit: int | None = None
) -> dict[str, float]:
    """Return the mean cross-entropy of the joint prediction and of each modality's."""
    rows = []
    for output, targets in outputs(model, batches, device, limit):
        truth = targets.to(device)
        pairs = {
            k: (output.having(k, u), output.having(k, truth)) for k, u in output.logits.items()
        }
        rows.append({k: F.cross_entropy(*pair, reduction="none") for k, pair in pairs.items()})
    return {name: sum(losses) / len(losses) for name, losses in joined(rows).items()}


def joined(rows: list[dict[str, Tensor]]) -> dict[str, list]:
    """Join rows of vectors into one list for each name, over all processes."""
    own = [{name: values.tolist() for name, values in row.items()} for row in rows]
    every = distributed.joined_lists(own)
    return {name: [x for row in every for x in row[name]] for name in every[0]}


def features(
    model: Fusion, batches: Loader, device: torch.device, limit: int | None = None
) -> tuple[dict[str, Tensor], Tensor]:
    """Return the features (n, D) of each encoder on the CPU, and the targets, of all processes."""
    own = [
        # A copy: what is a part of larger maps would keep those.
        ({name: z.to("cpu", copy=True) for name, z in output.features.items()}, targets)
        for output, targets in outputs(model, batches, device, limit)
    ]
    rows, truth = zip(*distributed.joined_lists(own), strict=True)
    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}, torch.cat(truth)


@torch.no_grad()
def outputs(
    model: Fusion, batches: Loader, device: torch.device, limit: int | None = None
) -> Iterator[tuple[Output, Tensor]]:
    """Yield the evaluated model's output for each batch, and the targets unchanged."""
    mine = len(distributed.own(range(limit))) if limit else len(batches)
    total = min(len(batches), mine)
    model.eval()
    hidden = None if distributed.is_first() else True  # None: tqdm hides it off a terminal
    for batch in islice(tqdm(batches, "evaluate", total, leave=False, disable=hidden), total):
        moved = batch.to(device)
        yield model(moved.inputs, moved.present), batch.targets
