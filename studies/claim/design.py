"""The arms, and the settings in which they are compared; docs/claim_protocol.md says why."""

from typing import NamedTuple

# s = j + g, d MMPareto's direction; what stands right is one of compare.py's --methods.
ARMS = {
    "A": "uniform",  # s
    "B": "uniform:gamma=1.5",  # 1.5 s
    "C": "mmpareto:granularity=none:gamma=1",  # d
    "D": "mmpareto:gamma=1",  # d ||s|| / ||d||
    "E": "mmpareto",  # 1.5 d ||s|| / ||d||
    "F": "pareto",  # the shortest mean of j and g
    "G": "pareto:scale=2",
    "R": "mmpareto:granularity=tensor",  # the released script: rescaled tensor by tensor
}
CONTRASTS = ("B-A", "E-A", "E-B", "C-A", "D-A", "D-C", "E-D", "R-E", "F-A", "G-A")
MAIN = "base"  # the part with all arms
FIXED = "fixed"  # the same with no rate chosen: each of several is trained with all seeds


class Part(NamedTuple):
    """One setting in which arms are compared."""

    arms: dict[str, str]  # {arm: one of compare.py's --methods}
    flags: str  # of train.py
    rates: str  # learning rates that are tried
    tune_seeds: str = "100,101"  # that choose among rates; "": nothing is chosen
    seeds: str = "0-9"
    has_files: bool = False  # whether its data has to be there

    @property
    def arm_of(self) -> dict[str, str]:
        """{one of compare.py's --methods: its arm}."""
        return {method: arm for arm, method in self.arms.items()}


RATES = "0.16,0.32,0.64,1.28,2.56"
CNN = "--dataset cgdigits --encoder cnn"
THREE = {arm: ARMS[arm] for arm in "ABE"}
PARTS = {
    MAIN: Part(ARMS, f"{CNN} --epochs 10", RATES, "100-102", "0-19"),
    FIXED: Part(
        {arm: ARMS[arm] for arm in "ABDE"}, f"{CNN} --epochs 10", "0.32,0.64,1.28", "", "0-19"
    ),
    "noise": Part(THREE, f"{CNN} --epochs 10 --noise 0.5", RATES),
    "classes": Part(THREE, f"{CNN} --epochs 10 --num_classes 3", f"{RATES},5.12"),
    "sum": Part(THREE, f"{CNN} --epochs 10 --fusion sum", RATES),
    "adam": Part(THREE, f"{CNN} --epochs 10 --optimizer adam", "0.002,0.004,0.008,0.016,0.032"),
    "samples": Part(THREE, f"{CNN} --epochs 30 --train_size 200", RATES),
    "lenet": Part(
        THREE, "--dataset cgdigits --encoder lenet --epochs 10", "0.0125,0.025,0.05,0.1,0.2"
    ),
    "tasks": Part(THREE, "--dataset multidigits", "0.005,0.01,0.02,0.04,0.08"),
    "cgmnist": Part(
        THREE, "--dataset cgmnist --encoder cnn --epochs 6 --train_size 2000", RATES, has_files=True
    ),
}
