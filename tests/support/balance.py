"""What the tests of methods share: methods with their flags, trainers, and models in step."""

from argparse import ArgumentParser, Namespace
from copy import deepcopy

import pytest
import tiny_models
import torch

from mmpareto.methods import METHODS
from mmpareto.models.fusions.concat import Concat
from mmpareto.run import options
from mmpareto.run.folder import Run
from train import Trainer

# Methods that together use everything that a method may ask of the loop. The fast tests run these;
# all others run in the slow tests, beside their own tests, which are fast.
FAST = "joint", "unimodal", "uniform", "mmpareto", "gblend", "ogm_ge", "mla", "smv", "umt"


def cases(*rows):
    """Rows of parameters, of which the first says the method; a row of another method is slow."""
    return [
        pytest.param(
            *row, marks=[] if row[0] in FAST else pytest.mark.slow, id="-".join(map(str, row))
        )
        for row in rows
    ]


def method_of(name, model=None, **settings):
    """With its default flags, but for the settings."""
    parser = ArgumentParser()
    METHODS[name].add_flags(parser)
    flags = vars(parser.parse_args([])) | {"method": name, "fusion": "concat", "accumulate": 1}
    return METHODS[name](model or tiny_models.build(), Namespace(**(flags | settings)))


def trainer_of(folder, *flags, dataset="toy", encoder="cnn"):
    words = ["--dataset", dataset, "--encoder", encoder, "--out", str(folder), *map(str, flags)]
    parsed = options.parse(words)
    if METHODS[parsed.method].needs_teachers and not parsed.teacher:
        parsed.teacher_epochs = 4
    trainer = Trainer(parsed, Run(parsed.out, options.as_config(parsed), resume=False))
    if trainer.makes_teachers:
        trainer.teach()
    return trainer


def pair(modalities=2, fusion=Concat):
    """Two equal models."""
    ours = tiny_models.build(fusion, modalities)
    return ours, deepcopy(ours)


def steps(number, *models, lr=0.05, momentum=0.9):
    """Batches; whatever gradients the models have got when the next one is asked for, they take."""
    optimizers = [torch.optim.SGD(m.parameters(), lr=lr, momentum=momentum) for m in models]
    for _ in range(number):
        for optimizer in optimizers:
            optimizer.zero_grad()
        yield tiny_models.batch(models[0])
        for optimizer in optimizers:
            optimizer.step()


def accumulate(method, inputs, targets, parts):
    """Gradients of a batch in equal micro-batches."""
    for chunk, truth, told in tiny_models.micro_batches(inputs, targets, parts):
        tiny_models.step(method, chunk, truth, **told)


def assert_equal(ours, theirs, close=1e-8):
    state = theirs.state_dict()
    for name, mine in ours.state_dict().items():
        torch.testing.assert_close(mine, state[name], rtol=close, atol=close)


def double(*values):
    return torch.tensor(values, dtype=torch.float64)
