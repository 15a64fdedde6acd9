"""What a method may ask of the training loop: turns, copies of samples, parameters of its own."""

from mmpareto.system import tensors

import pytest
import torch
from balance import trainer_of
from torch import nn
from toys import toy_split

import train
from mmpareto.data.batches import ShuffledBatches, loader
from mmpareto.methods import METHODS
from mmpareto.methods.base import Decision, Method
from train import Trainer


class Alternating(Method):
    """One modality after the other learns from its own loss, and copies keep modality b."""

    turns = 2

    def __init__(self, model, flags):
        super().__init__(model, flags)
        self.factor = nn.Parameter(torch.ones(2))
        self.state = {"factor": self.factor.data, "seen": torch.zeros(3, dtype=torch.int64)}

    def parameters(self):
        return [self.factor]

    def copies(self):
        copies = torch.zeros(104, 2, dtype=torch.int64)
        copies[:8, 1] = 2
        return copies

    def forward(self, batch):
        name = list(self.model.encoders)[self.turn]
        features, _ = self.model.encode({name: batch.inputs[name]})
        return {name: self.model.unimodal_heads[name](features[name])}

    def decide(self, output, batch):
        if self.turn == 0:
            size, (a, b) = len(batch.targets), map(len, batch.present.rows.values())
            self.state["seen"] += torch.tensor([a + b - size, size - b, size - a])
        losses = {name: nn.functional.cross_entropy(u, batch.targets) for name, u in output.items()}
        return Decision(sum(losses.values()) * self.factor[self.turn].exp(), losses)


@pytest.fixture(autouse=True)
def alternating(monkeypatch):
    monkeypatch.setattr(METHODS, "parts", METHODS.parts | {"alternating": Alternating})


def flat(*modules):
    return torch.cat([p.detach().flatten().clone() for m in modules for p in m.parameters()])


def test_a_step_for_every_turn(tmp_path, monkeypatch):
    """In its turn a modality moves, the other does not, though its momentum is not zero."""
    trainer = trainer_of(tmp_path / "run", "--method", "alternating", "--accumulate", 2)
    model, moved, step = trainer.model, [], trainer.step
    halves = {n: (model.encoders[n], model.unimodal_heads[n]) for n in model.encoders}

    def watched(parts):
        before = {name: flat(*half) for name, half in halves.items()}
        found = step(parts)
        moved.append({n for n, half in halves.items() if not torch.equal(flat(*half), before[n])})
        return found

    monkeypatch.setattr(trainer, "step", watched)
    steps = trainer.train_epoch()
    assert moved == [{"a"}, {"b"}] * 3  # 120 samples: 3 groups of 2 batches of 16
    assert [step["step"] for step in steps] == [1, 2, 3, 4, 5, 6]
    assert [[*step["losses"]] for step in steps] == [["a"], ["b"]] * 3
    assert (trainer.method.factor != 1).all()  # both were trained


def test_resumed_to_the_bit(tmp_path):
    """The method's own parameters, too."""
    words = ["--dataset", "toy", "--encoder", "cnn", "--method", "alternating"]
    for name, *more in (("whole", "2"), ("part", "1"), ("part", "2", "--resume")):
        train.main([*words, "--out", str(tmp_path / name), "--epochs", *more])
    one, other = (tensors.read(tmp_path / n / "last.pt") for n in ("whole", "part"))
    for name in ("model", "method"):
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=0)
    assert (one["method"]["factor"] != 1).all()


def test_copies_come_once_more(tmp_path, monkeypatch):
    """A modality's loss is the mean over the samples that have it, of all batches of a step."""
    words = "--method", "alternating", "--batch_size", 8, "--accumulate", 5
    trainer, step = trainer_of(tmp_path / "run", *words), Trainer.step

    def watched(self, parts):
        for name in "ab":
            having = sum(len(part.present.rows[name]) for part in parts)
            assert {part.present.shares[name] * having for part in parts} == {5}
        return step(self, parts)

    monkeypatch.setattr(Trainer, "step", watched)
    assert len(trainer.order) == 13  # of 104 samples
    trainer.train_epoch()
    assert trainer.method.state["seen"].tolist() == [104, 0, 16]  # 15 batches of 8


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_with_copies(workers):
    split = toy_split(2, 20, seed=1)
    order = ShuffledBatches(20, 9, seed=3)
    plain = list(order)
    order.copies = torch.zeros(20, 2, dtype=torch.int64)
    assert list(order) == plain
    order.copies[4, 0], order.copies[7, 1] = 1, 2
    numbers = [number for batch, _ in order for number in batch]
    assert len(order) == 2 and len(numbers) == 18
    assert {n for n in numbers if n >= 20} <= {24, 47} and numbers.count(47) <= 2
    draws = [([4, 24, 47], 1), ([4, 7, 0], 1)]
    first, second = loader(split, draws, workers=workers)
    having = {name: rows.tolist() for name, rows in first.present.rows.items()}
    assert having == {"a": [0, 1], "b": [0, 2]} and second.present is None
    assert torch.equal(first.inputs["a"], split.inputs["a"][[4, 4, 7]])
