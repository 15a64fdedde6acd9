"""What a modality is worth: Shapley values, linear probes and files of features."""

from mmpareto.system import tensors

import re
from functools import partial
from itertools import combinations

import numpy as np
import pytest
import reference_imbalance as literal
import torch
from toy_kinds import load, printed, runs

from mmpareto.data.batches import loader
from mmpareto.data.samples import TensorSplit, to_device
from mmpareto.models.shapley import coalitions, shapley
from mmpareto.run import worth
from mmpareto.system.errors import UserError


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
    @runs("mmtm", "tasks")
    def test_one_pass_for_each_coalition(self, trained):
        """Absent inputs are at zero as the model reads them; several tasks have a mean."""
        _, _, data, model, device, _ = load(trained)
        split, names = data.splits["test"], list(data.modalities)
        found = worth.contribution(model, split, names, device, partial(loader, batches=7))
        assert len(found.accuracy) == 2 ** len(names)
        batch, targets = split.read(list(range(len(split))))
        inputs = to_device(batch, device)
        for present in (c for n in range(1, len(names) + 1) for c in combinations(names, n)):
            absent = {k: torch.zeros_like(x) for k, x in inputs.items() if k not in present}
            with torch.no_grad():
                logits = model.eval()({**inputs, **absent}).logits
            chosen = torch.stack([logits[k].argmax(1) for k in data.tasks or ["joint"]], dim=1)
            right = (chosen == targets.view(len(split), -1)).double().mean().item()
            assert found.accuracy[frozenset(present)] == pytest.approx(right)
        assert len(set(found.accuracy.values())) >= 2 ** (len(names) - 1)
        added = found.accuracy[frozenset(names)] - found.accuracy[frozenset()]
        assert sum(found.added.values()) == pytest.approx(added, abs=1e-12)

    @runs("kinds")
    def test_masked(self, trained):
        """Each sample has what it had of the coalition; with nothing left it counts as a guess."""
        _, _, data, model, device, _ = load(trained)
        split, names = data.splits["test"].subset(range(31)), list(data.modalities)
        with torch.no_grad():
            batch = to_device(split.read(list(range(len(split))))[0], device)
            features = model.eval()(batch).features
        random = torch.Generator().manual_seed(0)
        some = torch.rand(len(split), 3, generator=random) < 0.6
        for given in (None, some, some & torch.tensor([True, True, False])):
            split.present = given
            load_7 = partial(loader, batches=7)
            found = worth.contribution(model, split, names, device, load_7, masked=True)
            guess = split.targets.mode().values
            for present, accuracy in found.accuracy.items():
                right = 0
                for i, target in enumerate(split.targets):
                    has = [n for k, n in enumerate(names) if given is None or given[i, k]]
                    own = {n: z[[i]] * (n in has and n in present) for n, z in features.items()}
                    left = present & set(has)
                    right += (model.joint(own).argmax() if left else guess) == target
                assert accuracy == pytest.approx(right / len(split))
            assert len(set(found.accuracy.values())) > 3

    def test_best_guess(self):
        assert worth.best_guess(torch.tensor([2, 0, 2, 1])) == 0.5
        assert worth.best_guess(torch.tensor([[0, 1], [0, 2], [3, 3], [0, 3]])) == 0.625

    @runs("kinds")
    def test_table(self, trained, tmp_path, capsys):
        out = printed(capsys, trained, "--contribution")
        assert "Shapley values, absent ones at zero\n" in out
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
        state = tensors.read(trained)
        tensors.write(tmp_path / "last.pt",
                      state | {"config": state["config"] | {"modality_dropout": 0.5}})  # fmt: skip
        out = printed(capsys, tmp_path / "last.pt", "--contribution")
        assert "Shapley values, absent ones masked as in training\n" in out


class TestFeatures:
    @runs("kinds", "tasks", "bottleneck")
    def test_file(self, trained, tmp_path, capsys):
        """The features are those of each sample alone; numpy reads the file without pickle."""
        path = tmp_path / "features.npz"
        out = printed(capsys, trained, "--features", path, "--batch_size", 5)
        assert out.endswith(f"\nFeatures of every sample: {path}\n")
        _, _, data, model, device, _ = load(trained)
        split = data.splits["test"]
        with np.load(path, allow_pickle=False) as file:
            found = dict(file)
        assert found.pop("ids").tolist() == split.ids
        assert found.pop("classes").tolist() == data.classes
        assert np.array_equal(found.pop("targets"), split.targets.numpy())
        assert tuple(found.pop("tasks", ())) == data.tasks
        assert list(found) == [f"features_{name}" for name in data.tasks or data.modalities]
        for i in range(len(split)):
            with torch.no_grad():
                features = model.eval()(to_device(split.read([i])[0], device)).features
            for name, own in features.items():
                np.testing.assert_allclose(found[f"features_{name}"][i], own[0], atol=1e-5)

    @runs("kinds")
    def test_not_finite(self, trained):
        _, _, data, model, device, _ = load(trained)
        split = data.splits["test"]
        inputs, _ = split.read(list(range(len(split))))
        inputs["pose"] *= torch.inf
        batches = loader(TensorSplit(inputs, split.targets), 8)
        with pytest.raises(UserError, match=r"features are not finite \(pose\)"):
            worth.features(model, batches, device)


def made(size, seed):
    """Two kinds of features of unlike scales; the label follows from both."""
    random = np.random.default_rng(seed)
    one, other = random.normal(3, 0.01, (size, 2)), random.normal(0, 1000, (size, 3))
    hidden = 100 * (one - 3) + other[:, :2] / 1000 + random.normal(0, 0.5, (size, 2))
    targets = (hidden[:, 0] > 0).astype(int) + (hidden[:, 1] > 0.4)
    values = {"one": one.astype(np.float32), "other": other.astype(np.float32)}
    return worth.Features(values, targets)


class TestLinearProbe:
    def literal(self, x, y, z):
        """The classes of z, from the whole objective in float64."""
        mean, deviation = x.mean(0), x.std(0)
        x, z = (torch.tensor((v - mean) / deviation) for v in (x, z))
        w = torch.zeros(x.shape[1] + 1, 3, dtype=torch.float64, requires_grad=True)
        search = {"line_search_fn": "strong_wolfe", "tolerance_grad": 1e-9}
        optimizer = torch.optim.LBFGS([w], max_iter=500, **search)

        def objective():
            optimizer.zero_grad()
            logits = x @ w[:-1] + w[-1]
            loss = torch.nn.functional.cross_entropy(logits, torch.tensor(y), reduction="sum")
            whole = worth.C * loss + w[:-1].square().sum() / 2
            whole.backward()
            return whole

        optimizer.step(objective)
        return (z @ w[:-1] + w[-1]).argmax(1).numpy()

    def test_by_its_objective(self):
        fitted, scored = made(90, 0), made(400, 1)
        x, z = (
            [v.astype(float) for v in (*part.of.values(), np.hstack([*part.of.values()]))]
            for part in (fitted, scored)
        )
        found = worth.linear_probes(fitted, scored)
        assert list(found) == ["one", "other", "all together"]
        assert [probe.width for probe in found.values()] == [2, 3, 5]
        for ours, theirs, probe in zip(x, z, found.values(), strict=True):
            right = self.literal(ours, fitted.targets, theirs) == scored.targets
            assert probe.accuracy == pytest.approx([right.mean()], abs=1 / 400)
            assert probe.converged
        one, other, both = (probe.accuracy[0] for probe in found.values())
        assert both > max(one, other) + 0.05

    @runs("kinds", "tasks")
    def test_table(self, trained, capsys):
        """Each task has its column; features of one modality need no second row."""
        out = printed(capsys, trained, "--linear_probe")
        assert printed(capsys, trained, "--linear_probe", "--batch_size", "7") == out
        _, _, data, model, device, _ = load(trained)
        fitted, scored = (
            worth.features(model, loader(data.splits[part], 16), device)
            for part in ("train", "test")
        )
        assert f"fitted to {len(fitted.targets)} samples of train" in out and "WARNING" not in out
        for name, probe in worth.linear_probes(fitted, scored).items():
            assert len(probe.accuracy) == max(1, len(data.tasks))
            cells = "  ".join([f"{probe.width:5}", *(f"{a:.4f}" for a in probe.accuracy)])
            assert re.search(rf"^{name} +{cells}$", out, re.MULTILINE)

    @runs("alone")
    def test_scored_on_what_it_was_fitted_to(self, trained, capsys, monkeypatch):
        monkeypatch.setattr(worth, "ITERATIONS", 1)
        out = printed(capsys, trained, "--linear_probe", "--part", "train")
        assert "WARNING: scored on the samples they were fitted to" in out
        assert "not converged in 1 iterations: words" in out and "all together" not in out

    @runs("kinds")
    def test_classes(self, trained, capsys):
        """They are checked before anything is evaluated."""
        with pytest.raises(UserError, match="all samples of the training split have class '=1"):
            printed(capsys, trained, "--linear_probe", "--limit_batches", "1", "--batch_size", "1")
        assert capsys.readouterr().out == ""
        fitted, scored = torch.tensor([[0, 1], [1, 0]]), torch.tensor([[0, 1], [1, 2]])
        worth.check_probes(fitted, fitted, ["x", "y", "z"], "val")
        with pytest.raises(UserError, match="val has class 'z', of which the training split has"):
            worth.check_probes(fitted, scored, ["x", "y", "z"], "val")
