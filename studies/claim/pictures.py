"""The figures of docs/claim.md."""

import statistics
from collections.abc import Iterable
from itertools import cycle
from pathlib import Path

from mmpareto.results import figures
from mmpareto.results.figures import COLORS
from mmpareto.run.report import mean

from .contrasts import contrast
from .design import FIXED, MAIN, PARTS
from .rows import Epoch, Run, grouped, scored

DASHES = ("-", "--", ":")
HEIGHT = 2.9  # of a panel, in inches


def write(folder: Path, runs: list[Run], epochs: list[Epoch]) -> None:
    """rates.png, conflict.png and gain.png."""
    figures.write([folder / "rates.png"], rates, runs)
    figures.write([folder / "conflict.png"], conflict, runs, epochs)
    figures.write([folder / "gain.png"], gain, runs, [part for part in PARTS if part != FIXED])


def draw_by_rate(panel, groups: dict[str, list[Run]], column: str) -> None:
    """One line for each group: the mean percentage of its runs at every learning rate."""
    for place, (label, runs) in enumerate(groups.items()):
        tried = sorted(grouped(runs, "learning_rate").items())
        xs = [rate for rate, _ in tried]
        ys = [statistics.mean(100 * getattr(run, column) for run in some) for _, some in tried]
        color, dash = COLORS[place % len(COLORS)], DASHES[place // len(COLORS)]
        panel.plot(xs, ys, dash, color=color, marker="o", markersize=3, label=label)
    panel.set_xlabel("learning rate")


def rates(runs: list[Run]):
    """Validation accuracy of every arm by learning rate."""
    figure, ((panel,),) = figures.grid(1, 6.0, HEIGHT)
    choosing = [run for run in runs if run.is_choosing and run.part == MAIN]
    draw_by_rate(panel, dict(sorted(grouped(choosing, "arm").items())), "val_Acc")
    panel.set_xscale("log", base=2)
    xs = sorted({run.learning_rate for run in choosing})
    panel.set_xticks(xs, [f"{x:g}" for x in xs])
    panel.set_ylabel("validation accuracy (%)")
    panel.set_title(f"{MAIN}, mean of the seeds that choose", fontsize="medium")
    panel.legend(title="arm", frameon=False, ncols=2)
    return figure


def conflict(runs: list[Run], epochs: list[Epoch]):
    """Draw conflict: by epoch and encoder in the main part, by learning rate in all parts."""
    figure, ((left,), (right,)) = figures.grid(2, 4.5, HEIGHT)
    mine = [row for row in epochs if (row.part, row.arm) == (MAIN, "E")]
    for (encoder, rows), color in zip(grouped(mine, "encoder").items(), cycle(COLORS)):
        shares = [100 * (row.conflicts / row.steps) for row in rows]
        left.plot([row.epoch for row in rows], shares, "o-", color=color, label=encoder)
    left.set_xlabel("epoch")
    left.set_ylabel("steps with conflict (%)")
    left.set_ylim(bottom=0)
    left.set_title(f"{MAIN}, arm E, by encoder", fontsize="medium")
    left.legend(frameon=False)
    choosing = [run for run in runs if run.is_choosing and run.arm == "E"]
    draw_by_rate(right, grouped(choosing, "part"), "conflict")
    right.set_xscale("log")
    right.set_xticks([0.01, 0.1, 1], ["0.01", "0.1", "1"])
    right.set_ylim(bottom=0)
    right.set_title("all settings, arm E, by learning rate", fontsize="medium")
    right.legend(frameon=False, fontsize="small")
    return figure


def gain(runs: list[Run], parts: Iterable[str]):
    """What E gains over B and over A in each part, against how often it meets conflict."""
    figure, panels = figures.grid(2, 4.5, HEIGHT, sharey=True)
    for (panel,), arms in zip(panels, ("E-B", "E-A"), strict=True):
        panel.axhline(0, color="gray", linewidth=0.8)
        for part, color in zip(parts, cycle(COLORS), strict=False):
            if not (found := contrast(runs, part, arms)):
                continue
            x = 100 * mean(run.conflict for run in scored(runs, part, "E"))
            low, high = (100 * abs(found.mean - end) for end in (found.low, found.high))
            panel.errorbar(x, 100 * found.mean, [[low], [high]], fmt="o", color=color, capsize=3)
            panel.annotate(
                part, (x, 100 * found.mean), xytext=(4, 4), textcoords="offset points",
                fontsize="small",
            )  # fmt: skip
        panel.set_xlim(left=0)
        panel.set_xlabel("steps with conflict, arm E (%)")
        panel.set_title(f"{arms}: test accuracy, points, 95 % interval", fontsize="medium")
    return figure
