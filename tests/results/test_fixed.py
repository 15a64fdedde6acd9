"""Gradients of encoders that are held fixed: against literal ones, and of a model that stays."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from test_methods import trainer_of

from mmpareto.data.batches import ShuffledBatches
from mmpareto.results.analysis import fixed
from mmpareto.results.analysis.fixed import Moments
from mmpareto.run import checkpoint
from mmpareto.system.errors import UserError


def test_moments():
    def of(*gradients):
        moments = Moments()
        for gradient in map(torch.tensor, gradients):
            moments.add([gradient], gradient.norm().item())
        return moments.numbers()

    norms = of([2.0], [-2.5], [3.0])
    assert norms["mean"] == 2.5 and norms["variance"] == pytest.approx(0.25)
    assert of([1.0, 0.0], [0.0, 1.0])["trace"] == pytest.approx(0.5)
    assert of([3.0, 4.0], [3.0, 4.0])["trace"] == pytest.approx(0, abs=1e-12)


def trained_toy(tmp_path, *flags):
    trainer = trainer_of(tmp_path, *flags)
    trainer.train_epoch()
    return checkpoint.Trained(trainer.flags, 1, trainer.data, trainer.model, trainer.device, None)


class TestFixed:
    @pytest.mark.parametrize(
        "flags",
        ["--dataset toy3", "--dataset toy --fusion mmtm", "--dataset toy_tasks --method mmpareto"],
    )
    def test_the_model_stays_and_numbers_are_literal(self, tmp_path, flags):
        """Against gradients of each loss by itself, all kept, of copies of the model."""
        toy = trained_toy(tmp_path, *flags.split())
        model = toy.model.eval()
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        assert any("running_mean" in name for name in before)
        found = fixed.look(toy, Path("x"), workers=0, limit=3)
        after = model.state_dict()
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert not model.training and all(p.grad is None for p in model.parameters())

        kept = {name: ([], []) for name in model.encoders}
        order = ShuffledBatches(104, 16, toy.flags.random_seed)
        order.epoch = 2
        for (indices, draw), _ in zip(order, range(3), strict=False):
            inputs, targets = toy.data.splits["train"].read(indices, draw)
            model.load_state_dict(before)
            output = model.train()(inputs)
            if toy.data.tasks:
                own = zip(output.unimodal.values(), targets.unbind(1), strict=True)
                pairs = {"shared": list(own)}
            else:
                joint, own = (output.joint, targets), output.unimodal
                pairs = {name: [joint, (own[name], targets)] for name in model.encoders}
            for name, pair in pairs.items():
                for (logits, truth), vectors in zip(pair, kept[name], strict=True):
                    loss = F.cross_entropy(logits, truth)
                    parameters = list(model.encoders[name].parameters())
                    parts = torch.autograd.grad(loss, parameters, retain_graph=True)
                    vectors.append(torch.cat([x.flatten() for x in parts]).double())
        for name, pair in kept.items():
            for moments, vectors in zip(found[name][:2], pair, strict=True):
                whole = torch.stack(vectors)
                assert moments.norms == pytest.approx(whole.norm(dim=1).tolist(), rel=1e-5)
                trace = whole.var(dim=0, correction=0).sum().item()
                assert moments.numbers()["trace"] == pytest.approx(trace, rel=1e-4)
            cosines = torch.cosine_similarity(*map(torch.stack, pair)).tolist()
            assert found[name].cosines == pytest.approx(cosines, rel=1e-4, abs=1e-6)
            assert found[name].conflict == sum(c <= 0 for c in cosines) / 3

    def test_what_cannot_be_looked_at(self, tmp_path):
        apart = trained_toy(tmp_path, "--dataset", "toy_tasks", "--method", "unimodal")
        with pytest.raises(UserError, match="in --fusion separate no encoder has two losses"):
            fixed.look(apart, Path("x"), 0, None)
        toy = trained_toy(tmp_path, "--dataset", "toy")
        with pytest.raises(UserError, match="a variance needs 2 batches, here is 1 of 16"):
            fixed.look(toy, Path("x"), 0, 1)
        next(toy.model.encoders["b"].parameters()).data.fill_(torch.nan)
        with pytest.raises(UserError, match="x: the gradients of a are not finite"):
            fixed.look(toy, Path("x"), 0, None)
