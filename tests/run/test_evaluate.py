"""evaluate.py: scores, tables of classes and samples, and errors."""

from mmpareto.system import tables as layout
from mmpareto.system import tensors

import csv
import os
import re
import runpy
from functools import partial

import numpy as np
import pytest
import torch
from sklearn import metrics
from toy_kinds import as_read, load, printed, runs

import evaluate
from mmpareto.data.batches import loader
from mmpareto.data.samples import Data
from mmpareto.datasets.shared.prepared import PreparedSplit
from mmpareto.run import corruption, scores
from mmpareto.system.errors import UserError


class TestCommand:
    def test_same_scores_as_training(self, done, capsys):
        log = (done / "train.log").read_text()
        trained = re.search(r"Result \(last\): test Acc (\S+)  Acc_a (\S+)  Acc_b (\S+)", log)
        out = printed(capsys, done / "last.pt", "--batch_size", 7)
        identity = tensors.read(done / "last.pt")["data"]["identity"]
        line = f"toy test, 48 of 48 samples, identity {identity}; mmpareto, seed 0, epoch 2"
        assert line in out
        found = re.findall(r"^(?:joint|a|b) +(\S+)", out, re.MULTILINE)
        assert found == list(trained.groups())

    def test_part(self, done, capsys):
        assert "toy val, 40 of 40 samples" in printed(capsys, done / "best.pt", "--part", "val")
        with pytest.raises(
            UserError, match="--part dev: toy has no such split: choose train, val, test"
        ):
            evaluate.main([str(done / "best.pt"), "--part", "dev"])

    def test_another_architecture(self, copied):
        state = tensors.read(copied / "last.pt")
        state["config"]["encoder"] = ["resnet18"]
        tensors.write(copied / "last.pt", state)
        with pytest.raises(UserError, match="another architecture"):
            evaluate.main([str(copied / "last.pt")])

    @pytest.mark.parametrize(
        ("file", "message"),
        [("config.json", "error: checkpoint "), ("nothing.pt", "nothing.pt: no such file")],
    )
    def test_started_as_a_program(self, done, file, message, monkeypatch, capsys):
        """Without a checkpoint it prints one line and exits with 2."""
        monkeypatch.setattr("sys.argv", ["evaluate.py", str(done / file)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(evaluate.__file__, run_name="__main__")
        error = capsys.readouterr().err
        assert ended.value.code == 2 and message in error and error.count("\n") == 1

    @runs("kinds")
    def test_an_epoch_that_the_scored_split_chose_says_so(self, trained, capsys):
        """Without a validation split, the test split has chosen best.pt; nothing chose last.pt."""
        assert "epoch 1\n" in printed(capsys, trained)
        best = trained.with_name("best.pt")
        assert "epoch 1, which was chosen on this split\n" in printed(capsys, best)
        assert "epoch 1\n" in printed(capsys, best, "--part", "train")


def test_scores_are_those_of_scikit_learn():
    """They are equal to the bit; a class that occurs nowhere does not count."""
    random = np.random.default_rng(0)
    for classes in (1, 2, 5, 100):
        truth, found = random.integers(0, classes, (2, 80)).tolist()
        f1 = metrics.f1_score(truth, found, average="macro")
        expected = metrics.accuracy_score(truth, found), f1
        assert scores.score({"a": found}, {"a": truth})["a"] == expected


class TestRanking:
    def predicted(self, truth, classes=3):
        """Random logits, with ties, for these labels."""
        logits = np.random.default_rng(1).integers(-3, 4, (len(truth), classes)).astype(np.float32)
        return scores.Predicted(
            {"a": logits.argmax(1).tolist()}, {"a": truth}, {"a": logits}, {"a": []}
        )

    def test_by_pairs(self):
        """AUROC is the share of pairs in order, a tie counts half; AP is the mean of precisions."""
        truth = (np.arange(40) % 3).tolist()
        found = self.predicted(truth)
        chances = torch.tensor(found.logits["a"]).double().softmax(1).tolist()
        aurocs, precisions, recalls = [], [], []
        for k in range(3):
            own = [p[k] for p, t in zip(chances, truth, strict=True) if t == k]
            rest = [p[k] for p, t in zip(chances, truth, strict=True) if t != k]
            won = [(x > y) + (x == y) / 2 for x in own for y in rest]
            aurocs.append(np.mean(won))
            claims = [(sum(x >= cut for x in own), sum(y >= cut for y in rest)) for cut in own]
            precisions.append(np.mean([right / (right + wrong) for right, wrong in claims]))
            hits = [p == k for p, t in zip(found.predictions["a"], truth, strict=True) if t == k]
            recalls.append(np.mean(hits))
        expected = np.mean(recalls), np.mean(aurocs), np.mean(precisions)
        ranks = scores.ranking(found)
        assert ranks["a"] == pytest.approx(expected) and ranks["joint"] == ranks["a"]

    def test_two_classes(self):
        """AUROC is the one that is usual for two classes; mAP has both classes in it."""
        truth = [0, 1, 1, 0, 1] * 5
        found = self.predicted(truth, 2)
        own = found.probabilities["a"]
        _, auroc, mean_precision = scores.ranking(found)["a"]
        assert auroc == pytest.approx(metrics.roc_auc_score(truth, own[:, 1]))
        one = metrics.average_precision_score(truth, own[:, 1])
        other = metrics.average_precision_score([1 - t for t in truth], own[:, 0])
        assert mean_precision == pytest.approx((one + other) / 2)

    def test_sure_predictions_keep_their_order(self):
        """In float32 the probabilities of both samples would be 1."""
        logits = np.array([[30, 0], [29, 0]], np.float32)
        found = scores.Predicted({"a": [0, 0]}, {"a": [0, 1]}, {"a": logits}, {"a": []})
        assert scores.ranking(found)["a"] == (0.5, 1, 1)

    def test_classes_without_samples(self):
        """They do not count; with a single class nothing is ranked."""
        truth = [0, 2, 2, 0, 2, 0]
        found = self.predicted(truth)
        own = found.probabilities["a"]
        _, auroc, _ = scores.ranking(found)["a"]
        single = [metrics.roc_auc_score([t == k for t in truth], own[:, k]) for k in (0, 2)]
        assert auroc == pytest.approx(np.mean(single))
        balanced, *ranks = scores.ranking(self.predicted([1] * 8))["a"]
        assert 0 <= balanced <= 1 and np.isnan(ranks).all()

    def shown(self, out):
        pattern = r"^(\w+) +([\d.]+) +[\d.]+ +([\d.]+) +([\d.]+) +([\d.]+)$"
        rows = re.findall(pattern, out, re.MULTILINE)
        return {name: list(map(float, numbers)) for name, *numbers in rows}

    @runs("kinds")
    def test_table(self, trained, capsys):
        out = printed(capsys, trained)
        rows = self.shown(out)
        assert list(rows) == ["joint", "film", "words", "pose"]
        assert "\nbal. Acc, AUROC and mAP: means over the 3 of 4 classes that have" in out
        for accuracy, balanced, *_ in rows.values():
            assert balanced == accuracy  # as many samples of each class

    @runs("tasks")
    def test_table_of_tasks(self, trained, capsys):
        """Each has its own classes, and the first row is their mean."""
        out = printed(capsys, trained)
        mean, easy, hard = (np.array(row) for row in self.shown(out).values())
        np.testing.assert_allclose(mean, (easy + hard) / 2, atol=1e-4)
        assert "mAP of hard: means over the 2 of 4 classes" in out and "of easy" not in out


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
    def test_table(self, trained, capsys):
        """The short summary comes first; a class without samples has no recall."""
        plain = printed(capsys, trained)
        out = printed(capsys, trained, "--per_class")
        assert out.startswith(plain) and len(plain.splitlines()) == 7
        _, _, data, model, device, _ = load(trained)
        batches = loader(data.splits["test"], 8)
        predictions, targets, *_ = scores.predict(model, batches, device)
        right = [p == t == 1 for p, t in zip(predictions["pose"], targets["pose"], strict=True)]
        row = re.search(r"^plain +(.*)", out, re.MULTILINE)[1].split()
        assert row[0] == "11" and row[6] == f"{sum(right) / 11:.3f}"
        never = r"(-|0\.000)"  # no recall; the joint prediction may have chosen it, and was wrong
        row = rf'^\\ttab, "and" a\\rreturn +0 +{never} +{never} +- +- +- +-$'
        assert re.search(row, out, re.MULTILINE)

    @runs("tasks")
    def test_a_table_for_each_task(self, trained, capsys):
        out = printed(capsys, trained, "--per_class")
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
        names = "".join(line[:first] for line in body)
        assert names.replace(" ", "") == "".join(classes).replace(" ", "")
        assert sum(" 12 " in line for line in body) == 100


class TestPredictions:
    @runs("kinds", "tasks")
    def test_file(self, trained, tmp_path, capsys):
        path = tmp_path / "predictions.csv"
        out = printed(capsys, trained, "--predictions", path, "--batch_size", 5)
        assert out.endswith(f"\nPrediction of every sample: {path}\n")
        _, _, data, model, *_ = load(trained)
        split = data.splits["test"]
        with open(path, newline="", encoding="utf-8") as file:
            cells = list(csv.DictReader(file))
        rows = [{key: layout.unquote_formula(x) for key, x in row.items()} for row in cells]
        assert [row["id"] for row in rows] == [str(i) for i in range(len(split))]
        for i, row in enumerate(rows):
            inputs, targets = split.read([i])
            inputs = {name: torch.tensor(as_read(x.numpy())) for name, x in inputs.items()}
            with torch.no_grad():
                output = model.eval()(inputs)
            for column, (name, u) in enumerate(output.logits.items()):
                chances = torch.exp(u[0]) / torch.exp(u[0]).sum()
                best = int(chances.argmax())
                assert row[scores.column("prediction", name)] == data.classes[best]
                found = float(row[scores.column("probability", name)])
                assert found == pytest.approx(chances[best].item(), abs=2e-6)
                if data.tasks:
                    assert row[scores.column("label", name)] == data.classes[targets[0, column]]
            if not data.tasks:
                assert row["label"] == data.classes[targets[0]]
        assert len(rows[0]) == (7 if data.tasks else 10)

    @pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "'=", "''@"])
    def test_no_formula(self, tmp_path, start):
        """No cell begins like a formula, and every text can be restored."""
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


class TestErrors:
    def error(self, *arguments):
        """Return the error for wrong flags; it comes before the (missing) checkpoint is read."""
        with pytest.raises(UserError) as caught:
            evaluate.main(["nothing.pt", *map(str, arguments)])
        assert "\n" not in str(caught.value) and "nothing.pt" not in str(caught.value)
        return str(caught.value)

    @pytest.mark.parametrize("flag", ["--predictions", "--features"])
    def test_files(self, flag, tmp_path, monkeypatch):
        old = tmp_path / "old.csv"
        old.write_text("kept")
        assert f"{flag} {old}: it exists already" in self.error(flag, old)
        assert old.read_text() == "kept"
        assert "it exists already" in self.error(flag, tmp_path)
        missing = tmp_path / "no" / "p.csv"
        assert f"no folder {missing.parent}: make it" in self.error(flag, missing)
        assert "there is no folder" in self.error(flag, old / "p.csv")
        long = tmp_path / ("x" * 300)
        assert "File name too long" in self.error(flag, long)
        monkeypatch.setattr(os, "access", lambda path, mode: False)
        assert "is not writable" in self.error(flag, tmp_path / "p.csv")

    def test_one_file_for_both(self, tmp_path):
        path = tmp_path / "x"
        both = self.error("--predictions", path, "--features", path)
        assert f"--features and --predictions {path}: give two names" in both

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
    def test_nothing_is_drawn_from_the_global_generators(self, trained):
        torch.manual_seed(5)
        np.random.seed(5)
        expected = torch.rand(1), np.random.rand()
        state = tensors.read(trained)
        _, _, data, model, device, _ = load(trained)
        torch.manual_seed(5)
        np.random.seed(5)
        split, load_all = data.splits["test"], partial(loader, batches=33)
        corruption.robustness(model, split, data.modalities, device, load_all)
        assert (torch.rand(1), np.random.rand()) == expected
        for name, value in model.state_dict().items():
            assert torch.equal(value, state["model"][name])
