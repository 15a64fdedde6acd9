"""The panels of Figure 1, and the curves beside them; every function here returns a figure.

They are drawn by `figures.write`, whose style they need. What is told apart by colour differs in
shape, line or hatching, too.
"""

import statistics
from collections.abc import Iterator
from itertools import cycle
from math import isfinite, sqrt
from typing import Any, NamedTuple

from ..figures import COLORS
from .fixed import Fixed
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
WIDTH, HEIGHT = 3.1, 2.3  # of a panel, in inches


class Series(NamedTuple):
    """One method in the plane and in the curves; every list has one entry for each seed."""

    points: dict[str, list[float]]  # {accuracy: percent}
    curves: dict[str, list[list[float | None]]]  # {loss or accuracy: by epoch}
    single_loss: str | None = None  # "joint" or "unimodal": what it is trained by alone


def cosines(logs: Logs, size: int):
    """(a) Cosine of both gradients at every step, and the conflict rate in windows of size."""
    figure, panels = _grid(len(logs.encoders), rows=(3, 1), width=3.4, height=2.8)
    figure.get_layout_engine().set(h_pad=0.02)
    first, second = logs.objectives
    for name, (upper, lower) in zip(logs.encoders, panels, strict=True):
        steps = [step for step in trace(logs, name) if step.stats["cos"] is not None]
        for is_conflict, label, look in (
            (False, "cos > 0", {"marker": "o", "color": GREEN, "s": 9, "alpha": 0.7}),
            (True, f"conflict: cos {AT_MOST} 0", {"marker": "x", "color": RED, "s": 22}),
        ):
            mine = [step for step in steps if step.stats["conflict"] is is_conflict]
            upper.scatter(
                [step.number for step in mine], [step.stats["cos"] for step in mine],
                label=label, linewidths=0 if look["marker"] == "o" else 1.2,
                rasterized=len(mine) > MANY, **look,
            )  # fmt: skip
        upper.axhline(0, color=GRAY, linewidth=0.8)
        upper.set_title(f"encoder {name}", fontsize="medium")
        upper.set_ylabel(f"cosine of the {first} and\n{second} gradient")
        upper.tick_params(labelbottom=False)
        upper.sharex(lower)
        for window in windows(trace(logs, name), size):
            left, width = window["first"] - 0.5, window["last"] - window["first"] + 1
            lower.bar(left, 100 * window["conflict"], width, align="edge", **BAR)
        lower.set_ylim(bottom=0)
        lower.set_ylabel("conflicts\n(%)")
        lower.set_xlabel(f"iteration; conflicts in windows of {size}")
    for row, top in zip(zip(*panels, strict=True), (0, 10), strict=True):
        # All encoders on one scale, now that everything is drawn.
        limits = [top, *(limit for panel in row for limit in panel.get_ylim())]
        for panel in row:
            panel.set_ylim(min(limits), max(limits))
    _legend(figure, panels[0][0])
    return figure


def weights(logs: Logs):
    """What each gradient is multiplied with, and the scale on their sum, step by step."""
    figure, panels = _grid(len(logs.encoders), rows=(1, 1), width=3.4, height=2.8)
    first, second = logs.objectives
    for name, (upper, lower) in zip(logs.encoders, panels, strict=True):
        steps = trace(logs, name)
        numbers = [step.number for step in steps]
        raster = len(steps) > MANY
        for field, objective, look in (
            ("joint_weight", first, {"color": BLUE, "linestyle": "-"}),
            ("unimodal_weight", second, {"color": RED, "linestyle": "--"}),
        ):
            label, values = f"weight of the {objective} gradient", [s.stats[field] for s in steps]
            upper.plot(numbers, _plain(values), label=label, linewidth=1, rasterized=raster, **look)
        scales = _plain(step.stats["scale"] for step in steps)
        lower.plot(numbers, scales, color=GREEN, linewidth=1, rasterized=raster)
        upper.set_title(f"encoder {name}", fontsize="medium")
        upper.set_ylabel("weight")
        upper.tick_params(labelbottom=False)
        lower.set_ylabel("scale")
        lower.set_xlabel("iteration")
    _legend(figure, panels[0][0])
    return figure


def plane(series: dict[str, Series], rule: str):
    """(c) Accuracy of the joint prediction against that of every unimodal one.

    Mean and standard deviation over seeds; lines where a method is trained by that loss alone.
    """
    accuracies = list(next(iter(series.values())).points)
    joint, *unimodal = accuracies
    figure, panels = _grid(len(unimodal), rows=(1,))
    for name, (panel,) in zip(unimodal, panels, strict=True):
        for (label, one), look in zip(series.items(), _looks(), strict=False):
            x, y = (one.points[column] for column in (joint, name))
            middle, spread = zip(_spread(x), _spread(y), strict=True)
            panel.errorbar(
                *middle, xerr=spread[0], yerr=spread[1], label=label, linestyle="none",
                markersize=6, elinewidth=0.9, capsize=2, **look,
            )  # fmt: skip
            if one.single_loss:
                is_joint = one.single_loss == "joint"
                line, at = (panel.axvline, middle[0]) if is_joint else (panel.axhline, middle[1])
                line(at, color=look["color"], linewidth=0.9, linestyle="--", zorder=0)
        panel.set_xlabel(f"test {joint} (%), {rule} epoch")
        panel.set_ylabel(f"test {name} (%)")
    _legend(figure, panels[0][0])
    return figure


def magnitudes(looked: dict[str, dict[str, Fixed]], objectives: tuple[str, str]):
    """(d) How often batches have which gradient norm: a row for each checkpoint."""
    import numpy

    encoders = list(next(iter(looked.values())))
    figure, panels = _grid(
        len(encoders), rows=(1,) * len(looked), width=3.4, height=2.2 * len(looked)
    )
    for name, column in zip(encoders, panels, strict=True):
        for (label, found), panel in zip(looked.items(), column, strict=True):
            both = found[name][:2]
            norms = [norm for moments in both for norm in moments.norms]
            bins = min(40, max(8, round(2 * sqrt(len(norms)))))
            edges = numpy.histogram_bin_edges(norms, bins)
            for objective, moments, look in zip(objectives, both, HISTOGRAMS, strict=True):
                text = f"{objective}: mean {moments.mean:.3g}, var {moments.variance:.2g}"
                text += f", trace {moments.trace:.3g}"
                panel.hist(moments.norms, edges, label=text, **look)
                color = look["edgecolor"]
                panel.axvline(moments.mean, 0, 0.7, linewidth=1, linestyle="--", color=color)
            panel.set_title(f"encoder {name}\n{label}", fontsize="medium")
            panel.set_ylabel("batches")
            panel.set_ylim(0, 1.45 * panel.get_ylim()[1])  # room for the numbers
            panel.legend(fontsize="x-small", loc="upper left", frameon=False)
        column[-1].set_xlabel("gradient magnitude, encoder fixed")
    return figure


def curves(series: dict[str, Series]):
    """Training loss and accuracies by epoch; over several seeds their mean, and where all lie."""
    names = list(next(iter(series.values())).curves)
    figure, panels = _grid(len(names), rows=(1,), width=2.4, height=2.1)
    for name, (panel,) in zip(names, panels, strict=True):
        for (label, one), look in zip(series.items(), _looks(), strict=False):
            by_epoch = list(zip(*(_plain(seed) for seed in one.curves[name]), strict=False))
            epochs = range(1, len(by_epoch) + 1)
            middle = [statistics.fmean(values) for values in by_epoch]
            every = max(1, len(by_epoch) // 8)
            panel.plot(
                epochs, middle, label=label, linewidth=1.2, markersize=3.5, markevery=every, **look
            )
            if len(one.curves[name]) > 1:
                low, high = ([end(values) for values in by_epoch] for end in (min, max))
                panel.fill_between(epochs, low, high, color=look["color"], alpha=0.15, linewidth=0)
        panel.set_title(name, fontsize="medium")
        panel.set_xlabel("epoch")
        panel.xaxis.get_major_locator().set_params(integer=True)
    if len(series) > 1:
        _legend(figure, panels[0][0])
    return figure


def _grid(columns: int, rows: tuple[int, ...], width: float = WIDTH, height: float = HEIGHT):
    """A figure, and its panels column by column; rows are their relative heights."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(columns, 1.3) * width, height + 0.5), layout="constrained")
    panels = figure.subplots(len(rows), columns, squeeze=False, height_ratios=rows)
    return figure, [[row[column] for row in panels] for column in range(columns)]


def _legend(figure, panel) -> None:
    handles, labels = panel.get_legend_handles_labels()
    width = figure.get_figwidth() / (0.5 + max(map(len, labels), default=1) * 0.075)
    figure.legend(
        handles, labels, loc="outside lower center", frameon=False, fontsize="small",
        ncols=max(1, min(len(labels), int(width))),
    )  # fmt: skip


def _looks() -> Iterator[dict[str, Any]]:
    return ({"color": c, "marker": m} for c, m in zip(cycle(COLORS), cycle(MARKERS), strict=False))


def _spread(values: list[float]) -> tuple[float, float | None]:
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def _plain(values) -> list[float]:
    """A gap in the line where there is no number."""
    return [float("nan") if v is None or not isfinite(v) else v for v in values]
