"""evaluate.py beside slow recomputations: classes, predictions, modalities missing or corrupted."""

from mmpareto.system import tables as layout
from mmpareto.system import tensors

import csv
import os
import re
from functools import partial

import numpy as np
import pytest
import torch

import evaluate
import train
from mmpareto.data.batches import loader
from mmpareto.data.samples import Data, Modality, TensorSplit
from mmpareto.datasets import DATASETS, Dataset
from mmpareto.datasets.shared.prepared import PreparedSplit
from mmpareto.run import checkpoint, corruption, scores
from mmpareto.system.errors import UserError

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


@pytest.fixture(autouse=True)
def kinds(toys, monkeypatch):
    monkeypatch.setattr(
        DATASETS, "parts", DATASETS.parts | {"toy_kinds": ToyKinds, "toy_alone": ToyAlone}
    )


TRAINED = {
    "kinds": ["--dataset", "toy_kinds", "--encoder", "film=cnn"],
    "alone": ["--dataset", "toy_alone"],
    "bottleneck": ["--dataset", "toy_kinds", "--fusion", "bottleneck"],
    "mmtm": ["--dataset", "toy3", "--encoder", "cnn", "--fusion", "mmtm"],
    "tasks": ["--dataset", "toy_tasks", "--encoder", "cnn"],
}


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def run(request, folders):
    """The last checkpoint of one of the runs above, each made once."""
    path = folders / request.param / "last.pt"
    if not path.exists():
        train.main([*TRAINED[request.param], "--epochs", "1", "--out", str(path.parent)])
    return path


def runs(*names):
    return pytest.mark.parametrize("run", names, indirect=True)


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


def predicted(model, inputs):
    """Of one sample: {name: class}."""
    with torch.no_grad():
        output = model.eval()({name: torch.tensor(x)[None] for name, x in inputs.items()})
    logits = {} if output.joint is None else {"joint": output.joint}
    logits |= output.unimodal
    return {name: int(u[0].argmax()) for name, u in logits.items()}


def literal(model, data, split, severities, seed):
    """The rows of `robustness`, sample by sample: [(modality, input, {name: accuracy})]."""
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
        changed = {
            "zeros": [0 * x for x in values],
            "shuffled": [values[after[i]] for i in range(size)],
        }
        for severity in severities:
            if spec.kind == "tokens":
                share = severity**2 / (1 + severity**2)
                key, samples = f"replaced {100 * share:.0f}%", []
                for i, x in enumerate(values):
                    whether, which = np.random.RandomState([seed, number, i]).random_sample(
                        (2, len(x))
                    )
                    samples.append(x.copy())
                    for k in range(len(x)):
                        if x[k] != 0 and whether[k] < share:
                            samples[-1][k] = 1 + int(which[k] * (spec.vocabulary - 1))
            else:
                deviation = np.std(np.stack(values).astype(np.float64))
                key = f"noise {severity:g}"
                samples = [
                    (
                        x
                        + severity
                        * deviation
                        * np.random.RandomState([seed, number, i]).standard_normal(x.shape)
                    ).astype(x.dtype)
                    for i, x in enumerate(values)
                ]
            changed[key] = samples
        for key, samples in changed.items():
            mixed = [{**x, name: new} for x, new in zip(clean, samples, strict=True)]
            rows.append((name, key, scored(mixed)))
    return rows


@runs("kinds")
def test_an_epoch_that_the_scored_split_chose_says_so(run, capsys):
    """Without a validation split that is what best.pt is; last.pt is nobody's choice."""
    assert "epoch 1\n" in printed(capsys, run)
    best = run.with_name("best.pt")
    assert "epoch 1, which was chosen on this split\n" in printed(capsys, best)
    assert "epoch 1\n" in printed(capsys, best, "--part", "train")


class TestRobustness:
    @runs(*TRAINED)
    def test_is_its_literal_recomputation(self, run):
        """Any kind of modality, early and late fusion, one modality or three, two tasks."""
        _, _, data, model, device, _ = load(run)
        split = data.splits["test"].subset(range(20))
        settings = {"severities": (0.5, 2.0), "seed": 3}
        make = partial(loader, batches=7)
        rows = corruption.robustness(model, split, data.modalities, device, make, **settings)
        expected = literal(model, data, split, **settings)
        assert len(rows) == 1 + 4 * len(data.modalities)
        for row, (modality, input, accuracies) in zip(rows, expected, strict=True):
            assert (row["modality"], row["input"]) == (modality, input)
            own = {scores.column("Acc", name): accuracy for name, accuracy in accuracies.items()}
            assert {name: row[name] for name in own} == pytest.approx(own, abs=1e-12)
            assert row["Acc"] == pytest.approx(
                own.get("Acc", sum(own.values()) / len(own)), abs=1e-12
            )
        assert len({tuple(a.values()) for _, _, a in expected}) > 2  # it does change something

    @runs("kinds")
    def test_inputs_are_the_same_in_any_batch(self, run):
        _, _, data, *_ = load(run)
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
    def test_same_table_with_any_batch_size_and_workers(self, run, capsys):
        first = printed(capsys, run, "--robustness", "--random_seed", 1)
        again = printed(
            capsys, run, "--robustness", "--random_seed", 1, "--batch_size", 5, "--workers", 2
        )
        other = printed(capsys, run, "--robustness", "--severities", "0.5,1,2")
        assert first == again and "(seed 1)" in first
        assert first.replace("(seed 1)", "(seed 0)") != other

    @runs("kinds")
    def test_table(self, run, capsys):
        out = printed(capsys, run, "--robustness", "--severities", "1, 3")
        summary, table = out.split("\nAccuracy with one modality missing")
        assert "replaced 50%" in table and "replaced 90%" in table
        joint = re.search(r"^joint +(\S+)", summary, re.MULTILINE)[1]
        assert re.search(rf"^ +as it is +{joint} ", table, re.MULTILINE)
        rows = re.findall(r"^(film|words|pose) +(zeros|shuffled|noise|replaced)", table, re.M)
        assert len(rows) == 12
        notes = re.findall(r"^(\w+)[^:\n]*: ", table, re.MULTILINE)
        assert notes == ["zeros", "shuffled", "noise", "replaced"]
        assert all(len(line) <= 80 for line in out.splitlines())

    @runs("tasks")
    def test_notes_are_of_what_there_is(self, run, capsys):
        out = printed(capsys, run, "--robustness")
        assert "replaced" not in out and "noise S" in out
        assert re.search(r"modality +its input +mean +easy +hard", out)

    @runs("kinds")
    def test_of_the_first_batches(self, run, capsys):
        """Donors and deviations are of the samples that are scored."""
        out = printed(capsys, run, "--robustness", "--batch_size", 5, "--limit_batches", 3)
        _, _, data, model, device, _ = load(run)
        part = data.splits["test"].subset(range(15))
        rows = corruption.robustness(
            model, part, data.modalities, device, partial(loader, batches=15)
        )
        assert "15 of 33 samples" in out
        shown = re.findall(
            r"^(?:film|words|pose)? +.*?(\d\.\d{4}) ", out.split("Accuracy")[1], re.M
        )
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
        """Padding stays; others come from the whole vocabulary but 0, with the share asked for."""
        tokens = torch.randint(1, 9, (3000, 4))
        tokens[:, 3] = 0
        before, draw = tokens.clone(), partial(corruption._random, 0, 0)
        indices = list(range(3000))
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


class TestPerClass:
    predictions = {"joint": [0, 1, 1, 3, 3], "a": [0, 0, 0, 0, 0]}
    targets = {"joint": [0, 1, 2, 1, 0], "a": [0, 1, 2, 1, 0]}

    def test_by_loops(self):
        found = scores.per_class(self.predictions, self.targets, 5)
        tables = scores.confusion(self.predictions, self.targets, 5)
        for name, predictions in self.predictions.items():
            pairs = list(zip(self.targets[name], predictions, strict=True))
            for k in range(5):
                right = sum(truth == p == k for truth, p in pairs)
                samples = sum(truth == k for truth, _ in pairs)
                claimed = sum(p == k for _, p in pairs)
                recall = right / samples if samples else np.nan
                precision = right / claimed if claimed else np.nan
                f1 = 2 * right / (samples + claimed) if samples + claimed else np.nan
                numbers = [values[k] for values in found[name]]
                np.testing.assert_allclose(numbers, [precision, recall, f1, samples])
                for other in range(5):
                    assert tables[name][k, other] == pairs.count((k, other))

    @runs("kinds")
    def test_table(self, run, capsys):
        """The short summary comes first; a class without samples has no recall."""
        plain = printed(capsys, run)
        out = printed(capsys, run, "--per_class")
        assert out.startswith(plain) and len(plain.splitlines()) == 6
        _, _, data, model, device, _ = load(run)
        batches = loader(data.splits["test"], 8)
        predictions, targets = scores.predict(model, batches, device)
        right = [p == t == 1 for p, t in zip(predictions["pose"], targets["pose"], strict=True)]
        row = re.search(r"^plain +(.*)", out, re.MULTILINE)[1].split()
        assert row[0] == "11" and row[6] == f"{sum(right) / 11:.3f}"
        assert re.search(r'^\\ttab, "and" a\\rreturn +0 +- +- +- +- +- +-$', out, re.MULTILINE)

    @runs("tasks")
    def test_a_table_for_each_task(self, run, capsys):
        out = printed(capsys, run, "--per_class")
        assert re.findall(r"^Each class of (\w+)$", out, re.MULTILINE) == ["easy", "hard"]
        samples = re.findall(r"^class \d +(\d+)", out, re.MULTILINE)
        assert samples == ["12"] * 4 + ["24", "24", "0", "0"]

    @pytest.mark.parametrize("modalities", [2, 5])
    def test_many_classes_with_long_names(self, modalities, capsys):
        """Names are broken into lines, never cut; two modalities stay within 80 columns."""
        classes = [f"playing the {'very ' * (k % 9)}long_and_winding_{'x' * k}" for k in range(100)]
        names = ["joint", *(f"camera_of_the_front_{k}" for k in range(modalities))]
        one = scores.PerClass(*np.random.default_rng(0).random((3, 100)), np.full(100, 12))
        data = Data("toy", classes, {}, {}, {})
        evaluate.show_classes(dict.fromkeys(names, one), data)
        lines = capsys.readouterr().out.splitlines()
        assert modalities > 2 or max(map(len, lines)) <= 80
        rule = next(line for line in lines if line.startswith("---"))
        first = rule.index(" ")
        assert first >= 16
        body = lines[lines.index(rule) + 1 :]
        assert "".join(line[:first] for line in body).replace(" ", "") == "".join(classes).replace(
            " ", ""
        )
        assert sum(" 12 " in line for line in body) == 100


class TestPredictions:
    @runs("kinds", "tasks")
    def test_file(self, run, tmp_path, capsys):
        path = tmp_path / "predictions.csv"
        out = printed(capsys, run, "--predictions", path, "--batch_size", 5)
        assert out.endswith(f"\nPrediction of every sample: {path}\n")
        _, _, data, model, *_ = load(run)
        split = data.splits["test"]
        with open(path, newline="", encoding="utf-8") as file:
            rows = [
                {key: layout.unquote_formula(cell) for key, cell in row.items()}
                for row in csv.DictReader(file)
            ]
        assert [row["id"] for row in rows] == [str(i) for i in range(len(split))]
        for i, row in enumerate(rows):
            inputs, targets = split.read([i])
            inputs = {name: torch.tensor(as_read(x.numpy())) for name, x in inputs.items()}
            with torch.no_grad():
                output = model.eval()(inputs)
            logits = {} if output.joint is None else {"joint": output.joint}
            logits |= output.unimodal
            for column, (name, u) in enumerate(logits.items()):
                chances = torch.exp(u[0]) / torch.exp(u[0]).sum()
                best = int(chances.argmax())
                assert row[scores.column("prediction", name)] == data.classes[best]
                assert float(row[scores.column("probability", name)]) == pytest.approx(
                    chances[best].item(), abs=2e-6
                )
                if data.tasks:
                    assert row[scores.column("label", name)] == data.classes[targets[0, column]]
            if not data.tasks:
                assert row["label"] == data.classes[targets[0]]
        assert len(rows[0]) == (7 if data.tasks else 10)

    @pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "'=", "''@"])
    def test_no_formula(self, tmp_path, start):
        """No cell begins as one, and every text is found again."""
        text = f'{start}HYPERLINK("http://x", "y")'
        layout.write_table(tmp_path / "t.csv", ["id"], [{"id": layout.quote_formula(text)}])
        with open(tmp_path / "t.csv", encoding="utf-8", newline="") as file:
            header, cells = csv.reader(file)
        assert header == ["id"] and cells[0] == "'" + text
        assert layout.unquote_formula(cells[0]) == text

    @pytest.mark.parametrize("text", ["", "cat", "'tis", "'", "a=b", "''", "1-2", "dog\rcat\nowl"])
    def test_other_text_stays(self, text):
        assert layout.quote_formula(text) == layout.unquote_formula(text) == text

    def test_ids_of_prepared_sets(self):
        rows = [{"id": id, "label": "x"} for id in ("b", "-a", "c")]
        split = PreparedSplit(None, rows, {}, {"x": 0})
        assert split.ids == ["b", "-a", "c"] and split.subset([2, 0]).ids == ["c", "b"]

    @runs("kinds")
    def test_interrupted_or_full_disk(self, run, tmp_path, monkeypatch):
        def fails(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", fails)
        with pytest.raises(UserError, match=r"p\.csv: cannot be written \(No space left"):
            evaluate.main([str(run), "--predictions", str(tmp_path / "p.csv")])
        assert list(tmp_path.iterdir()) == []


class TestErrors:
    def error(self, *arguments):
        """Before anything is loaded: there is no such checkpoint."""
        with pytest.raises(UserError) as caught:
            evaluate.main(["nothing.pt", *map(str, arguments)])
        assert "\n" not in str(caught.value) and "nothing.pt" not in str(caught.value)
        return str(caught.value)

    def test_predictions(self, tmp_path, monkeypatch):
        old = tmp_path / "old.csv"
        old.write_text("kept")
        assert f"--predictions {old}: it exists already" in self.error("--predictions", old)
        assert old.read_text() == "kept"
        assert "it exists already" in self.error("--predictions", tmp_path)
        missing = tmp_path / "no" / "p.csv"
        assert f"no folder {missing.parent}: make it" in self.error("--predictions", missing)
        assert "there is no folder" in self.error("--predictions", old / "p.csv")
        long = tmp_path / ("x" * 300)
        assert "File name too long" in self.error("--predictions", long)
        monkeypatch.setattr(os, "access", lambda path, mode: False)
        assert "is not writable" in self.error("--predictions", tmp_path / "p.csv")

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--severities", "1"], "--severities acts only with --robustness"),
            (["--random_seed", "0"], "--random_seed acts only with --robustness"),
            (["--robustness", "--severities", "1,x"], "'x' is not a positive number"),
            (["--robustness", "--severities", "0"], "'0' is not a positive number"),
            (["--robustness", "--severities", "1,,2"], "'' is not a positive number"),
            (["--robustness", "--random_seed", "-1"], "'-1' is not a whole number from 0"),
        ],
    )
    def test_flags(self, flags, message):
        assert message in self.error(*flags)

    @runs("kinds")
    def test_nothing_is_drawn_from_the_global_generators(self, run):
        torch.manual_seed(5)
        np.random.seed(5)
        expected = torch.rand(1), np.random.rand()
        state = tensors.read(run)
        _, _, data, model, device, _ = load(run)
        torch.manual_seed(5)
        np.random.seed(5)
        corruption.robustness(
            model, data.splits["test"], data.modalities, device,
            partial(loader, batches=33),
        )  # fmt: skip
        assert (torch.rand(1), np.random.rand()) == expected
        for name, value in model.state_dict().items():
            assert torch.equal(value, state["model"][name])
