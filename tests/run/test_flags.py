"""Every flag of train.py acts, and a wrong one ends in one line."""

from mmpareto.system import entry as cli
from mmpareto.system import tensors

import json
from argparse import Namespace

import pytest
import torch
from balance import trainer_of
from run_files import assert_same_run, read, rows, weights
from toys import Toy

import train
from mmpareto.methods import METHODS
from mmpareto.run import scores, setup
from mmpareto.system.errors import UserError
from train import Trainer


def last_state(folder):
    return tensors.read(folder / "last.pt")


def first_steps(*words):
    """Train one epoch; return the records of its steps."""
    flags = train.options.parse(["--dataset", "toy", "--encoder", "cnn", *map(str, words)])
    return Trainer(flags, Namespace(state=None)).train_epoch()


class TestFlags:
    """Every flag acts."""

    def test_same_seed_same_run_with_any_number_of_workers(self, run, done):
        assert_same_run(done, run("--workers", 2, name="two"))
        assert_same_run(done, run("--deterministic", name="three"))
        torch.use_deterministic_algorithms(False)

    def test_seed(self):
        one, other = (first_steps("--random_seed", seed, "--limit_batches", 1) for seed in (0, 1))
        assert one[0]["loss"] != other[0]["loss"]

    def test_window(self, run):
        """Outside the window OGM-GE trains as joint does: without noise and damping."""
        flags = ["--epochs", 2, "--limit_batches", 2]
        joint = run(*flags, method="joint", name="joint")
        for window, same in (("3-9", True), ("2-9", False)):
            folder = run(*flags, "--window", window, method="ogm_ge", name=window)
            one, other = (read(f / "steps.jsonl") for f in (folder, joint))
            assert one[0]["loss"] == other[0]["loss"]
            assert (one[-1]["loss"] == other[-1]["loss"]) == same

    @pytest.mark.parametrize("window", ["5", "0-3", "4-3", "1-", "a-b", "1-2-3"])
    def test_window_that_is_none(self, run, window):
        with pytest.raises(UserError, match=f"'{window}' is no range of epochs: give FIRST-LAST"):
            run("--window", window, method="agm")

    def test_lr_decay(self, run, done):
        decay = ["--lr_decay_step", 2, "--lr_decay_ratio", 0.5]
        folder = run("--epochs", 4, "--limit_batches", 1, *decay)
        assert last_state(folder)["optimizer"]["param_groups"][0]["lr"] == 0.05 / 4
        assert last_state(done)["optimizer"]["param_groups"][0]["lr"] == 0.05

    @pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
    def test_optimizer(self, run, optimizer):
        one_step = ["--limit_batches", 1, "--epochs", 1]
        folder = run("--optimizer", optimizer, "--weight_decay", 0.3, *one_step)
        (state,) = last_state(folder)["optimizer"]["param_groups"]
        assert state["weight_decay"] == 0.3
        assert ("momentum" in state) == (optimizer == "sgd")
        assert state["lr"] == (0.05 if optimizer == "sgd" else 0.001)

    def test_clip(self, run):
        """The first step is as long as the clipped gradient times the learning rate."""
        one_step = ["--limit_batches", 1, "--epochs", 1, "--weight_decay", 0]
        start = weights(run(*one_step, "--learning_rate", 1e-30, name="start"))
        lengths = {}
        for norm in (1e6, 1e-2):
            after = weights(run(*one_step, "--clip_grad", norm, name=f"clip{norm}"))
            moved = [after[k] - start[k] for k in start if k.endswith(("weight", "bias"))]
            lengths[norm] = float(torch.cat([x.flatten() for x in moved]).norm())
        assert lengths[1e-2] == pytest.approx(0.05 * 1e-2, rel=1e-3)
        assert lengths[1e6] > 10 * lengths[1e-2]

    def test_accumulate(self, run, monkeypatch):
        """Without BatchNorm, two batches of 8 make the same step as one batch of 16."""
        monkeypatch.setattr(torch.nn.BatchNorm2d, "forward", lambda self, x: x)
        one_step = ["--epochs", 1, "--weight_decay", 0]
        whole = run(*one_step, "--limit_batches", 1, name="whole")
        flags = ["--batch_size", 8, "--accumulate", 2, "--limit_batches", 2]
        parts = run(*one_step, *flags, name="parts")
        a, b = weights(whole), weights(parts)
        for name in a:
            torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-6)
        assert len(read(parts / "steps.jsonl")) == 1

    def test_number_of_samples(self, run):
        assert len(first_steps("--train_size", 40)) == 2
        folder = run("--limit_batches", 2, "--epochs", 1)
        assert len(read(folder / "steps.jsonl")) == 2
        accuracy = read(folder / "epochs.jsonl")[0]["Acc"] * 32
        assert accuracy == pytest.approx(round(accuracy))

    @pytest.mark.parametrize("method", list(METHODS))
    @pytest.mark.slow
    def test_bf16(self, tmp_path, method):
        words = ["--method", method, "--limit_batches", 1, "--precision"]
        trainers = (trainer_of(tmp_path / form, *words, form) for form in ("fp32", "bf16"))
        plain, half = (trainer.train_epoch()[0]["loss"] for trainer in trainers)
        assert plain != half and plain == pytest.approx(half, rel=0.05)

    def test_compile(self, run, monkeypatch):
        compiled = []
        monkeypatch.setattr(torch, "compile", lambda model: compiled.append(model) or model)
        run("--limit_batches", 1, "--compile")
        assert [part.__name__ for part in compiled] == ["encode"]

    @pytest.mark.slow  # importing the compiler takes seconds
    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize("method", ["uniform", "mmpareto"])
    def test_compiled(self, method, monkeypatch):
        compiled = torch.compile
        monkeypatch.setattr(torch, "compile", lambda model: compiled(model, backend="aot_eager"))
        words = ["--method", method, "--limit_batches", 2]
        plain, fast = first_steps(*words), first_steps(*words, "--compile")
        for a, b in zip(plain, fast, strict=True):
            assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)

    @pytest.mark.parametrize(
        ("flags", "selected", "rules", "split"),
        [
            (["--select", "best-test"], "best-test", {"best-test", "last"}, "test"),
            (["--select", "last"], "last", {"best-val", "last"}, "val"),
            (["--dataset", "toy_without_val"], "last", {"last"}, "test"),
        ],
    )
    def test_select(self, run, flags, selected, rules, split):
        """At this learning rate accuracies jump, so that the best epoch is not the last."""
        folder = run("--epochs", 6, "--limit_batches", 2, "--learning_rate", 0.5, *flags)
        result = json.loads((folder / "result.json").read_text())
        assert result["selected"] == selected and set(result["results"]) == rules
        assert result["test_samples"] == 2 * 16
        assert all(f" {split} Acc" in row for row in rows(folder) if row.startswith("Epoch"))
        epochs = read(folder / "epochs.jsonl")
        best = max(epochs, key=lambda epoch: (epoch["Acc"], -epoch["split_loss"]))
        assert best is not epochs[-1]
        assert tensors.read(folder / "best.pt")["epoch"] == best["epoch"]
        if selected == "best-test":
            found = result["results"]["best-test"]
            assert (found["Acc"], found["epoch"]) == (best["Acc"], best["epoch"])

    def test_select_by(self, run, monkeypatch):
        """Accuracy and F1 disagree on the best epoch; row and files say which counts."""
        drawn = iter([(0.5, 0.2), (0.4, 0.6), (0.3, 0.4), *[(0.9, 0.7), (0.8, 0.8)]])

        def evaluated(*_):
            return {"joint": scores.Score(*next(drawn))}, 1.0

        monkeypatch.setattr(train, "evaluate", evaluated)
        words = ["--epochs", 3, "--limit_batches", 1, "--select_by", "macro_f1"]
        folder = run(*words)
        assert tensors.read(folder / "best.pt")["epoch"] == 2
        result = json.loads((folder / "result.json").read_text())
        assert result["selected"] == "best-val-F1"
        assert result["results"] == {"best-val-F1": {"epoch": 2, "Acc": 0.8, "F1": 0.8},
                                     "last": {"epoch": 3, "Acc": 0.9, "F1": 0.7}}  # fmt: skip
        shown = rows(folder)
        assert "val Acc 0.3000  F1 0.4000  Best F1 0.6000 (2)" in shown[2]
        assert shown[3] == "Result (best-val-F1, epoch 2): test Acc 0.8000  F1 0.8000"
        assert tensors.read(folder / "last.pt")["best"]["F1"] == 0.6
        with pytest.raises(UserError, match="select_by was macro_f1, is accuracy"):
            run("--epochs", 4, "--limit_batches", 1, "--resume")

    def test_names_match_without_case(self):
        flags = train.options.parse(["--dataset", "CGDigits", "--method", "MMPareto"])
        assert (flags.dataset, flags.method, flags.fusion) == ("cgdigits", "mmpareto", "concat")

    @pytest.mark.parametrize("second", [[], ["--encoder"]])
    def test_encoder_for_one_modality(self, second):
        choices = ["--encoder", "cnn", *second, "a=lenet"]
        flags = train.options.parse(["--dataset", "toy", *choices])
        chosen = setup.chosen_encoders(flags, Toy.load(flags))
        assert [encoder.__name__ for encoder in chosen.values()] == ["LeNet", "CNN"]

    def test_released_settings_where_a_dataset_says_nothing(self, monkeypatch):
        monkeypatch.setattr(Toy, "defaults", {})
        flags = train.options.parse(["--dataset", "toy"])
        assert (flags.epochs, flags.batch_size, flags.learning_rate) == (50, 64, 0.002)
        assert (flags.momentum, flags.weight_decay, flags.lr_decay_step) == (0.9, 1e-4, None)
        assert (flags.method, flags.gamma, flags.granularity) == ("mmpareto", 1.5, "encoder")


BAD_INPUT = [
    ("--dataset mnist", "unknown dataset 'mnist'"),
    ("--fusion cat", "unknown fusion 'cat'"),
    ("--encoder vgg", "unknown encoder 'vgg'"),
    ("--encoder sound=cnn", "--encoder sound=cnn: toy has no modality 'sound', choose one of a, b"),
    ("--nonsense 3", "unknown flag --nonsense"),
    ("--no_probes", "--no_probes acts only with --method joint or --method unimodal"),
    ("--method joint --no_probes --learning_rate heads=1", "heads= acts only without --no_probes"),
    ("--method unimodal --no_probes --weight_decay fusion=1", "--weight_decay fusion= acts only"),
    ("--method joint --no_probes --fusion growing", "no head of --fusion growing is a probe"),
    ("--train", "--train is a flag of the original scripts"),
    ("--model x", "choose --method, --fusion and --encoder"),
    ("--n_classes=6", "the number of classes comes from the dataset"),
    ("--epochs -3", "--epochs: '-3' is not a positive whole number"),
    ("--epochs 2.5", "'2.5' is not a positive whole number"),
    ("--learning_rate nan", "'nan' is not a positive number"),
    ("--momentum 1", "'1' is not a number in [0, 1)"),
    ("--gamma 0", "'0' is not a positive number"),
    ("--granularity layer", "--granularity: invalid choice: 'layer'"),
    ("--momentum 0.5 --optimizer adam", "--momentum acts only with --optimizer sgd, not adam"),
    ("--lr_decay_ratio 0.5", "--lr_decay_ratio acts only with --lr_decay_step"),
    ("--tensorboard_path x", "--tensorboard_path acts only with --use_tensorboard"),
    ("--accumulate 7", "--batch_size 16 --accumulate 7: one step needs 112 samples"),
    ("--train_size 3", "--train_size 3: the training split has 104 samples of 4 classes"),
    ("--dataset cgmnist --data_root nowhere", "nowhere: MNIST's files were not found"),
    ("--limit_batches 1 --accumulate 2", "one step needs --accumulate 2 batches"),
    ("--dataset cgdigits --num_classes 1", "--num_classes: invalid choice: 1"),
    ("--dataset cgdigits --noise 2", "'2' is not a number in [0, 1]"),
    ("--random_seed 4294967296", "'4294967296' is not a whole number from 0 to 4294967295"),
    ("--batch_size 1", "--batch_size 1: Expected more than 1 value per channel"),
    ("--gpu_ids 0,1", "--gpu_ids 0,1: one process trains on one GPU"),
]  # fmt: skip


@pytest.mark.parametrize(("flags", "message"), BAD_INPUT)
def test_bad_input_is_one_line(flags, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["train.py", "--dataset", "toy", *flags.split()])
    with pytest.raises(SystemExit) as exit:
        cli.run(train.main)
    assert exit.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ") and message in captured.err
    assert captured.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "shown", "hidden"),
    [
        ("--help", ["--gamma", "--dataset cgdigits"], ["--mu ", "--ratio", "--split"]),
        ("--method pmr --fusion sum -h", ["--mu ", "--noise"], ["--gamma", "--ratio"]),
        ("--help all", ["--gamma", "--mu ", "--ratio", "--split", "--no_probes"], []),
    ],
)
def test_help_shows_the_chosen_parts(capsys, words, shown, hidden):
    with pytest.raises(SystemExit) as exit:
        train.main(words.split())
    assert not exit.value.code
    out = capsys.readouterr().out
    assert "--learning_rate" in out
    assert all(flag in out for flag in shown) and not any(flag in out for flag in hidden)
