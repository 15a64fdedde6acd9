"""The words of compare.py's flags: lists, names of methods, settings, and flags for train.py."""

from argparse import ArgumentTypeError
from collections.abc import Iterable
from itertools import product
from pathlib import Path

from ..datasets import DATASETS
from ..methods import METHODS
from ..system.errors import UserError
from ..system.flags import encoder, seed, source, source_of

SET_HERE = {
    "method": "give --methods",
    "random_seed": "give --seeds",
    "seed": "give --seeds",
    "resume": "drop --resume",
    "out": "give one for all runs",
    "ckpt_path": "give one for all runs",
    "gpu_ids": "give them for all runs",
    "tensorboard_path": "drop it: every run has its own",
}
# Without these in common, numbers of two runs have no place in one table.
IN_COMMON = {"dataset", "data_root", "split", "select", "select_by"}
SOURCES = ("--init_encoder", "--teacher", "--pretrained")  # whose values are [MODALITY=]FILE
MANY = 1000  # seeds; a longer range is a slip


def find_seeds(flag: str, words: list[str]) -> list[str]:
    """Return the seeds of a flag: 0-2 7 names 0, 1, 2 and 7."""
    seeds: list[str] = []
    for word in listed(flag, words):
        first, is_range, last = word.partition("-")
        try:
            found = range(int(seed(first)), int(seed(last if is_range else first)) + 1)
        except ArgumentTypeError:
            found = range(0)
        if not 0 < len(found) <= MANY:
            raise UserError(
                f"{flag}: {word!r} is not a whole number from 0 to {2**32 - 1}, and no range of "
                f"at most {MANY}: give seeds as in {flag} 0-2 7"
            )
        seeds += map(str, found)
    return seeds


def find_name(name: str) -> str:
    """Return METHOD:FLAG=VALUE:FLAG... in its registered spelling; flags are checked later."""
    method, *own = name.split(":")
    if not all(own):
        raise UserError(f"--methods {name}: a flag is empty: give METHOD:FLAG=VALUE")
    check_own(own, f"--methods {name}")
    return ":".join([METHODS.find(method), *own])


def find_settings(words: list[str]) -> list[dict[str, str]]:
    """Return all combinations of --tune's values; the first flag changes slowest."""
    tuned: dict[str, list[str]] = {}
    for word in words:
        flag, _, values = word.partition("=")
        if not flag or not all(_split(values)):
            raise UserError(f"--tune {word}: give FLAG=VALUE,VALUE, as in learning_rate=0.01,0.002")
        if flag in tuned:
            raise UserError(f"--tune {flag}: given twice: give all its values at once")
        tuned[flag] = _split(values)
    check_own(tuned, "--tune")
    return [dict(zip(tuned, values, strict=True)) for values in product(*tuned.values())]


def check_own(words: Iterable[str], where: str) -> None:
    """UserError for flags that may not differ from run to run; where: "" for those of all runs."""
    flags = {word.split("=")[0] for word in words}
    if found := flags & SET_HERE.keys():
        raise UserError(f"--{min(found)}: compare.py sets it itself: {SET_HERE[min(found)]}")
    if where and (common := flags & IN_COMMON):
        raise UserError(
            f"{where}: --{min(common)} must be equal for all methods: give it as a flag"
        )


def flags_in(words: list[str]) -> set[str]:
    return {word.split("=")[0][2:] for word in words if word.startswith("--")}


def listed(flag: str, words: list[str]) -> list[str]:
    """Return the names in words, which commas separate, too."""
    if names := [name for word in words for name in _split(word) if name]:
        return names
    raise UserError(f"{flag}: names nothing: give at least one")


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def from_anywhere(words: list[str]) -> list[str]:
    """The words of a command, the paths in them absolute."""
    moved, flag = [], ""
    for word in words:
        start, value = "", word
        if word.startswith("--"):
            flag, joined, value = word.partition("=")
            start = flag + joined
        is_path = flag == "--data_root" or (flag == "--dataset" and value not in DATASETS)
        if flag == "--encoder":
            value = encoder(value)
        elif flag in SOURCES and value and Path(source_of(value)[1]).exists():
            value = source(value)
        elif is_path and value and Path(value).exists():
            value = str(Path(value).absolute())
        moved.append(start + value)
    return moved
