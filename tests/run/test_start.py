"""Runs that start from the weights of other runs."""

import re

import pytest
import torch
from run_files import assert_same_run, weights
from sets import contents

import train
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
        trainer.flags.pretrained, trainer.model.encoders["b"].pretrainable = "imagenet", True
        with pytest.raises(UserError, match="--pretrained gives weights to b, too: drop one"):
            start.load_encoders(trainer.model, trainer.flags)
