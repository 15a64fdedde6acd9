"""The sets, arms and settings of docs/claim_real_protocol.md, which says why."""

from typing import NamedTuple

from claim.design import ARMS as DIGITS
from claim.design import Part

ARMS = {
    "J": "joint",
    "U": "unimodal",
    **DIGITS,  # A to G, and R
}
THREE = {arm: ARMS[arm] for arm in "ABE"}
# What a difference of arms tells; each set's are corrected together, but for the first two.
MAIN = ("E-A", "E-B")
OTHERS = ("B-A", "C-A", "D-A", "D-C", "E-D", "R-E", "F-A", "G-A", "J-A")
CHOOSING, SCORED, FEWER = "300,301", "40-54", "40-49"  # seeds
LOOKED_AT = (40, 41, 42)  # seeds whose checkpoints are looked at


class Set(NamedTuple):
    """One set of recordings, and how models train on it."""

    flags: str  # of train.py
    rates: str  # learning rates that are tried, of SGD
    weak: str  # the modality that reads least by itself
    strong: str  # the one that noise is added to
    lengths: str = ""  # of sequences, for prepare.py


RATES = "0.0025,0.005,0.01,0.02,0.04,0.08,0.16"
UTD = "--epochs 20 --image_size 32 --encoder depth=cnn inertial=mlp skeleton=mlp"
SETS = {
    "mfeat": Set("--epochs 20", RATES, "mor", "pix"),
    "scene15": Set("--epochs 20", RATES, "view3", "view2"),
    "mosi": Set("--epochs 20", RATES, "video", "text"),
    "utd_mhad": Set(UTD, RATES, "depth", "skeleton", "inertial=180 skeleton=70"),
    "grid_letters": Set("--epochs 20", RATES, "lips", "voice", "lips=15 voice=58"),
    "digits": Set(
        "--split group --train_size 2000 --epochs 6 --limit_batches 50", RATES, "image", "audio"
    ),
}
ADAM = "0.0003,0.001,0.003,0.01,0.03"
SAME, EARLY, NOISE = "same-rate", "early", "noise"
SETTINGS = {  # {name: flags of train.py, and rates if they are not the set's}
    "adam": ("--optimizer adam", ADAM),
    "batch16": ("--batch_size 16", ""),
    "batch256": ("--batch_size 256", ""),
    NOISE: ("", ""),
}


def part_name(name: str, changed: str = "") -> str:
    """Return a part's name: of a set, or of a set with one thing changed."""
    return f"{name}/{changed}" if changed else name


def part_of(name: str, changed: str = "", chosen: float = 0.0) -> Part:
    """Return one part; chosen: the rate that validation chose for A on the set."""
    mine = SETS[name]
    if not changed:
        return Part(ARMS, mine.flags, mine.rates, CHOOSING, SCORED)
    if changed == SAME:
        rates = ",".join(f"{rate:g}" for rate in (chosen / 2, chosen, 2 * chosen))
        return Part({arm: ARMS[arm] for arm in "ABDE"}, mine.flags, rates, "", SCORED)
    if changed == EARLY:
        seeds = ",".join(map(str, LOOKED_AT))
        return Part({"A": ARMS["A"]}, f"{mine.flags} --epochs 1", f"{chosen:g}", "", seeds)
    flags, rates = SETTINGS[changed]
    return Part(THREE, f"{mine.flags} {flags}", rates or mine.rates, CHOOSING, FEWER)
