"""The sets, arms and settings of docs/claim_real_protocol.md, which says why."""

from typing import NamedTuple

from claim.design import ARMS as DIGITS
from claim.design import Part

ARMS = {
    "J": "joint",
    "U": "unimodal",
    **DIGITS,  # A to G, and R
    "X": "cagrad:scale=2",
    "Y": "torchjd",
    "Z": "aligned_mtl:scale=2",
}
THREE = {arm: ARMS[arm] for arm in "ABE"}
# What a difference of arms tells; each set's are corrected together, but for the first two.
MAIN = ("E-A", "E-B")
OTHERS = ("B-A", "C-A", "D-A", "D-C", "E-D", "R-E", "F-A", "G-A", "J-A",
          "X-A", "Y-A", "Z-A")  # fmt: skip
CHOOSING, SCORED, FEWER = "300,301", "40-54", "40-49"  # seeds
LOOKED_AT = (40, 41, 42)  # seeds whose checkpoints are looked at


class Set(NamedTuple):
    """One set of recordings, and how models train on it."""

    weak: str  # the modality that reads least by itself
    strong: str  # the one that noise is added to
    wide: str  # wider encoders, as --encoder takes them
    classes: int
    flags: str = ""  # of train.py
    epochs: int = 20
    lengths: str = ""  # of sequences, for prepare.py
    most: int = 0  # samples of each part that are read; 0: all


SETS = {
    "mfeat": Set("mor", "pix", "mlp_wide", 10),
    "scene15": Set("view3", "view2", "mlp_wide", 15),
    "mosi": Set("video", "text", "mlp_wide", 2),
    "utd_mhad": Set(
        "depth", "skeleton", "depth=resnet18 inertial=mlp_wide skeleton=mlp_wide", 27,
        "--image_size 32 --workers 0 --encoder depth=cnn inertial=mlp skeleton=mlp",
        lengths="inertial=180 skeleton=70",
    ),
    "grid_letters": Set("lips", "voice", "gru_wide", 25, lengths="lips=15 voice=58"),
    "digits": Set(
        "image", "audio", "image=resnet18 audio=lenet_bn", 10,
        "--split group --encoder cnn --train_size 1024", epochs=10, most=2048,
    ),
}  # fmt: skip
SAME, EARLY, ADAM, NOISE, LONG, WIDE = "same-rate", "early", "adam", "noise", "long", "wide"
BATCH = {"batch16": 16, "batch256": 256}
SETTINGS = (ADAM, *BATCH, NOISE, LONG, WIDE)  # one thing changed
LARGEST: tuple[str, ...] = ()  # the two sets whose larger of |E-A| and |E-B| is largest: LONG, WIDE
# Learning rates: see `rates_of` and `wider`.
RATES = {
    "": ("0.0025,0.005,0.01,0.02,0.04,0.08,0.16",
         "0.000625,0.00125,0.0025,0.005,0.01,0.02,0.04,0.08,0.16,0.32,0.64,1.28"),
    ADAM: ("0.0003,0.001,0.003,0.01,0.03", "0.00003,0.0001,0.0003,0.001,0.003,0.01,0.03,0.1,0.3"),
}  # fmt: skip
OPTIMIZER = {"": "--momentum 0.9", ADAM: "--optimizer adam"}


def part_name(name: str, changed: str = "") -> str:
    """Return a part's name: of a set, or of a set with one thing changed."""
    return f"{name}/{changed}" if changed else name


def parts(name: str) -> list[str]:
    """Return what is trained of a set, in order: the choice of "" gives the rates of others."""
    return ["", SAME, EARLY, *(s for s in SETTINGS if s not in (LONG, WIDE) or name in LARGEST)]


def rates_of(changed: str) -> tuple[str, str]:
    """Return the rates that a part tries first, and all that it may try."""
    return RATES.get(changed, RATES[""])


def wider(rates: str, chosen: set[str], changed: str) -> str:
    """Return the rates with one more at each end that an arm chose, as far as there are more."""
    tried, every = rates.split(","), rates_of(changed)[1].split(",")
    low, high = every.index(tried[0]), every.index(tried[-1])
    low = max(low - (tried[0] in chosen), 0)
    return ",".join(every[low : high + 1 + (tried[-1] in chosen)])


def part_of(name: str, changed: str = "", chosen: float = 0.0) -> Part:
    """Return one part; chosen: the rate that validation chose for A on the set."""
    mine = SETS[name]
    batch = BATCH.get(changed, 64)
    flags = f"{mine.flags} --epochs {mine.epochs} --batch_size {batch} --weight_decay 0.0001"
    flags += f" {OPTIMIZER.get(changed, OPTIMIZER[''])}"
    rates, _ = rates_of(changed)
    if mine.most:
        flags += f" --limit_batches {mine.most // batch}"
    if not changed:
        return Part(ARMS, flags, rates, CHOOSING, SCORED)
    if changed == SAME:
        rates = ",".join(f"{rate:g}" for rate in (chosen / 2, chosen, 2 * chosen))
        return Part({arm: ARMS[arm] for arm in "ABDE"}, flags, rates, "", SCORED)
    if changed == EARLY:
        seeds = ",".join(map(str, LOOKED_AT))
        return Part({"A": ARMS["A"]}, f"{flags} --epochs 1", f"{chosen:g}", "", seeds)
    changes = {LONG: f" --epochs {5 * mine.epochs}", WIDE: f" --encoder {mine.wide}"}
    return Part(THREE, flags + changes.get(changed, ""), rates, CHOOSING, FEWER)
