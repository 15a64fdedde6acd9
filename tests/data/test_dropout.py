"""--modality_dropout: what a sample loses follows from seed, epoch and sample alone."""

from random import Random

import pytest
import torch
from balance import trainer_of
from toys import toy_split

from mmpareto.data.batches import ShuffledBatches, loader
from mmpareto.system.errors import UserError


def seen(split, workers=0, batch=8):
    """{sample's first number: what it has} in one epoch."""
    order = ShuffledBatches(len(split), batch, seed=3)
    order.epoch = 2
    found = {}
    for part in loader(split, order, workers=workers):
        assert part.present is not None
        for row, x in enumerate(part.inputs["a"]):
            having = [name for name, rows in part.present.rows.items() if row in rows]
            found[x.flatten()[0].item()] = having
    return found


def split_of(share, lacks=False):
    split = toy_split(3, 64, 1)
    split.dropout = share
    if lacks:
        split.present = torch.ones(64, 3, dtype=torch.bool)
        split.present[:20, 1:] = False
    return split


@pytest.mark.parametrize("lacks", [False, True])
def test_literal(lacks):
    split = split_of(0.6, lacks)
    wanted = {}
    for number in range(64):
        random = Random(f"{3 * 1_000_003 + 2} {number} present")
        drawn = {name: random.random() for name in "abc"}
        if lacks and number < 20:
            drawn = {"a": drawn["a"]}
        kept = [name for name, x in drawn.items() if x >= 0.6] or [max(drawn, key=drawn.get)]
        wanted[split.inputs["a"][number].flatten()[0].item()] = kept
    assert seen(split) == wanted
    assert seen(split, batch=16, workers=1) == wanted  # other batches, and another process
    assert len(set(map(tuple, wanted.values()))) > 4


def test_evaluation_drops_nothing():
    for part in loader(split_of(0.6), 8):
        assert part.present is None


def test_frequencies():
    """Each is away as often as it is drawn, less the samples that would have lost all."""
    split = toy_split(2, 2000, 1)
    split.dropout = 0.5
    every = seen(split).values()
    away = sum("b" not in have for have in every) / len(every)
    assert all(every) and away == pytest.approx(0.5 - 0.25 / 2, abs=0.04)


def test_training(tmp_path):
    """The first part of a step has the modalities that its table says; the loss counts these."""
    flags = "--method", "uniform", "--limit_batches", 2, "--modality_dropout", 0.5
    trainer = trainer_of(tmp_path / "run", *flags, "--accumulate", 2)
    parts, step = [], trainer.step
    trainer.step = lambda given: (parts.extend(given), step(given))[1]
    trainer.train_epoch()
    counts = [{k: len(rows) for k, rows in part.present.rows.items()} for part in parts]
    assert len(parts) == 2 and all(0 < n < 16 for own in counts for n in own.values())
    for part in parts:  # shared out over the step
        assert part.present.shares["a"] == 2 / sum(own["a"] for own in counts)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--method", "agm"], "--method agm: --modality_dropout makes samples lack modalities"),
        (["--fusion", "film"], "--fusion film: --modality_dropout"),
        (["--dataset", "toy_tasks", "--method", "uniform"], "has one modality"),
    ],
)
def test_refused(tmp_path, words, message):
    with pytest.raises(UserError, match=message):
        trainer_of(tmp_path / "run", *words, "--modality_dropout", 0.5)
