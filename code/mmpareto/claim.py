"""Which part of MMPareto does the work: arms, differences between them, tables and figures.

A run is a row of plain numbers; everything on docs/claim.md follows from two CSV files of them.
"""

from typing import NamedTuple

# s = j + g, d MMPareto's direction; `methods` of compare.py.
ARMS = {
    "A": "uniform",  # s
    "B": "uniform:gamma=1.5",  # 1.5 s
    "C": "mmpareto:granularity=none:gamma=1",  # d
    "D": "mmpareto:gamma=1",  # d ||s|| / ||d||
    "E": "mmpareto",  # 1.5 d ||s|| / ||d||
    "F": "pareto",  # shortest mean of j and g
    "G": "pareto:scale=2",
    "R": "mmpareto:granularity=tensor",  # the released script: rescaled tensor by tensor
}


class Part(NamedTuple):
    """One setting in which arms are compared."""

    arms: tuple[str, ...]
    flags: str  # of train.py
    rates: str  # learning rates that are tried
    tune_seeds: int = 2
    seeds: int = 10
    has_files: bool = False  # whether its data has to be there
