"""Two tasks on one input: the data, the models, and what each method makes of the gradients."""

import numpy as np
import pytest
import reference
import tiny_models
import torch
import torch.nn.functional as F
from run_files import assert_same_run
from test_methods import method_of, trainer_of
from torch import nn

import evaluate as evaluate_script
import train
from mmpareto.data.samples import Modality, stratified
from mmpareto.datasets import cgmnist, multimnist
from mmpareto.datasets.cgdigits import CGDigits
from mmpareto.datasets.multidigits import MultiDigits
from mmpareto.datasets.shared.digits import MEAN, canvases, overlay, salt_and_pepper
from mmpareto.models.encoders import ENCODERS
from mmpareto.models.fusions.base import own_targets
from mmpareto.models.fusions.multitask import Separate, Shared
from mmpareto.run import options, setup
from mmpareto.system.errors import UserError

TASKS = ("left", "right")


def load(*flags):
    return MultiDigits.load(options.parse(["--dataset", "multidigits", *flags]))


@pytest.fixture(scope="module")
def data():
    return load()


class TestData:
    def test_overlay(self):
        """Digits of 100 and 200: 212 empty pixels, 300 of the left one, 784 of the right one."""
        left, right = (torch.full((1, 28, 28), value, dtype=torch.uint8) for value in (100, 200))
        canvas = canvases(left, right)
        counts = {value: int((canvas == value).sum()) for value in (0, 100, 200)}
        assert counts == {0: 212, 100: 300, 200: 784} and canvas.shape == (1, 36, 36)
        assert canvas[0, 0, 0] == 100 and canvas[0, 33, 33] == 200 and canvas[0, 0, 33] == 0
        turned = canvases(right, left)
        assert (turned == 200).sum() == 784 and (turned == 100).sum() == 300

    def test_nearest_neighbours(self):
        left, right = torch.randint(256, (2, 3, 28, 28), dtype=torch.uint8)
        rows = torch.arange(28) * 36 // 28
        expected = canvases(left, right)[:, rows][:, :, rows]
        assert torch.equal(overlay(left, right), expected)

    def test_noise(self):
        image = torch.full((1, 1000, 1000), 128, dtype=torch.uint8)
        noisy = salt_and_pepper(image, 0.5, np.random.RandomState(0))
        for value in (0, 255):
            assert (noisy == value).float().mean().item() == pytest.approx(0.25, abs=0.002)
        assert (image == 128).all()
        assert torch.equal(salt_and_pepper(image, 0.0, np.random.RandomState(0)), image)

    def test_where_the_noise_is(self, data):
        """On the right digit only, or on the right half; pepper on black changes nothing."""
        quiet = load("--noise", "0").splits["test"]
        half = load("--noise_on", "right_half").splits["test"]
        digit, half = (
            split.inputs["image"] != quiet.inputs["image"] for split in (data.splits["test"], half)
        )
        assert 0.2 < digit.float().mean() < 0.5
        assert not digit[:, :5].any() and not digit[:, :, :5].any()
        assert torch.equal(quiet.targets, data.splits["test"].targets)
        assert not half[..., :14].any()
        assert 0.25 < half[..., 14:].float().mean() < 0.5

    def test_the_same_every_time(self, data):
        again = load("--random_seed", "7")
        for name, split in data.splits.items():
            assert torch.equal(split.inputs["image"], again.splits[name].inputs["image"])
            assert torch.equal(split.targets, again.splits[name].targets)

    def test_labels(self, data):
        """The left digit is the image itself; the right one is independent of it."""
        plain = CGDigits.load(options.parse(["--dataset", "cgdigits"]))
        for name, split in data.splits.items():
            assert torch.equal(split.targets[:, 0], plain.splits[name].targets)
        left, right = data.splits["train"].targets.T
        table = torch.zeros(10, 10).index_put_((left, right), torch.ones(()), accumulate=True)
        expected = table.sum(1, keepdim=True) * table.sum(0) / table.sum()
        assert ((table - expected) ** 2 / expected).sum() < 126  # 81 degrees of freedom, 0.1 %
        assert data.tasks == TASKS

    def test_reading(self, data):
        split = data.splits["train"]
        inputs, targets = split.read([3, 1])
        assert inputs["image"].shape == (2, 1, 28, 28) and targets.shape == (2, 2)
        assert inputs["image"].min().item() == pytest.approx(-MEAN / 0.3081, abs=1e-4)
        part = stratified(split, 100, seed=0)
        assert len(part) == 100 and set(part.targets[:, 0].tolist()) == set(range(10))

    def test_from_mnist(self, monkeypatch):
        """The last 5,000 training images are validation; partners stay within their split."""

        def fake(root, *, train):
            size = 5060 if train else 50
            labels = torch.arange(size) // 60 % 10 if train else torch.full((size,), 7)
            return labels.byte()[:, None, None].repeat(1, 28, 28), labels

        monkeypatch.setattr(cgmnist, "read_mnist", fake)
        flags = options.parse(["--dataset", "multimnist", "--noise", "0"])
        splits = multimnist.MultiMNIST.load(flags).splits
        sizes = {name: len(split) for name, split in splits.items()}
        assert sizes == {"train": 60, "val": 5000, "test": 50}
        assert (splits["train"].targets == 0).all() and (splits["test"].targets == 7).all()
        for split in splits.values():  # a digit's grey level is its label
            left, right = split.targets.byte().T
            assert torch.equal(split.inputs["image"][:, 0, 0], left)
            assert torch.equal(split.inputs["image"][:, 25, 25], right)


def model_of(kind):
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 5))
    encoder.out_dim = 5
    return kind(encoder, "image", TASKS, 4).double()


def batch():
    return {"image": torch.randn(12, 6, dtype=torch.float64)}, torch.randint(4, (12, 2))


def losses_of(model, inputs, targets):
    output = model(inputs)
    return [F.cross_entropy(output.unimodal[t], targets[:, i]) for i, t in enumerate(TASKS)]


@pytest.mark.parametrize("granularity", ["encoder", "tensor"])
def test_thirty_steps_of_mmpareto_equal_the_reference(granularity):
    """The shared encoder's gradients are the two tasks'; the heads' are their own."""
    ours, theirs = model_of(Shared), model_of(Shared)
    method = method_of("mmpareto", ours, granularity=granularity)
    steppers = [torch.optim.SGD(m.parameters(), lr=0.05, momentum=0.9) for m in (ours, theirs)]
    conflicts = []
    for _ in range(30):
        inputs, targets = batch()
        for stepper in steppers:
            stepper.zero_grad()
        record = tiny_models.step(method, inputs, targets)
        conflicts.append(bool(record.encoders["shared"].conflict))
        left, right = losses_of(theirs, inputs, targets)
        reference.backward(
            theirs, dict(theirs.encoders), left, {"shared": right},
            lambda j, g: reference.mmpareto(j, g, 1.5, granularity),
        )  # fmt: skip
        assert list(record.losses) == list(TASKS)
        torch.testing.assert_close(record.loss, left + right)
        for stepper in steppers:
            stepper.step()
    assert 0 < sum(conflicts) < 30
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-8)


def test_uniform_is_one_backward_of_the_sum():
    model = model_of(Shared)
    inputs, targets = batch()
    expected = torch.autograd.grad(sum(losses_of(model, inputs, targets)), list(model.parameters()))
    tiny_models.step(method_of("uniform", model, gamma=1), inputs, targets)
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), expected, strict=True))


def test_each_task_alone():
    """Own encoders with equal starts; what the other task is to learn changes nothing."""
    models = [model_of(Separate) for _ in range(2)]
    starts = [list(e.parameters()) for e in models[0].encoders.values()]
    assert all(torch.equal(a, b) for a, b in zip(*starts, strict=True))
    inputs, targets = batch()
    others = torch.stack([targets[:, 0], targets[:, 1].roll(1)], dim=1)
    for model, truth in zip(models, (targets, others), strict=True):
        tiny_models.step(method_of("unimodal", model), inputs, truth)
    for part in ("encoders", "unimodal_heads"):
        for task, is_same in (("left", True), ("right", False)):
            gradients = [[p.grad for p in getattr(m, part)[task].parameters()] for m in models]
            assert all(map(torch.equal, *gradients)) is is_same


def test_own_targets():
    targets = torch.tensor([[1, 2], [3, 4]])
    found = own_targets(targets, TASKS)
    assert found["left"].tolist() == [1, 3] and found["right"].tolist() == [2, 4]
    assert own_targets(targets[:, 0], "ab")["b"].tolist() == [1, 3]


def test_lenet():
    encoder = ENCODERS["lenet"](Modality("image", (1, 28, 28)))
    sizes = [p.numel() for p in encoder.parameters()]
    assert sizes == [250, 10, 5000, 20, 16000, 50]
    assert encoder(torch.randn(2, 1, 28, 28)).shape == (2, 50)
    with pytest.raises(UserError, match="pictures of 12x28 leave nothing"):
        ENCODERS["lenet"](Modality("image", (1, 12, 28)))


@pytest.mark.parametrize("method", ["mmpareto", "gradnorm", "unimodal"])
def test_rows_and_results(tmp_path, method, capsys):
    """Acc is the mean of both tasks; a run that is taken up again ends the same."""
    flags = ["--dataset", "toy_tasks", "--encoder", "cnn", "--method", method]
    train.main([*flags, "--epochs", "2", "--out", str(tmp_path / "whole")])
    shown = capsys.readouterr().out
    assert "val Acc" in shown and "Acc_easy" in shown and "Acc_hard" in shown
    train.main([*flags, "--epochs", "1", "--out", str(tmp_path / "parts")])
    (tmp_path / "parts/result.json").unlink()
    train.main([*flags, "--epochs", "2", "--out", str(tmp_path / "parts"), "--resume"])
    assert_same_run(tmp_path / "whole", tmp_path / "parts")

    capsys.readouterr()
    evaluate_script.main([str(tmp_path / "whole/last.pt")])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:5]]
    scores = {row[0]: float(row[1]) for row in rows}
    assert list(scores) == ["mean", "easy", "hard"]
    assert scores["mean"] == pytest.approx((scores["easy"] + scores["hard"]) / 2, abs=1e-4)


def test_separate_is_the_default_of_each_task_alone():
    for method in ("unimodal", "uniform", "mmpareto", "gradnorm"):
        chosen = options.parse(["--dataset", "toy_tasks", "--method", method]).fusion
        assert chosen == ("separate" if method == "unimodal" else "shared")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--method joint", "--method joint does not run on toy_tasks: choose unimodal, uniform"),
        ("--method ogm_ge", "--method ogm_ge does not run on toy_tasks"),
        ("--fusion concat", "--fusion concat on toy_tasks: choose shared"),
        (
            "--fusion separate",
            "mmpareto does not run with --fusion separate on toy_tasks: choose sha",
        ),
        ("--method unimodal --fusion shared", "with --fusion shared on toy_tasks: choose separate"),
        ("--dataset toy --fusion shared", "with --fusion shared on toy: choose concat"),
        ("--dataset toy --noise 0.1", "--noise acts only with --dataset cgdigits or"),
    ],
)
def test_what_does_not_go_together(flags, message):
    with pytest.raises(UserError, match=message):
        options.parse(["--dataset", "toy_tasks", *flags.split()])


def test_tasks_on_several_modalities():
    flags = options.parse(["--dataset", "toy_tasks"])
    data = setup.load_data(flags)
    data = data._replace(modalities=dict.fromkeys("ab", data.modalities["a"]))
    with pytest.raises(UserError, match="two tasks on one modality expected, toy_tasks has"):
        setup.build_model(flags, data)


def test_better_than_chance(tmp_path):
    flags = ["--dataset", "multidigits", "--optimizer", "adam", "--learning_rate", "0.002"]
    trainer = trainer_of(tmp_path, *flags, "--encoder", "lenet", "--epochs", "4")
    trainer.train()
    assert trainer.scores("test")[0]["left"].Acc > 0.5
    assert isinstance(trainer.model, Shared)
