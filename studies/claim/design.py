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

    arms: tuple[str, ...]
    flags: str  # of train.py
    rates: str  # learning rates that are tried
    tune_seeds: int = 2  # that choose among rates; 0: nothing is chosen
    seeds: int = 10
    has_files: bool = False  # whether its data has to be there


RATES = "0.16,0.32,0.64,1.28,2.56"
CNN = "--dataset cgdigits --encoder cnn"
THREE = ("A", "B", "E")
PARTS = {
    MAIN: Part(tuple(ARMS), f"{CNN} --epochs 10", RATES, tune_seeds=3, seeds=20),
    FIXED: Part(
        ("A", "B", "D", "E"), f"{CNN} --epochs 10", "0.32,0.64,1.28", tune_seeds=0, seeds=20
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
