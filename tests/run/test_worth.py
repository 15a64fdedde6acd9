"""What a modality is worth: Shapley values, linear probes and files of features."""

import re
from functools import partial
from itertools import combinations

import pytest
import reference_imbalance as literal
import torch
from toy_kinds import load, printed, runs

from mmpareto.data.batches import loader
from mmpareto.data.samples import to_device
from mmpareto.models.shapley import coalitions, shapley
from mmpareto.run import worth


class TestShapley:
    def test_two_modalities(self):
        """Worked out by hand: each adds its own, as the two do not overlap."""
        v = {"": 0.0, "a": 0.4, "v": 0.3, "av": 0.7}
        found = shapley("av", {frozenset(names): value for names, value in v.items()})
        assert found == pytest.approx({"a": 0.4, "v": 0.3})
        assert worth.Contribution({}, found).imbalance == pytest.approx(0.1)

    @pytest.mark.parametrize("number", [1, 3, 4])
    def test_mean_over_all_orders(self, number):
        names, random = "abcd"[:number], torch.Generator().manual_seed(number)
        every = [frozenset(), *coalitions(names)]
        assert len(set(every)) == 2**number and every[-1] == set(names)
        v = dict(zip(every, torch.rand(len(every), generator=random).tolist(), strict=True))
        found = shapley(names, v)
        assert found == pytest.approx(literal.shapley(names, lambda s: v[frozenset(s)]))
        assert sum(found.values()) == pytest.approx(v[every[-1]] - v[frozenset()], abs=1e-12)


class TestContribution:
    @runs("kinds", "tasks", "bottleneck")
    def test_by_loops(self, trained):
        """Accuracies with absent inputs at zero, sample by sample; several tasks have a mean."""
        _, _, data, model, device, _ = load(trained)
        split, names = data.splits["test"], list(data.modalities)
        found = worth.contribution(model, split, names, device, partial(loader, batches=7))
        assert len(found.accuracy) == 2 ** len(names)
        some = [c for n in range(1, len(names) + 1) for c in combinations(names, n)]
        for present in some:
            right = []
            for i in range(len(split)):
                batch = split.read([i])[0]
                inputs, targets = to_device(batch, device), split.targets[i].reshape(-1)
                absent = {k: torch.zeros_like(x) for k, x in inputs.items() if k not in present}
                with torch.no_grad():
                    logits = model.eval()({**inputs, **absent}).logits
                asked = data.tasks or ["joint"]
                right += [logits[k][0].argmax() == t for k, t in zip(asked, targets, strict=True)]
            assert found.accuracy[frozenset(present)] == pytest.approx(sum(right) / len(right))
        added = found.accuracy[frozenset(names)] - found.accuracy[frozenset()]
        assert sum(found.added.values()) == pytest.approx(added, abs=1e-12)

    def test_best_guess(self):
        assert worth.best_guess(torch.tensor([2, 0, 2, 1])) == 0.5
        assert worth.best_guess(torch.tensor([[0, 1], [0, 2], [3, 3], [0, 3]])) == 0.625

    @runs("kinds")
    def test_table(self, trained, capsys):
        out = printed(capsys, trained, "--contribution")
        joint = re.search(r"^joint +(\S+)", out, re.MULTILINE)[1]
        rows = re.findall(r"^(film|words|pose) +\S+ +([+-]\S+)$", out, re.MULTILINE)
        assert [name for name, _ in rows] == ["film", "words", "pose"]
        none, every = re.search(
            r"^none (\S+) \(.*\) \+ .* = all (\S+)$", out, re.MULTILINE
        ).groups()
        assert none == f"{11 / 33:.4f}" and every == joint
        added = [float(value) for _, value in rows]
        assert float(none) + sum(added) == pytest.approx(float(every), abs=3e-4)
        imbalance = re.search(r"^imbalance (\S+)", out, re.MULTILINE)[1]
        assert float(imbalance) == pytest.approx(max(added) - min(added), abs=2e-4)
