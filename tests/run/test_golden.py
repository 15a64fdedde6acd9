"""Numbers that may move on purpose only.

tests/golden.json holds the first steps of every method, fusion and encoder on data that need no
download, in float64, where other threads, processors and versions of torch differ by rounding
alone: by 1e-12 of a loss at most with two threads in place of one, and by 9e-11 of a gradient.
"""

import json
import tempfile
from pathlib import Path

import pytest
import torch
from balance import FAST

import train
from mmpareto.data import samples
from mmpareto.methods import METHODS
from mmpareto.models.encoders import ENCODERS
from mmpareto.models.fusions import FUSIONS

GOLDEN = Path(__file__).resolve().parents[1] / "golden.json"
TOLERANCE = 1e-7
SLOW = ["--learning_rate", "0.01", "--limit_batches", "2"]  # large encoders, which 0.1 throws off
# those compared with torchvision's, those that take clips or sequences, which no set here has, and
# wider ones
OTHERS = {"resnet34", "resnet50", "resnet101", "mobilenet_v2", "mobilenet_v3_small"}
OTHERS |= {"r3d_18", "mc3_18", "r2plus1d_18", "video_cnn", "gru", "gru_wide", "mlp_wide"}

CASES = {
    **{f"method {name}": ["--encoder", "cnn", "--method", name] for name in METHODS},
    **{f"fusion {name}": ["--encoder", "cnn", "--fusion", name] for name in FUSIONS},
    **{f"encoder {name}": ["--encoder", name, *SLOW] for name in ENCODERS if name not in OTHERS},
    "fusion shared": ["--dataset", "multidigits"],
    "fusion separate": ["--dataset", "multidigits", "--fusion", "separate", "--method", "uniform"],
    "fusion bottleneck": ["--fusion", "bottleneck", *SLOW],
    "method opm": ["--encoder", "cnn", "--method", "opm", "--warmup_epochs", "0"],
    "optimizer adamw": ["--encoder", "cnn", "--optimizer", "adamw"],
}


def first_steps(folder: Path, flags: list[str]) -> dict[str, list[float]]:
    """Return losses, gradient norms and all accuracies of two epochs of four steps."""
    train.main(["--learning_rate", "0.1", "--batch_size", "32", "--epochs", "2",
                "--limit_batches", "4", "--out", str(folder), *flags])  # fmt: skip
    steps = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
    results = json.loads((folder / "result.json").read_text())["results"]
    return {
        "loss": [step["loss"] for step in steps],
        "grad_norm": [step["grad_norm"] for step in steps],
        "test": [scores[name] for scores in results.values() for name in sorted(scores)],
    }


@pytest.fixture
def float64(monkeypatch):
    in_float64(monkeypatch)
    yield
    torch.set_default_dtype(torch.float32)


def in_float64(monkeypatch):
    original = samples.to_device

    def to_device(inputs, device):
        return {name: x.double() for name, x in original(inputs, device).items()}

    monkeypatch.setattr(samples, "to_device", to_device)
    torch.set_default_dtype(torch.float64)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[pytest.mark.slow] * (case.removeprefix("method ") not in FAST))
        for case in CASES
    ],
)
def test_numbers_have_not_moved(case, tmp_path, float64):
    golden = json.loads(GOLDEN.read_text())
    assert first_steps(tmp_path / "run", CASES[case]) == near(golden[case]), (
        f"{case}: trains otherwise than when golden.json was written with torch "
        f"{golden['torch']} (here is {torch.__version__}). If that is meant, run `PYTHONPATH="
        "code python tests/run/test_golden.py`, which writes what moved, and say in the commit why"
    )


def near(numbers: dict) -> dict:
    return {name: pytest.approx(values, rel=TOLERANCE) for name, values in numbers.items()}


def merged(golden: dict, found: dict) -> dict:
    """The numbers found; but within the tolerance those that golden.json holds, digit by digit."""

    def kept(case: str, name: str) -> list[float]:
        old, new = golden.get(case, {}).get(name), found[case][name]
        return old if old == pytest.approx(new, rel=TOLERANCE) else new

    return {case: {name: kept(case, name) for name in found[case]} for case in found}


def test_writing_moves_only_what_moved():
    golden = {"old": {"loss": [1.0], "test": [1.0]}, "gone": {}}
    found = {"old": {"loss": [1 + 1e-9], "test": [1.1]}, "new": {"loss": [2.0]}}
    assert merged(golden, found) == {**found, "old": {"loss": [1.0], "test": [1.1]}}


if __name__ == "__main__":
    torch.set_num_threads(1)
    in_float64(pytest.MonkeyPatch())
    with tempfile.TemporaryDirectory() as folder:
        found = {case: first_steps(Path(folder, case), flags) for case, flags in CASES.items()}
    written = merged(json.loads(GOLDEN.read_text()), found)
    GOLDEN.write_text(json.dumps({"torch": torch.__version__, **written}, indent=1) + "\n")
