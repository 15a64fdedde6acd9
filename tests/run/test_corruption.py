"""One modality missing or corrupted, against a literal recomputation."""

import re
from functools import partial

import numpy as np
import pytest
import torch
from toy_kinds import TRAINED, as_read, load, printed, runs

from mmpareto.data.batches import loader
from mmpareto.run import corruption, scores


def predicted(model, inputs):
    """Return {name: class} of one sample."""
    with torch.no_grad():
        output = model.eval()({name: torch.tensor(x)[None] for name, x in inputs.items()})
    return {name: int(u[0].argmax()) for name, u in output.logits.items()}


def literal(model, data, split, severities, seed):
    """Compute the rows of `robustness` by loops: [(modality, input, {name: accuracy})]."""
    size = len(split)
    clean, targets = [], []
    for i in range(size):
        inputs, target = split.read([i])
        clean.append({name: as_read(x[0].numpy()) for name, x in inputs.items()})
        targets.append(target[0].tolist())
    ring = list(np.random.RandomState(seed).permutation(size))
    after = {ring[i]: ring[(i + 1) % size] for i in range(size)}

    def scored(samples):
        right: dict[str, int] = {}
        for inputs, target in zip(samples, targets, strict=True):
            for column, (name, p) in enumerate(predicted(model, inputs).items()):
                truth = target[column] if isinstance(target, list) else target
                right[name] = right.get(name, 0) + (p == truth)
        return {name: count / size for name, count in right.items()}

    rows = [("", "as it is", scored(clean))]
    for number, (name, spec) in enumerate(data.modalities.items()):
        values = [x[name] for x in clean]
        changed = {"zeros": [0 * x for x in values]}
        changed["shuffled"] = [values[after[i]] for i in range(size)]
        for severity in severities:
            samples = [x.copy() for x in values]
            draws = [np.random.RandomState([seed, number, i]) for i in range(size)]
            if spec.kind == "tokens":
                share = severity**2 / (1 + severity**2)
                changed[f"replaced {100 * share:.0f}%"] = samples
                for x, draw in zip(samples, draws, strict=True):
                    whether, which = draw.random_sample((2, len(x)))
                    for k in range(len(x)):
                        if x[k] != 0 and whether[k] < share:
                            x[k] = 1 + int(which[k] * (spec.vocabulary - 1))
            else:
                deviation = severity * np.std(np.stack(values).astype(np.float64))
                changed[f"noise {severity:g}"] = samples
                for x, draw in zip(samples, draws, strict=True):
                    x[:] = x + deviation * draw.standard_normal(x.shape)
        for key, samples in changed.items():
            mixed = [{**x, name: new} for x, new in zip(clean, samples, strict=True)]
            rows.append((name, key, scored(mixed)))
    return rows


class TestRobustness:
    @runs(*TRAINED)
    def test_is_its_literal_recomputation(self, trained):
        """It holds for any kind of modality, early and late fusion, one modality, and two tasks."""
        _, _, data, model, device, _ = load(trained)
        split = data.splits["test"].subset(range(9))
        settings = {"severities": (0.5, 2.0), "seed": 3}
        make = partial(loader, batches=4)
        rows = corruption.robustness(model, split, data.modalities, device, make, **settings)
        expected = literal(model, data, split, **settings)
        assert len(rows) == 1 + 4 * len(data.modalities)
        for row, (modality, input, accuracies) in zip(rows, expected, strict=True):
            assert (row["modality"], row["input"]) == (modality, input)
            own = {scores.column("Acc", name): accuracy for name, accuracy in accuracies.items()}
            own.setdefault("Acc", sum(own.values()) / len(own))
            assert {name: row[name] for name in own} == pytest.approx(own, abs=1e-12)
        assert len({tuple(a.values()) for _, _, a in expected}) > 2  # it does change something

    @runs("kinds")
    def test_inputs_are_the_same_in_any_batch(self, trained):
        _, _, data, *_ = load(trained)
        split = data.splits["test"]
        deviations = [
            corruption.standard_deviations(loader(split, batches=size), data.modalities)
            for size in (1, 7, 33)
        ]
        assert deviations[0] == deviations[1] == deviations[2]
        for _, _, changed in corruption.corruptions(split, data.modalities, deviations[0]):
            whole, _ = changed.read(list(range(33)))
            backwards, _ = changed.read(list(range(32, -1, -1)))
            for name, values in whole.items():
                assert torch.equal(values, backwards[name].flip(0))
                alone = torch.cat([changed.read([i])[0][name] for i in range(33)])
                assert torch.equal(values, alone)

    @runs("tasks")
    def test_same_table_with_any_batch_size_and_workers(self, trained, capsys):
        words = [trained, "--robustness", "--random_seed", 1]
        first = printed(capsys, *words)
        assert first == printed(capsys, *words, "--batch_size", 5, "--workers", 1)
        assert "(seed 1)" in first
        assert "replaced" not in first and "noise S" in first  # notes are of what there is
        assert re.search(r"modality +its input +mean +easy +hard", first)
        other = printed(capsys, trained, "--robustness", "--severities", "0.5,1,2")
        assert first.replace("(seed 1)", "(seed 0)") != other

    @runs("kinds")
    def test_table(self, trained, capsys):
        out = printed(capsys, trained, "--robustness", "--severities", "1, 3")
        summary, table = out.split("\nAccuracy with one modality missing")
        assert "replaced 50%" in table and "replaced 90%" in table
        joint = re.search(r"^joint +(\S+)", summary, re.MULTILINE)[1]
        assert re.search(rf"^ +as it is +{joint} ", table, re.MULTILINE)
        rows = re.findall(r"^(film|words|pose) +(zeros|shuffled|noise|replaced)", table, re.M)
        assert len(rows) == 12
        notes = re.findall(r"^(\w+)[^:\n]*: ", table, re.MULTILINE)
        assert notes == ["zeros", "shuffled", "noise", "replaced"]
        assert all(len(line) <= 80 for line in table.splitlines())

    @runs("kinds")
    def test_of_the_first_batches(self, trained, capsys):
        """Donors and deviations come from the scored samples only."""
        out = printed(capsys, trained, "--robustness", "--batch_size", 5, "--limit_batches", 3)
        _, _, data, model, device, _ = load(trained)
        part, whole = data.splits["test"].subset(range(15)), partial(loader, batches=15)
        rows = corruption.robustness(model, part, data.modalities, device, whole)
        assert "15 of 33 samples" in out
        table = out.split("Accuracy")[1]
        shown = re.findall(r"^(?:film|words|pose)? +.*?(\d\.\d{4}) ", table, re.M)
        assert shown == [f"{row['Acc']:.4f}" for row in rows]

    def test_every_donor_is_another_sample(self):
        assert corruption.other_samples(1, 0) == [0]
        for size in (2, 3, 50):
            donors = corruption.other_samples(size, 7)
            assert sorted(donors) == list(range(size))
            assert all(donor != i for i, donor in enumerate(donors))
        assert corruption.other_samples(50, 7) != corruption.other_samples(50, 8)

    def test_stronger_noise_is_the_same_noise(self):
        x = torch.randn(400, 3, 5)
        draw = partial(corruption._random, 0, 0)
        indices = list(range(400))
        weak = corruption.noisy(draw, 0.5, x, indices) - x
        strong = corruption.noisy(draw, 2.0, x, indices) - x
        assert torch.allclose(4 * weak, strong, atol=1e-5)
        assert strong.std().item() == pytest.approx(2, rel=0.03)
        assert corruption.noisy(draw, 1e300, x, indices).shape == x.shape

    def test_tokens(self):
        """Padding stays. The share asked for is drawn from the whole vocabulary without 0."""
        tokens = torch.randint(1, 9, (1500, 4))
        tokens[:, 3] = 0
        before, draw = tokens.clone(), partial(corruption._random, 0, 0)
        indices = list(range(1500))
        weak = corruption.replaced(draw, 0.2, 9, tokens, indices)
        strong = corruption.replaced(draw, 0.8, 9, tokens, indices)
        assert torch.equal(tokens, before) and not weak[:, 3].any()
        assert set(strong[:, :3].flatten().tolist()) == set(range(1, 9))
        was_changed = weak != tokens
        assert torch.equal(weak[was_changed], strong[was_changed])
        kept = 1 / 8  # of the tokens drawn anew, by chance
        for values, share in ((weak, 0.2), (strong, 0.8)):
            changed = (values != tokens)[:, :3].double().mean().item()
            assert changed == pytest.approx(share * (1 - kept), abs=0.015)
        only_padding = torch.zeros(2, 4, dtype=torch.int64)
        assert torch.equal(corruption.replaced(draw, 0.8, 1, only_padding, [0, 1]), only_padding)
