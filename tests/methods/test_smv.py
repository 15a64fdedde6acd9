"""SMV: a literal reference, the values of the publication, and samples that were not valued."""

from itertools import permutations, product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from balance import assert_equal, double, trainer_of

from mmpareto.data.batches import ShuffledBatches
from mmpareto.methods import smv
from mmpareto.models.fusions.base import Output

RIGHT = {  # (a and v, a, v): the values, the copies
    (1, 1, 1): ((1, 1), (0, 0)), (1, 1, 0): ((1.5, 0.5), (0, 1)), (1, 0, 1): ((0.5, 1.5), (1, 0)),
    (1, 0, 0): ((1, 1), (0, 0)), (0, 1, 0): ((0.5, -0.5), (1, 3)), (0, 0, 0): ((0, 0), (2, 2)),
    (0, 1, 1): ((0, 0), (2, 2)),
}  # fmt: skip


class Told:
    """A joint head that is right (class 1) where the features present say so."""

    @staticmethod
    def joint(features):
        a, v = features["a"], features["v"]  # columns: the answer alone, and with the other
        both = (a.any(1) & v.any(1))[:, None]
        return torch.where(both, a[:, 1:3], a[:, 3:5] + v[:, 3:5])


@pytest.mark.parametrize("right", RIGHT)
def test_published_values(right):
    both, a, v = (F.one_hot(torch.tensor([1 if x else 0]), 2).double() for x in right)
    one = torch.ones(1, 1, dtype=torch.float64)
    features = {"a": torch.cat([one, both, a], 1), "v": torch.cat([one, both, v], 1)}
    phi = smv.valued(Told(), Output(None, {}, features), torch.tensor([1]))
    values, copies = RIGHT[right]
    assert phi.tolist() == [pytest.approx(values)]
    assert smv.by_sample(phi).tolist() == [[*copies]]


def test_limits():
    """Sums of thirds count as what they are meant to be; who was not valued gets no copy."""
    phi = double(1 / 3 + 1 / 3 + 1 / 3 - 1e-16, 0.4, 0.39, -0.1, -0.11, torch.nan)[None]
    assert smv.by_sample(phi).tolist() == [[0, 1, 2, 2, 3, 0]]


def test_modality_level():
    found = smv.by_modality(double(0.9, 0.3), 1000, 1.0, [0, 6])
    assert found.sum(0).tolist() == [0, 400] and found.max() > 1  # drawn with replacement
    assert not torch.equal(found, smv.by_modality(double(0.9, 0.3), 1000, 1.0, [0, 7]))
    assert smv.by_modality(double(0.5, 0.5), 10, 1.0, [0, 6]).sum() == 0  # a tie


def literal_values(model, split):
    """phi (samples, modalities), as means over all orders in which the modalities may join."""
    names, rows = list(model.encoders), []
    with torch.no_grad():
        model.eval()
        z = {name: model.encoders[name](split.inputs[name]) for name in names}
        for i, y in enumerate(split.targets.tolist()):
            added = dict.fromkeys(names, 0.0)
            orders = list(permutations(names))
            for order in orders:
                before = 0
                for place in range(len(names)):
                    present = order[: place + 1]
                    parts = [z[n][i] * (n in present) for n in names]
                    is_right = int(model.joint_head(torch.cat(parts)).argmax()) == y
                    now = len(present) if is_right else 0
                    added[order[place]] += (now - before) / len(orders)
                    before = now
            rows.append([*added.values()])
    return rows


def literal_copies(phi, level, epoch):
    copies = torch.zeros(len(phi), len(phi[0]), dtype=torch.int64)
    if level == "sample":
        for i, k in product(range(len(phi)), range(len(phi[0]))):
            x = round(phi[i][k], 6)
            copies[i, k] = 3 if x < -0.1 else 2 if x < 0.4 else 1 if x < 1 else 0
        return copies
    means = [sum(column) / len(phi) for column in zip(*phi, strict=True)]
    weakest = means.index(min(means))
    number = round(2 / 3 * (max(means) - min(means)) * len(phi))
    for i in np.random.default_rng([0, epoch]).integers(len(phi), size=number):
        copies[i, weakest] += 1
    return copies


@pytest.mark.parametrize(("dataset", "level"), [("toy", "modality"), ("toy3", "sample")])
def test_four_epochs_equal_the_reference(tmp_path, float64, dataset, level):
    """At least 24 steps; the first two epochs are plain."""
    words = "--no_probes", "--random_seed", 0
    own = "--method", "smv", "--level", level, "--warm_up", 2
    ours = trainer_of(tmp_path / "ours", *own, *words, dataset=dataset)
    theirs = trainer_of(tmp_path / "theirs", "--method", "joint", *words, dataset=dataset)
    model, split, alone = theirs.model, theirs.data.splits["train"], 0
    order, size, count = ShuffledBatches(len(split), 16, 0), len(split), 0
    for epoch in range(1, 5):
        count += len(ours.train_epoch())
        ours.epoch += 1
        if epoch > 2:
            order.copies = literal_copies(literal_values(model, split), level, epoch)
        model.train()
        order.epoch = epoch
        for numbers, _ in order:
            rows = [number % size for number in numbers]
            z = {k: encoder(split.inputs[k][rows]) for k, encoder in model.encoders.items()}
            losses = []
            for b, number in enumerate(numbers):
                kept = [k for i, k in enumerate(z) if number < size or number // size == i + 1]
                alone += len(kept) == 1
                x = torch.cat([z[k][b] if k in kept else torch.zeros_like(z[k][b]) for k in z])
                losses.append(-model.joint_head(x).log_softmax(0)[split.targets[rows[b]]])
            theirs.optimizer.zero_grad()
            (sum(losses) / len(losses)).backward()
            theirs.optimizer.step()
            count -= 1
    assert count == 0 and alone > 5
    assert_equal(ours.model, model, close=1e-9)


def test_limited_batches(tmp_path):
    """Samples beyond --limit_batches are not valued, and get no copies."""
    words = "--method", "smv", "--warm_up", 0, "--limit_batches", 2
    trainer = trainer_of(tmp_path / "run", *words, "--batch_size", 8)
    (step, *_) = trainer.train_epoch()
    copies = trainer.method.copies()
    assert copies[:16].any() and not copies[16:].any()
    assert step["measures"]["copies_b"] == pytest.approx(copies[:, 1].sum().item() / 104)
