"""What the benchmark compares with does what its name says, and its commands run."""

import itertools
import re
import warnings
from argparse import Namespace
from functools import partial

import pytest
import tiny_models
import torch

import benchmark
from mmpareto.benchmarks import step, throughput, timing, training
from mmpareto.benchmarks.rivals import Released, TorchJD
from mmpareto.core.integrate import mmpareto_rule, pareto_rule
from mmpareto.core.integrator import Integrator
from mmpareto.run import options
from mmpareto.system.errors import UserError
from train import Trainer


@pytest.mark.parametrize(
    ("rival", "rule"),
    [(Released, partial(mmpareto_rule, granularity="tensor")), (TorchJD, pareto_rule)],
)
def test_rivals(rival, rule):
    """They give the gradients of our rule, on 20 batches, with and without conflict."""
    conflicts = 0
    for _ in range(20):
        model = tiny_models.build()
        inputs, targets = tiny_models.batch(model)
        tiny_models.step(rival(model), inputs, targets)
        expected = tiny_models.gradients(model)
        model.zero_grad()
        stats = tiny_models.backward(Integrator(model, model.encoders, rule), inputs, targets)
        conflicts += sum(bool(s.conflict) for s in stats.values())
        torch.testing.assert_close(tiny_models.gradients(model), expected, rtol=1e-6, atol=1e-9)
    assert 0 < conflicts < 40


def test_every_held_gradient_is_counted():
    """Ours hold both gradients of an encoder, from features one; whatever else is below that."""
    device = torch.device("cpu")
    found = {}
    for name in ("mmpareto", "mmpareto features", "uniform", "released"):
        words = step.OURS.get(name, name)
        stepper = step.Stepper(words, step.random_data(step.DIGITS), device, "--encoder", "cnn")
        batch = step.random_batch(4, step.DIGITS, device)
        stepper(batch)  # whose optimizer then holds its momentum
        encoders = sum(p.nbytes for p in stepper.model.encoders.parameters())
        found[name] = step.most_gradients(stepper, batch) / encoders
    assert 1.9 < found["mmpareto"] < 2.2
    assert 0.9 < found["mmpareto features"] < 1.2
    assert 0.9 < found["uniform"] < 1.2
    assert found["released"] > 2.9


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        ([2.0, 2.0, 2.1, 2.0, 2.0], "median 2.00, quartiles 2.00 and 2.00, 5 rounds\n"),
        (
            [1.0, 2.0, 3.0, 4.0, 5.0],
            "quartiles 2.00 and 4.00, 5 rounds: too noisy for differences below 67%",
        ),
        ([2.0, 2.0], "2 rounds: too few to see the noise"),
    ],
)
def test_noise_is_said(capsys, seconds, said):
    timing.show_ratio({"a": seconds, "b": [1.0] * len(seconds)}, "a", "b")
    assert said in capsys.readouterr().out


def test_rounds_until_the_time_is_over(monkeypatch):
    clock = itertools.count(0, 0.5)  # a look at it takes half a second
    monkeypatch.setattr(timing, "now", lambda: next(clock))
    assert timing.compare({"a": int, "b": int}, 4) == {"a": [0.5] * 2, "b": [0.5] * 2}


def test_waits_are_counted(monkeypatch):
    """torch warns of each; other warnings do not count, and the mode is put back."""
    modes = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    def job():
        for _ in range(3):
            warnings.warn("called a synchronizing CUDA operation", stacklevel=1)
        warnings.warn("another", stacklevel=1)

    assert timing.host_waits(job, 4) == 3
    assert modes == ["warn", "default"]


def test_unknown_command():
    with pytest.raises(UserError, match="invalid choice: 'stop'"):
        benchmark.main(["stop"])


@pytest.mark.slow
def test_trainings_are_those_of_train_py(monkeypatch, capsys, toys):
    """They end at the same parameters, so warming up has changed nothing, either."""
    steppers = {}

    def kept(words, *more):
        return steppers.setdefault(words, step.Stepper(words, *more))

    monkeypatch.setattr(training, "Stepper", kept)
    flags = ["--dataset", "toy", "--encoder", "cnn", "--epochs", "2", "--batch_size", "8"]
    benchmark.main(["training", "--seeds", "1", "--", *flags])
    assert "ratio mmpareto adaptive / uniform: median" in capsys.readouterr().out
    for words, stepper in steppers.items():
        trainer = Trainer(options.parse([*words.split(), *flags]), Namespace(state=None))
        for trainer.epoch in range(2):
            trainer.train_epoch()
        torch.testing.assert_close(stepper.model.state_dict(), trainer.model.state_dict())
    assert len(steppers) == len(training.TRAINED)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("step", "--steps", 1), r"ratio mmpareto features / uniform: median"),
        (
            ("throughput", "--batch_size", 2, "--steps", 1),
            r"compile, 1 rounds\n.*\nreleased, fp32 +\d",
        ),
        (("methods", "--encoder", "cnn", "--steps", 1), r"ratio mla / joint: median"),
        (
            ("scaling", "--modalities", 1, "--millions", 1, "--steps", 1),
            r"1 modalities: uniform \d.*averaged in",
        ),
        (("loader", "--clips", 130), r"ratio plain / ours: median"),
        (("prepare", "--clips", 24), r"hash raw files +\d"),
    ],
)
def test_commands(capsys, monkeypatch, words, expected):
    """Of throughput the encoders are small, and the compiler is half of torch's."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    small = {name: [*more, "--encoder", "cnn"] for name, more in throughput.SETTINGS.items()}
    monkeypatch.setattr(throughput, "SETTINGS", small)
    benchmark.main([str(word) for word in (*words, "--seconds", 0.01)])
    assert re.search(expected, capsys.readouterr().out)
