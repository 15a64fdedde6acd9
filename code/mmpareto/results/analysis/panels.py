"""The panels of Figure 1, and the curves beside them; every function here returns a figure.

They are drawn by `figures.write`, whose style they need. What is told apart by colour differs in
shape, line or hatching, too.
"""

import statistics
from collections.abc import Iterator
from itertools import cycle
from math import isfinite, sqrt
from textwrap import fill
from typing import Any

from ..figures import COLORS, grid
from ..table import accuracies, deviation
from .fixed import Looked
from .logs import Logs, trace, windows

BLUE, RED, GREEN = COLORS[:3]
GRAY, AT_MOST = "#555555", "\N{LESS-THAN OR EQUAL TO}"
MARKERS = "osD^vP*"  # with six colours: 42 methods, each with a pair of its own
BAR = {"color": RED, "edgecolor": "white", "linewidth": 0.4}
HISTOGRAMS = (
    {"facecolor": BLUE, "edgecolor": BLUE, "alpha": 0.75},
    {"facecolor": "none", "edgecolor": RED, "hatch": "////"},
)
MANY = 2000  # points, from where on an SVG holds them as a picture


def cosines(logs: Logs, size: int):
    """(a) Cosine of both gradients at every step, and the conflict rate in windows of size."""
    figure, panels = _by_encoder(logs, rows=(3, 1))
    figure.get_layout_engine().set(h_pad=0.02)
    first, second = logs.objectives
    for name, (upper, lower) in panels.items():
        steps = trace(logs, name)
        known = [step for step in steps if step.stats.cos is not None]
        for is_conflict, label, look in (
            (False, "cos > 0", {"marker": "o", "color": GREEN, "s": 9, "alpha": 0.7}),
            (True, f"conflict: cos {AT_MOST} 0", {"marker": "x", "color": RED, "s": 22}),
        ):
            mine = [step for step in known if step.stats.conflict is is_conflict]
            upper.scatter(
                [step.number for step in mine], [step.stats.cos for step in mine],
                label=label, linewidths=1.2 if is_conflict else 0,
                rasterized=len(mine) > MANY, **look,
            )  # fmt: skip
        upper.axhline(0, color=GRAY, linewidth=0.8)
        upper.set_ylabel(f"cosine of the {first} and\n{second} gradient")
        upper.sharex(lower)
        for window in windows(steps, size):
            left, width = window["first"] - 0.5, window["last"] - window["first"] + 1
            lower.bar(left, 100 * window["conflict"], width, align="edge", **BAR)
        lower.set_ylim(bottom=0)
        lower.set_ylabel("conflicts\n(%)")
        lower.set_xlabel(f"iteration; conflicts in windows of {size}")
    for row, top in zip(zip(*panels.values(), strict=True), (0, 10), strict=True):
        # All encoders on one scale, now that everything is drawn.
        limits = [top, *(limit for panel in row for limit in panel.get_ylim())]
        for panel in row:
            panel.set_ylim(min(limits), max(limits))
    _legend(figure)
    return figure


def weights(logs: Logs):
    """What each gradient is multiplied with, and the scale on their sum, step by step."""
    figure, panels = _by_encoder(logs, rows=(1, 1))
    first, second = logs.objectives
    for name, (upper, lower) in panels.items():
        steps = trace(logs, name)
        numbers = [step.number for step in steps]
        for panel, field, label, color, line in (
            (upper, "joint_weight", f"weight of the {first} gradient", BLUE, "-"),
            (upper, "unimodal_weight", f"weight of the {second} gradient", RED, "--"),
            (lower, "scale", None, GREEN, "-"),
        ):
            values = _plain(getattr(step.stats, field) for step in steps)
            panel.plot(
                numbers, values, color=color, linestyle=line, linewidth=1, label=label,
                rasterized=len(steps) > MANY,
            )  # fmt: skip
        upper.set_ylabel("weight")
        lower.set_ylabel("scale")
        lower.set_xlabel("iteration")
    _legend(figure)
    return figure


def plane(percents: dict[str, dict], single_losses: dict[str, str | None], rule: str):
    """(c) Accuracy of the joint prediction against that of every unimodal one.

    Mean and standard deviation over seeds; lines where a method is trained by that loss alone.
    percents: {accuracy: {method: of each seed}}.
    """
    joint, *unimodal = percents
    figure, panels = grid(len(unimodal), 3.1, 2.5)
    for name, (panel,) in zip(unimodal, panels, strict=True):
        for (method, single_loss), look in zip(single_losses.items(), _looks(), strict=False):
            both = percents[joint][method], percents[name][method]
            x, y = map(statistics.fmean, both)
            across, up = map(deviation, both)
            panel.errorbar(
                x, y, xerr=across, yerr=up, label=method, linestyle="none", markersize=6,
                elinewidth=0.9, capsize=2, **look,
            )  # fmt: skip
            if single_loss:
                line, at = (panel.axvline, x) if single_loss == "joint" else (panel.axhline, y)
                line(at, color=look["color"], linewidth=0.9, linestyle="--", zorder=0)
        panel.set_xlabel(f"test {joint} (%), {rule} epoch")
        panel.set_ylabel(f"test {name} (%)")
    _legend(figure)
    return figure


def magnitudes(looked: list[Looked]):
    """(d) How often batches have which gradient norm: a row for each checkpoint."""
    import numpy

    encoders, rows = list(looked[0].encoders), len(looked)
    figure, panels = grid(len(encoders), 3.3, 2.7 * rows, (1,) * rows)
    for name, column in zip(encoders, panels, strict=True):
        for one, panel in zip(looked, column, strict=True):
            both = one.encoders[name][:2]
            norms = [norm for moments in both for norm in moments.norms]
            bins = min(40, max(8, round(2 * sqrt(len(norms)))))
            edges = numpy.histogram_bin_edges(norms, bins)
            for objective, moments, look in zip(
                looked[0].objectives, both, HISTOGRAMS, strict=True
            ):
                mean, variance, trace = moments.numbers().values()
                text = f"{objective}: mean {mean:.3g},\nvar {variance:.2g}, trace {trace:.3g}"
                panel.hist(moments.norms, edges, label=text, **look)
                panel.axvline(mean, 0, 0.5, linewidth=1, linestyle="--", color=look["edgecolor"])
            panel.set_title(f"encoder {name}\n{one.label}", fontsize="medium")
            panel.set_ylabel("batches")
            panel.set_ylim(0, 2.2 * panel.get_ylim()[1])  # room for the numbers
            panel.legend(fontsize="small", loc="upper left", frameon=False)
        column[-1].set_xlabel("gradient magnitude, encoder fixed")
    return figure


def curves(runs: dict[str, list[Logs]]):
    """Training loss and accuracies by epoch; over several seeds their mean, and where all lie.

    runs: {method: its seeds}. Losses of several methods are sums of different numbers of losses: of
    them, the joint one alone is drawn, and the title names the methods that have none.
    """
    first = next(iter(runs.values()))[0].epochs[0]
    without = [
        label
        for label, seeds in runs.items()
        if all(epoch["joint_loss"] is None for run in seeds for epoch in run.epochs)
    ]
    is_joint = 1 < len(runs) > len(without)
    loss, title = ("joint_loss", "joint training loss") if is_joint else ("loss", "training loss")
    if is_joint and without:
        title += "\n" + fill(f"none in {', '.join(without)}", 35)
    titles = {loss: title}
    titles |= {name: f"{first['split']} {name} (%)" for name in accuracies(first)}
    figure, panels = grid(len(titles), 2.5, 2.2)
    for (name, title), (panel,) in zip(titles.items(), panels, strict=True):
        for (label, seeds), look in zip(runs.items(), _looks(), strict=False):
            lines = [_plain(epoch[name] for epoch in run.epochs) for run in seeds]
            scale = 1 if name == loss else 100
            by_epoch = [[scale * v for v in values] for values in zip(*lines, strict=False)]
            epochs = range(1, len(by_epoch) + 1)
            middle = [statistics.fmean(values) for values in by_epoch]
            every = max(1, len(by_epoch) // 8)
            panel.plot(
                epochs, middle, label=label, linewidth=1.2, markersize=3.5, markevery=every, **look
            )
            if len(seeds) > 1:
                low, high = ([end(values) for values in by_epoch] for end in (min, max))
                panel.fill_between(epochs, low, high, color=look["color"], alpha=0.15, linewidth=0)
        panel.set_title(title, fontsize="medium")
        panel.set_xlabel("epoch")
        panel.xaxis.get_major_locator().set_params(integer=True)
    if len(runs) > 1:
        _legend(figure)
    return figure


def _by_encoder(logs: Logs, rows: tuple[int, int]):
    """A figure, and {encoder: its two panels, one over the other}."""
    names = logs.encoders
    figure, panels = grid(len(names), 3.3, 2.8, rows)
    for name, (upper, _) in zip(names, panels, strict=True):
        upper.set_title(f"encoder {name}", fontsize="medium")
        upper.tick_params(labelbottom=False)
    return figure, dict(zip(names, panels, strict=True))


def _legend(figure) -> None:
    """Below all panels, of what the first one shows."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    width = figure.get_figwidth() / (0.5 + max(map(len, labels), default=1) * 0.075)
    figure.legend(
        handles, labels, loc="outside lower center", frameon=False, fontsize="small",
        ncols=max(1, min(len(labels), int(width))),
    )  # fmt: skip


def _looks() -> Iterator[dict[str, Any]]:
    return ({"color": c, "marker": m} for c, m in zip(cycle(COLORS), cycle(MARKERS), strict=False))


def _plain(values) -> list[float]:
    """A gap in the line where there is no number."""
    return [float("nan") if v is None or not isfinite(v) else v for v in values]
