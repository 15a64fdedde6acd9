"""Accuracy and macro-F1 of the joint prediction and of every modality's own."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice

import torch
import torch.nn.functional as F
from sklearn.metrics import accuracy_score, f1_score
from torch import Tensor
from tqdm import tqdm

from . import distributed
from .data import own_targets, to_device
from .fusions.base import Fusion, Output


def evaluate(
    model: Fusion,
    forward: Callable[[dict], Output],
    batches: Iterable,
    device: torch.device,
    limit: int | None = None,
) -> dict[str, float]:
    """Scores in [0, 1] over all batches (the first limit ones): Acc, Acc_MODALITY, F1, F1_MODALITY.

    F1 is macro-averaged over the classes that occur, in truth or in prediction. Of a multi-task
    model Acc and F1 are means over the tasks.
    """
    predictions, targets = predict(model, forward, batches, device, limit)
    pairs = [(suffix, targets[suffix], p) for suffix, p in predictions.items()]
    scores = {}
    for kind, score in (("Acc", accuracy_score), ("F1", partial(f1_score, average="macro"))):
        own = {f"{kind}{suffix}": float(score(truth, p)) for suffix, truth, p in pairs}
        scores |= {kind: sum(own.values()) / len(own), **own}
    return scores


def predict(model, forward, batches, device, limit=None) -> tuple[dict[str, list], ...]:
    """Predicted classes of the joint head ("") and of each modality or task ("_NAME"); targets."""
    predictions, truths = [], []
    for output, targets in outputs(model, forward, batches, device, limit):
        logits = {} if output.joint is None else {"": output.joint}
        logits |= {f"_{name}": u for name, u in output.unimodal.items()}
        predictions.append({name: u.argmax(1) for name, u in logits.items()})
        truths.append(own_targets(targets, logits))
    return tuple(_joined(rows) for rows in (predictions, truths))


def mean_losses(model, forward, batches, device, limit=None) -> dict[str, float]:
    """Cross-entropy of the joint prediction and of each modality's, means over samples."""
    rows = []
    for output, targets in outputs(model, forward, batches, device, limit):
        logits, targets = {"joint": output.joint, **output.unimodal}, targets.to(device)
        rows.append(
            {name: F.cross_entropy(u, targets, reduction="none") for name, u in logits.items()}
        )
    return {name: sum(losses) / len(losses) for name, losses in _joined(rows).items()}


def _joined(rows: list[dict[str, Tensor]]) -> dict[str, list]:
    """Rows of vectors as one list for each name; of several processes, all of theirs."""
    own = [{name: values.tolist() for name, values in row.items()} for row in rows]
    rows = [row for part in distributed.gather(own) for row in part]
    return {name: [x for row in rows for x in row[name]] for name in rows[0]}


@torch.no_grad()
def outputs(model, forward, batches, device, limit=None) -> Iterator[tuple[Output, Tensor]]:
    """What the model, in evaluation mode, says of each batch, and the targets as they came."""
    mine = len(distributed.own(range(limit))) if limit else len(batches)
    total = min(len(batches), mine)
    model.eval()
    hidden = None if distributed.is_first() else True  # None: where nobody watches
    for inputs, targets in islice(
        tqdm(batches, "evaluate", total, leave=False, disable=hidden), total
    ):
        yield forward(to_device(inputs, device)), targets
