"""Numbers at their limits: training ends in one clear line, or with parameters that are finite."""

import pytest
import torch
from balance import trainer_of
from toys import Toy

from mmpareto.core import integrate
from mmpareto.data.samples import Data, Modality, TensorSplit
from mmpareto.datasets import DATASETS
from mmpareto.methods import METHODS
from mmpareto.system.errors import UserError

MAIN = ("mmpareto", "uniform", "pareto")


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """Train one epoch on made data; returns the trainer and the records of its steps."""

    def train(
        method, *flags, classes=4, modalities=2, label=None, change=lambda name, values: values,
        sizes=(24, 8, 8), encoder="mlp",
    ):  # fmt: skip
        names = [f"m{i}" for i in range(modalities)]
        shape = {"mlp": (6,), "cnn": (1, 4, 4), "lenet": (1, 28, 28)}[encoder]

        class Made(Toy):
            @classmethod
            def load(cls, flags) -> Data:
                splits = {}
                for part, size in zip(("train", "val", "test"), sizes, strict=True):
                    generator = torch.Generator().manual_seed(size)
                    inputs = {n: torch.randn(size, *shape, generator=generator) for n in names}
                    inputs = {name: change(name, values) for name, values in inputs.items()}
                    targets = torch.arange(size) % classes
                    splits[part] = TensorSplit(inputs, 0 * targets + label if label else targets)
                kind = "array" if encoder == "mlp" else "image"
                specs = dict.fromkeys(names, Modality(kind, shape))
                return Data("made", [str(i) for i in range(classes)], specs, splits, {})

        monkeypatch.setattr(DATASETS, "parts", DATASETS.parts | {"made": Made})
        words = ["--method", method, "--batch_size", "8", "--epochs", "1", *flags]
        trainer = trainer_of(tmp_path / "run", *words, dataset="made", encoder=encoder)
        steps = trainer.train_epoch()
        scores, _ = trainer.scores("test")
        assert all(0 <= value <= 1 for score in scores.values() for value in score)
        assert all(p.isfinite().all() for p in trainer.model.parameters())
        return trainer, steps

    return train


@pytest.mark.slow
@pytest.mark.parametrize("method", list(METHODS))
class TestEveryMethod:
    """Every method uses convolutions here, because greedy's own fusion, mmtm, needs them."""

    @pytest.mark.parametrize("value", [0.0, 5.0])
    def test_a_constant_modality(self, trained, method, value):
        """BatchNorm's gradient at a constant can be huge: then the next steps are skipped."""

        def change(name, values):
            return torch.full_like(values, value) if name == "m0" else values

        try:
            _, steps = trained(method, change=change, encoder="cnn")
            assert not steps[0]["skipped"]
        except UserError as error:  # after such a gradient
            assert "predictions are not finite" in str(error)

    def test_one_class(self, trained, method):
        """The losses are zero, and so are the gradients: nothing is divided by them."""
        trainer, steps = trained(method, classes=1, encoder="cnn")
        assert not any(step["skipped"] for step in steps)
        assert trainer.scores("test")[0]["joint"].Acc == 1


@pytest.mark.parametrize("method", MAIN)
class TestMainMethods:
    @pytest.mark.parametrize(
        "made",
        [
            {"classes": 2, "sizes": (14, 2, 2)},
            {"classes": 100, "sizes": (308, 100, 100)},
            {"modalities": 20},
            {"label": 2},
        ],
        ids=str,
    )
    def test_no_step_is_skipped(self, trained, method, made):
        trainer, steps = trained(method, **made)
        assert len(trainer.model.encoders) == made.get("modalities", 2)
        assert steps and not any(step["skipped"] for step in steps)
        assert method == "uniform" or len(steps[0]["encoders"]) == len(trainer.model.encoders)

    def test_a_batch_of_one(self, trained, method):
        _, steps = trained(method, "--batch_size", "1", sizes=(1, 1, 1), encoder="lenet")
        assert len(steps) == 1 and not steps[0]["skipped"]
        with pytest.raises(UserError, match=r"--batch_size 1: .*give a larger --batch_size"):
            trained(method, "--batch_size", "1")  # with BatchNorm

    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    @pytest.mark.parametrize("scale", [1e-38, 1e30])
    def test_inputs_of_any_size(self, trained, method, scale, precision):
        """Losses of 1e30, and steps that overflow and are skipped: parameters stay finite."""
        trained(method, "--precision", precision, change=lambda name, values: values * scale)

    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    @pytest.mark.parametrize("value", [float("nan"), 3e38])
    def test_inputs_not_finite_skip_every_step(self, trained, method, value, precision):
        """3e38 is finite, but not what the first layer makes of it."""

        def change(name, values):
            is_evaluated = len(values) == 8
            return values if is_evaluated else torch.full_like(values, value)

        # standardised, a column of 3e38 alone is 0
        flags = "--precision", precision, "--standardise", "none"
        _, steps = trained(method, *flags, change=change)
        assert all(step["skipped"] for step in steps)
        with pytest.raises(UserError, match="3 steps in a row had a loss, a gradient or"):
            trained(method, *flags, "--max_skipped", "2", change=change)

    def test_learning_rates(self, trained, method):
        trained(method, "--learning_rate", "1e-30", "--momentum", "0")
        with pytest.raises(UserError, match=r"predictions are not finite .* lower --learning_rate"):
            trained(method, "--learning_rate", "1e30", "--momentum", "0", "--max_skipped", "99")


@pytest.mark.parametrize("encoder", ["mlp", "cnn"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 3e38])
def test_predictions_not_finite(trained, encoder, value):
    """NaN in the test split alone: no step is skipped, and no accuracy is computed."""

    def change(name, values):
        if name == "m1" and len(values) == 9:
            values[4] = value
        return values

    with pytest.raises(UserError, match=r"predictions are not finite \(joint, m1; up to 1 of 9"):
        trained("mmpareto", change=change, sizes=(24, 8, 9), encoder=encoder)


RULES = [
    integrate.mmpareto_rule,
    integrate.pareto_rule,
    integrate.uniform_rule,
    lambda j, g: integrate.mmpareto_rule(j, g, granularity="tensor"),
]


class TestIntegration:
    """j and g are float32; norms that float32 cannot square are taken in float64."""

    @pytest.mark.parametrize("rule", RULES)
    @pytest.mark.parametrize("size", [1e-40, 1e-20, 1.0, 1e15, 1e32])
    def test_any_two_sizes(self, rule, size):
        for other in (1e-30, 1e-5, 1.0, 1e5, -1e-30, -1e-5, -1.0, -1e5):
            j = [torch.tensor([3.0, -1.0]) * size, torch.tensor([0.5]) * size]
            g = [other * size * torch.tensor([1.0, 2.0]), other * size * torch.ones(1)]
            flat = [torch.cat(x).double() for x in (j, g)]
            h = torch.cat(rule(j, g)[0]).double()
            assert h.isfinite().all()
            if rule in RULES[:3]:  # each tensor for itself may be longer than their sum
                longest = max(x.norm() for x in (*flat, sum(flat)))
                assert h.norm() <= 1.5001 * longest

    @pytest.mark.parametrize("rule", RULES)
    @pytest.mark.parametrize(
        ("a", "b"), [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, -1.0), (1.0, -3.0), (1e30, -1e30)]
    )
    def test_zero_and_opposite(self, rule, a, b):
        x = torch.tensor([1.0, -2.0, 0.5])
        h, stats = rule([a * x], [b * x])
        assert h[0].isfinite().all()
        if a * b < 0:
            no_step = rule is not integrate.uniform_rule or a == -b
            assert not no_step or (h[0] == 0).all()
            assert bool(stats.stationary) == no_step
        elif a == b == 0:
            assert (h[0] == 0).all()
