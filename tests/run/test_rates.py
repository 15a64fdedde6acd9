"""The learning rates of epochs and of the model's parts, and the end of a run by --patience."""

import json
import math
import shutil
from pathlib import Path

import pytest
import tiny_models
import torch
from run_files import assert_same_run, read, rows

import train
from mmpareto.run import folder, optimizing, options, scores
from mmpareto.system.errors import UserError

CPU = torch.device("cpu")


def made(words, model=None, own=()):
    """Return the optimizer and the scheduler that these flags make for a tiny model."""
    model = model or tiny_models.build()
    trained = [p for p in model.parameters() if p.requires_grad]
    flags = options.parse(words.split())
    return optimizing.build_optimizer(flags, model, [*trained, *own], CPU)


def literal_rate(epoch, schedule, warmup, epochs=7):
    """The rate of an epoch, counted from 0, as docs/training.md says it."""
    if epoch < warmup:
        return 0.8 * (epoch + 1) / (warmup + 1)
    epoch -= warmup
    if schedule == "cosine":
        return 0.8 * (1 + math.cos(math.pi * epoch / (epochs - warmup))) / 2
    return 0.8 * 0.5 ** (epoch // 2) if schedule == "step" else 0.8


@pytest.mark.parametrize("warmup", [0, 1, 3])
@pytest.mark.parametrize("schedule", ["constant", "step", "cosine"])
def test_schedule(schedule, warmup):
    """A scheduler that goes on from a saved state gives the same rates to the bit."""
    words = f"--epochs 7 --learning_rate 0.8 heads=0.4 --lr_schedule {schedule} --warmup {warmup}"
    words += " --lr_decay_step 2 --lr_decay_ratio 0.5" * (schedule == "step")
    optimizer, scheduler = made(words)
    resumed, continued = made(words)
    for epoch in range(7):
        found = {name[14:]: rate for name, rate in optimizing.rates(optimizer).items()}
        expected = literal_rate(epoch, schedule, warmup)
        assert found == pytest.approx(
            {"a": expected, "b": expected, "heads": expected / 2, "fusion": expected}
        )
        assert list(found.values()) == [group["lr"] for group in resumed.param_groups]
        optimizer.step()
        scheduler.step()
        resumed, continued = made(words)
        resumed.load_state_dict(optimizer.state_dict())
        continued.load_state_dict(scheduler.state_dict())


def test_parts():
    """Each part has its own numbers; what the flags do not name has the number for all."""
    model, own = tiny_models.build(), torch.nn.Parameter(torch.ones(1))
    model.freeze(["b"])
    words = "--learning_rate 0.5 a=0.25 heads=2 --weight_decay fusion=0.125 --momentum 0"
    optimizer, _ = made(words, model, [own])
    names = {"own": own, **dict(model.named_parameters())}
    before = {name: p.detach().clone() for name, p in names.items()}
    for p in names.values():
        p.grad = torch.ones_like(p)
    optimizer.step()
    for name, p in names.items():
        rate, decay = {"encoders.a": (0.25, 1e-4), "encoders.b": (0, 0),
                       "unimodal_h": (2, 1e-4)}.get(name[:10], (0.5, 0.125))  # fmt: skip
        torch.testing.assert_close(p.data, before[name] - rate * (1 + decay * before[name]))


def test_one_number_is_one_group():
    """The optimizer of earlier versions: their checkpoints fit."""
    (group,) = made("--learning_rate 0.5 --weight_decay 0")[0].param_groups
    assert "name" not in group and (group["lr"], group["weight_decay"]) == (0.5, 0)


def test_the_default_is_for_the_parts_not_named():
    flags = options.parse(["--learning_rate", "heads=1", "a=1e-3", "--weight_decay=0.5"])
    assert (flags.learning_rate, flags.weight_decay) == ("0.01 a=0.001 heads=1.0", 0.5)
    again = options.from_config(options.as_config(flags), Path("last.pt"))
    assert again.learning_rate == flags.learning_rate


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--learning_rate 1 c=2", "c=2.0: no part of .* learns .*: choose of a, b, heads, fusion"),
        ("--weight_decay c=2", "--weight_decay c=2.0: no part of that name learns"),
        ("--learning_rate a=1 a=2", "'a=2': a is given twice"),
        ("--learning_rate 1 2", "'2': the number is given twice"),
        ("--learning_rate a=x", "'x' is not a positive number"),
        ("--lr_schedule step", "--lr_schedule step needs --lr_decay_step"),
        ("--lr_schedule cosine --lr_decay_step 2", "acts only with --lr_schedule step, not cosine"),
        ("--warmup 3 --epochs 3", "--warmup 3: no epoch of --epochs 3 would have the whole"),
        ("--patience 2 --select best-test", "--patience stops by validation, --select best-test"),
        ("--schedule cosine", "unknown flag --schedule: did you mean --lr_schedule?"),
    ],
)
def test_bad_words(words, message):
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        made(words)


def test_a_cosine_is_not_prolonged():
    """More epochs would need other rates from the first epoch on."""
    for schedule, changes in (("cosine", ["epochs was 4, is 5"]), ("constant", [])):
        old, new = (options.parse(["--epochs", n, "--lr_schedule", schedule]) for n in "45")
        new.out = old.out
        assert options.changes(options.as_config(old), options.as_config(new)) == changes


def test_patience_needs_validation(run):
    with pytest.raises(UserError, match="stops by validation, and toy_without_val has no such"):
        run("--dataset", "toy_without_val", "--patience", 2)


def test_patience(run, tmp_path, monkeypatch):
    """F1 is best in epoch 2. The run ends after epoch 4, also if it is interrupted there."""
    drawn = {1: (0.5, 0.2), 2: (0.4, 0.6), 3: (0.6, 0.5), 4: (0.7, 0.6)}

    def scored(self, split):
        epoch = self.epoch + (split == "val")
        return {"joint": scores.Score(*drawn[epoch])}, float(epoch)

    def finish(self):
        shutil.copytree(self.run.folder, tmp_path / "broken")
        original(self)

    original = train.Trainer.finish
    monkeypatch.setattr(train.Trainer, "scores", scored)
    words = ["--epochs", 9, "--limit_batches", 1, "--select_by", "macro_f1", "--patience", 2]
    words += ["--warmup", 3]
    with monkeypatch.context() as patch:
        patch.setattr(train.Trainer, "finish", finish)
        whole = run(*words, name="whole")
    assert_same_run(whole, run(*words, "--resume", name="broken"))
    result = json.loads((whole / "result.json").read_text())
    assert result["stopped"] == 4 and result["results"]["best-val-F1"]["epoch"] == 2
    epochs, shown = read(whole / "epochs.jsonl"), rows(whole)
    assert [epoch["learning_rate"] for epoch in epochs] == pytest.approx(
        [0.0125, 0.025, 0.0375, 0.05]
    )
    assert ["stopped early (--patience 2)" in row for row in shown[:4]] == [False] * 3 + [True]
    assert "  rate 0.0125" in shown[0]
    assert "Result (last, stopped early after epoch 4): test" in "\n".join(shown)
    flags = train.options.parse(["--dataset", "toy", "--encoder", "cnn", *map(str, words)])
    for more in (9, 99):  # compare.py asks so
        flags.epochs = more
        assert folder.finished(whole, train.options.as_config(flags)).result.stopped == 4
