"""What the benchmark compares with does what its name says, and its commands run."""

import re

import pytest
import tiny_models
import torch

import benchmark
from mmpareto import MMPareto
from mmpareto.benchmarks import step
from mmpareto.benchmarks.rivals import Released, TorchJD
from mmpareto.core import integrate
from mmpareto.core.integrator import Integrator
from mmpareto.system.errors import UserError


def gradients_of(rival, integrator_of, steps):
    """Of the rival and of ours, on the same batches, at weights that move."""
    conflicts = 0
    for _ in range(steps):
        model = tiny_models.build()
        inputs, targets = tiny_models.batch(model)
        tiny_models.step(rival(model), inputs, targets)
        expected = [p.grad for p in model.parameters()]
        model.zero_grad()
        stats = integrator_of(model).backward(*tiny_models.losses(model(inputs), targets))
        conflicts += sum(bool(s.conflict) for s in stats.values())
        torch.testing.assert_close(
            [p.grad for p in model.parameters()], expected, rtol=1e-6, atol=1e-9
        )
    assert 0 < conflicts < 2 * steps


def test_released_procedure():
    """It is MMPareto, rescaled tensor by tensor."""
    gradients_of(
        Released, lambda model: MMPareto(model, model.encoders, granularity="tensor"), steps=20
    )


def test_torchjd():
    gradients_of(
        TorchJD, lambda model: Integrator(model, model.encoders, integrate.pareto_rule), steps=20
    )


def test_every_held_gradient_is_counted():
    """Ours hold both gradients of an encoder, from features one; whatever else is below that."""
    device = torch.device("cpu")
    found = {}
    for name in ("mmpareto", "mmpareto features", "uniform", "released"):
        words = step.OURS.get(name, name)
        stepper = step.Stepper(words, step.DIGITS, device, "--encoder", "cnn")
        batch = step.random_batch(4, step.DIGITS, device)
        stepper(batch)  # whose optimizer then holds its momentum
        encoders = sum(p.nbytes for p in stepper.model.encoders.parameters())
        found[name] = step.most_gradients(stepper, batch) / encoders
    assert 1.9 < found["mmpareto"] < 2.2
    assert 0.9 < found["mmpareto features"] < 1.2
    assert 0.9 < found["uniform"] < 1.2
    assert found["released"] > 2.9


def run(capsys, *words):
    benchmark.main([str(word) for word in words])
    return capsys.readouterr().out


def test_unknown_command():
    with pytest.raises(UserError, match="invalid choice: 'stop'"):
        benchmark.main(["stop"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("step", "--steps", 1), r"ratio mmpareto features / uniform: median"),
        (("throughput", "--batch_size", 2, "--steps", 1), r"mmpareto, bf16 .* compile +\d"),
        (("scaling", "--modalities", 1, "--steps", 1), r"1 modalities: uniform \d.*averaged in"),
        (("loader", "--clips", 130), r"ratio plain / ours: median"),
        (("prepare", "--clips", 24), r"hash raw files +\d"),
    ],
)
def test_commands(capsys, words, expected):
    assert re.search(expected, run(capsys, *words, "--repeats", 1))
