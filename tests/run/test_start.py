"""Runs that start from the weights of other runs, or learn from them."""

from mmpareto.system import tensors

import re
import shutil

import pytest
import torch
from ranks import Plain
from run_files import assert_same_run, read, weights
from sets import contents
from toys import Toy

import evaluate
import train
from mmpareto.datasets import DATASETS
from mmpareto.models.encoders import ENCODERS
from mmpareto.run import options, start
from mmpareto.system.errors import UserError
from train import Trainer


def trainer_of(folder, *words):
    flags = options.parse(["--dataset", "toy", "--encoder", "cnn", *map(str, words)])
    return Trainer(flags, train.Run(folder, {}, resume=False))


def started(trainer, path, folder):
    """The modalities whose encoder has the file's weights; all others are freshly drawn."""
    theirs, fresh = weights(path.parent, path.name), trainer_of(folder).model.state_dict()
    ours = {n: x for n, x in trainer.model.state_dict().items() if x.is_floating_point()}
    same = {name for name, x in ours.items() if torch.equal(x, theirs[name])}
    assert all(torch.equal(ours[name], fresh[name]) for name in ours.keys() - same)
    assert all(name.startswith("encoders.") for name in same)
    return {name.split(".")[1] for name in same}


class TestInitEncoder:
    @pytest.mark.parametrize(
        ("words", "modalities"),
        [(["{}"], {"a", "b"}), (["b={}"], {"b"}), (["a={}", "b={}"], {"a", "b"})],
    )
    def test_encoders_and_nothing_else(self, done, tmp_path, words, modalities):
        path = done / "best.pt"
        flags = [word.format(path) for word in words]
        trainer = trainer_of(tmp_path / "run", "--init_encoder", *flags)
        assert started(trainer, path, tmp_path / "fresh") == modalities
        starts = [note for note in trainer.data.notes if note.startswith("Start ")]
        assert len(starts) == len(modalities)
        assert re.fullmatch(rf"Start    \w: {path}, epoch \d, weights \w{{12}}", starts[0])

    def test_a_resumed_run_needs_no_file(self, run, copied):
        words = ["--init_encoder", f"a={copied / 'last.pt'}", "--limit_batches", 2]
        whole = run(*words, name="whole", method="joint")
        run(*words, "--epochs", 1, name="part", method="joint")
        (copied / "last.pt").unlink()
        part = run(*words, "--resume", name="part", method="joint")
        assert_same_run(whole, part)
        assert (part / "train.log").read_text().count("Start    a: ") == 1
        with pytest.raises(UserError, match=r"init_encoder was \['a=/.*'\], is \[\]"):
            run("--limit_batches", 2, "--resume", name="part", method="joint")

    @pytest.mark.parametrize(
        ("words", "line"),
        [
            ("c={0}", r"c=.*: the model has no encoder of c: choose one of a, b$"),
            ("{0} b={0}", r"b=.*: b is given twice: give one file for it"),
            ("a={1}/no.pt", r"--init_encoder .*no.pt: no such file: give a file that is there"),
            ("a={1}", r"--init_encoder .*: is a folder: give a file that is there, such as .*\.pt"),
            (
                "{0} --encoder b=resnet18",
                r"encoder of b is another \(\d+ tensors differ, first stage",
            ),
            ("{0} --dataset toy_tasks", r"no encoder of shared, but of a, b: give another file"),
        ],
    )
    def test_mistakes(self, done, tmp_path, words, line):
        before = contents(done)
        out = str(tmp_path / "run")
        words = ["--init_encoder", *words.format(done / "best.pt", done).split(), "--out", out]
        with pytest.raises(UserError, match=line):
            train.main(["--dataset", "toy", "--encoder", "cnn", *words])
        assert not (tmp_path / "run").exists() and contents(done) == before

    def test_together_with_pretrained(self, done, tmp_path):
        trainer = trainer_of(tmp_path / "run", "--init_encoder", f"b={done / 'best.pt'}")
        trainer.flags.pretrained = ["published"]
        trainer.model.encoders["b"].pretrainable = True
        with pytest.raises(UserError, match="--pretrained gives weights to b, too: drop one"):
            start.load_encoders(trainer.model, trainer.flags, trainer.data)


UMT = ("--teacher_epochs", 3, "--limit_batches", 3)


class TestTeachers:
    def test_they_are_a_run_of_their_own(self, run, umt):
        alone = run("--epochs", 3, "--limit_batches", 3, method="unimodal")
        assert_same_run(alone, umt / "teacher")
        drawn, same = (tensors.read(folder / "last.pt")["rng"][0] for folder in (umt, alone))
        assert torch.equal(drawn, same)  # teachers take no random numbers from the run
        log = (umt / "train.log").read_text()
        assert f"Teachers {umt}/teacher/last.pt\n" in log and log.count("Epoch") == 2
        one, both = "--teacher", [f"b={alone / 'last.pt'}", f"a={alone / 'last.pt'}"]
        for words in ([alone / "last.pt"], both):
            given = run(*UMT[2:], one, *words, name=f"given{len(words)}", method="umt")
            assert_same_run(umt, given)
            assert not (given / "teacher").exists()

    def test_frozen_in_evaluation_mode(self, umt, tmp_path):
        trainer = trainer_of(
            tmp_path / "x", "--method", "umt", "--teacher", umt / "teacher/last.pt"
        )
        teachers, state = trainer.method.teachers, weights(umt / "teacher")
        trainer.train_epoch()
        assert not any(module.training for module in teachers.modules())
        for name, x in teachers.state_dict().items():
            assert torch.equal(x, state[name.replace("joint_heads", "unimodal_heads")]), name

    @pytest.mark.parametrize("epoch", [0, 2])
    def test_interrupted_while_they_train(self, run, umt, monkeypatch, epoch):
        def scores(self, split):
            if self.flags.method == "unimodal" and self.epoch == epoch:
                raise KeyboardInterrupt
            return original(self, split)

        original = Trainer.scores
        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "scores", scores)
            with pytest.raises(KeyboardInterrupt, match=r"after epoch 0; go on .*/run --resume$"):
                run(*UMT, method="umt")
        folder = run(*UMT, "--resume", method="umt")
        assert_same_run(umt, folder)
        assert_same_run(umt / "teacher", folder / "teacher")
        lines = (folder / "teacher/train.log").read_text().splitlines()
        assert [line[6] for line in lines if line.startswith("Epoch")] == ["1", "2", "3"]
        assert f"Resumed after epoch {epoch}" in "".join(lines) or epoch == 0

    def test_interrupted_between(self, run, umt, tmp_path, monkeypatch):
        """The teachers are finished, and no epoch of the run is."""

        def train_epoch(self):
            if self.flags.method == "umt":
                raise KeyboardInterrupt
            return original(self)

        original = Trainer.train_epoch
        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "train_epoch", train_epoch)
            with pytest.raises(KeyboardInterrupt):
                run(*UMT, method="umt")
        before = contents(tmp_path / "run/teacher")
        assert_same_run(umt, run(*UMT, "--resume", method="umt"))
        assert contents(tmp_path / "run/teacher") == before

    def test_a_resumed_run_keeps_its_teachers(self, run):
        """More epochs of the run are no more epochs of teachers; other teachers are an error."""
        words = ["--limit_batches", 2, "--epochs"]
        copy = run(*words, 1, method="umt")
        before = contents(copy / "teacher")
        run(*words, 3, "--resume", method="umt")
        assert contents(copy / "teacher") == before
        assert len(read(copy / "epochs.jsonl")) == 3
        state = tensors.read(copy / "teacher/last.pt")
        state["model"]["encoders.a.stages.0.0.weight"] += 1
        tensors.write(copy / "teacher/last.pt", state)
        with pytest.raises(UserError, match="--resume: the teachers have changed since this run"):
            run(*words, 4, "--resume", method="umt")
        (copy / "teacher/last.pt").unlink()
        with pytest.raises(UserError, match=r"teacher/last.pt: no such file"):
            run(*words, 4, "--resume", method="umt")

    def test_evaluation_needs_none(self, umt, tmp_path, capsys):
        copy = shutil.copytree(umt, tmp_path / "run")
        shutil.rmtree(copy / "teacher")
        evaluate.main([str(copy / "last.pt")])
        assert "Acc" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("made", "words", "line"),
        [
            ((), "a={}", r"b has no teacher: give --teacher b=FILE, or drop --teacher"),
            ((), "c={}", r"--teacher c=.*: the model has no encoder of c: choose one of a, b"),
            ((), "{} --teacher_epochs 2", r"--teacher_epochs acts only without --teacher"),
            ((), "{} --dataset other", r"it was trained on other data \(identity \w+, here \w+\)"),
            ((), "{} --dataset renamed", r"it was trained on other data \(identity"),
            ((), "{} --encoder b=plain", r"its features of b have 128 numbers, .* this run 6"),
            (("--fusion", "mmtm"), "{}", r"in its --fusion mmtm modalities meet before their feat"),
            (("--no_probes",), "{}", r"its unimodal heads were not trained \(--no_probes\)"),
        ],
    )
    def test_mistakes(self, run, tmp_path, monkeypatch, made, words, line):
        parts = {"other": Other, "renamed": Renamed}
        monkeypatch.setattr(DATASETS, "parts", DATASETS.parts | parts)
        monkeypatch.setattr(ENCODERS, "parts", ENCODERS.parts | {"plain": Plain})
        path = run("--epochs", 1, *made, name="made", method="joint") / "last.pt"
        words = ["--method", "umt", "--teacher", *words.format(path).split()]
        with pytest.raises(UserError, match=line):
            train.main(
                ["--dataset", "toy", "--encoder", "cnn", *words, "--out", str(tmp_path / "run")]
            )
        assert not (tmp_path / "run").exists()


class Other(Toy):
    """The same recipe and classes, but other labels."""

    @classmethod
    def load(cls, flags):
        data = super().load(flags)
        data.splits["train"].targets = data.splits["train"].targets.flip(0)
        return data


class Renamed(Toy):
    @classmethod
    def load(cls, flags):
        return super().load(flags)._replace(classes=["x", "y", "z", "w"])
