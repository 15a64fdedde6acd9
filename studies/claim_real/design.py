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

    weak: str  # the modality that reads least by itself
    strong: str  # the one that noise is added to
    wide: str  # wider encoders, as --encoder takes them
    flags: str = ""  # of train.py
    epochs: int = 20
    lengths: str = ""  # of sequences, for prepare.py
    most: int = 0  # samples of each part that are read; 0: all


SETS = {
    "mfeat": Set("mor", "pix", "mlp_wide"),
    "scene15": Set("view3", "view2", "mlp_wide"),
    "mosi": Set("video", "text", "mlp_wide"),
    "utd_mhad": Set(
        "depth", "skeleton", "depth=resnet18 inertial=mlp_wide skeleton=mlp_wide",
        "--image_size 32 --encoder depth=cnn inertial=mlp skeleton=mlp",
        lengths="inertial=180 skeleton=70",
    ),
    "grid_letters": Set("lips", "voice", "gru_wide", lengths="lips=15 voice=58"),
    "digits": Set(
        "image", "audio", "image=resnet18 audio=lenet_bn",
        "--split group --encoder cnn --train_size 2048 --momentum 0.9", epochs=10, most=2048,
    ),
}  # fmt: skip
RATES = "0.0025,0.005,0.01,0.02,0.04,0.08,0.16"  # learning rates that are tried, of SGD
ADAM = "0.0003,0.001,0.003,0.01,0.03"
SAME, EARLY, NOISE, LONG, WIDE = "same-rate", "early", "noise", "long", "wide"
BATCH = {"batch16": 16, "batch256": 256}
SETTINGS = ("adam", *BATCH, NOISE, LONG, WIDE)  # one thing changed
LARGEST: tuple[str, ...] = ()  # sets whose difference E-A or E-B is the largest: LONG and WIDE


def part_name(name: str, changed: str = "") -> str:
    """Return a part's name: of a set, or of a set with one thing changed."""
    return f"{name}/{changed}" if changed else name


def parts(name: str) -> list[str]:
    """Return what is trained of a set, in order: the choice of "" gives the rates of others."""
    return ["", SAME, EARLY, *(s for s in SETTINGS if s not in (LONG, WIDE) or name in LARGEST)]


def part_of(name: str, changed: str = "", chosen: float = 0.0) -> Part:
    """Return one part; chosen: the rate that validation chose for A on the set."""
    mine = SETS[name]
    batch = BATCH.get(changed, 64)
    flags = f"{mine.flags} --epochs {mine.epochs} --batch_size {batch}"
    if mine.most:
        flags += f" --limit_batches {mine.most // batch}"
    if not changed:
        return Part(ARMS, flags, RATES, CHOOSING, SCORED)
    if changed == SAME:
        rates = ",".join(f"{rate:g}" for rate in (chosen / 2, chosen, 2 * chosen))
        return Part({arm: ARMS[arm] for arm in "ABDE"}, flags, rates, "", SCORED)
    if changed == EARLY:
        seeds = ",".join(map(str, LOOKED_AT))
        return Part({"A": ARMS["A"]}, f"{flags} --epochs 1", f"{chosen:g}", "", seeds)
    flags += {
        "adam": " --optimizer adam", LONG: f" --epochs {5 * mine.epochs}",
        WIDE: f" --encoder {mine.wide}",
    }.get(changed, "")  # fmt: skip
    return Part(THREE, flags, ADAM if changed == "adam" else RATES, CHOOSING, FEWER)
