"""The style of all pictures, and the picture of a comparison: all seeds and their means."""

import io
import statistics
import warnings
from collections.abc import Callable, Iterable
from itertools import cycle
from pathlib import Path

from ..system.writing import write_atomically
from .table import deviation

# Okabe and Ito's colours: readers who are colour-blind tell them apart.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "mmpareto",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.parse_math": False,  # a name with a dollar in it is a name
}


def write(paths: Iterable[Path], draw: Callable, *arguments) -> None:
    """Draw the figure that draw(*arguments) makes into every path, whose ending says the form."""
    # lazily: training needs no matplotlib; without pyplot, Agg draws whatever screen there is
    from matplotlib import rc_context

    with rc_context(STYLE), warnings.catch_warnings():
        # An SVG's reader has the letters that matplotlib's own font lacks.
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure = draw(*arguments)
        for path in paths:
            content = io.BytesIO()
            plain = {"metadata": {"Date": None}} if path.suffix == ".svg" else {"dpi": 200}
            figure.savefig(content, format=path.suffix[1:], **plain)
            write_atomically(path, lambda file, content=content: file.write(content.getvalue()))


def grid(columns: int, width: float, height: float, rows: tuple[int, ...] = (1,), **more):
    """A figure, its panels column by column; rows are their relative heights, sizes in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    panels = figure.subplots(len(rows), columns, squeeze=False, height_ratios=rows, **more)
    return figure, [list(column) for column in panels.T]


def table(points: dict[str, dict[str, list[float]]], rule: str):
    """One panel for each accuracy, one line for each method, in their order.

    points: {panel: {method: percent of each seed}}, every panel with the same methods.
    """
    methods = list(next(iter(points.values())))
    width, height = len(points) * 2.3 + max(map(len, methods)) * 0.075, len(methods) * 0.36 + 1.3
    figure, panels = grid(len(points), width, height, sharey=True)
    for (panel,), (name, seeds), color in zip(panels, points.items(), cycle(COLORS), strict=False):
        for place, values in enumerate(seeds.values()):
            spread, look = deviation(values), {"fmt": "|", "color": color, "markersize": 14}
            panel.errorbar(statistics.mean(values), place, xerr=spread, **look)
            panel.plot(values, [place] * len(values), "o", color=color, alpha=0.6, markersize=4)
        panel.set_title(name, fontsize="medium")
        panel.set_yticks(range(len(methods)), methods)
        panel.set_ylim(len(methods) - 0.5, -0.5)
    figure.supxlabel(
        f"test accuracy (%), {rule} epoch\ndots: seeds; tick: mean; line: standard deviation",
        fontsize="medium",
    )
    return figure
