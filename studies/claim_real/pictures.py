"""The figures of docs/claim_real.md."""

from itertools import cycle
from pathlib import Path

from claim.contrasts import contrast
from claim.pictures import gain
from claim.rows import Run
from mmpareto.results import figures
from mmpareto.results.figures import COLORS

from .design import MAIN, SETS, SETTINGS, part_name

ROW = 0.2  # height of a part, in inches


def write(folder: Path, runs: list[Run]) -> None:
    """settings.png and gain.png."""
    if any(contrast(runs, name, arms) for name in SETS for arms in MAIN):
        figures.write([folder / "settings.png"], settings, runs)
        figures.write([folder / "gain.png"], gain, runs, SETS)


def settings(runs: list[Run]):
    """Both differences of every set, and below it those with one thing changed."""
    parts = [part_name(name, changed) for name in SETS for changed in ("", *SETTINGS)]
    known = [part for part in parts if any(contrast(runs, part, arms) for arms in MAIN)]
    figure, panels = figures.grid(len(MAIN), 4.0, 1 + ROW * len(known), sharey=True)
    of_set = dict(zip(SETS, cycle(COLORS), strict=False))
    for (panel,), arms in zip(panels, MAIN, strict=True):
        panel.axvline(0, color="gray", linewidth=0.8)
        for place, part in enumerate(known):
            if found := contrast(runs, part, arms):
                low, high = (100 * abs(found.mean - end) for end in (found.low, found.high))
                mark = "o" if part in SETS else "."
                panel.errorbar(
                    100 * found.mean, place, xerr=[[low], [high]], fmt=mark, capsize=2,
                    color=of_set[part.split("/")[0]],
                )  # fmt: skip
        panel.set_yticks(range(len(known)), known)
        panel.set_xlabel("points of test accuracy, 95 % interval")
        panel.set_title(arms, fontsize="medium")
    panels[0][0].invert_yaxis()
    return figure
