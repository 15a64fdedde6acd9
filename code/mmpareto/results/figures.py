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
WIDTH = 10.0  # inches of a figure at most: so wide a page shows letters in their own size
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "mmpareto",
    "font.size": 10,  # "small" is 8.3
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


def grid(count: int, width: float, height: float, heights=(1,), side: float = 0, **more):
    """A figure of count columns of panels, and those columns; what is too wide goes below.

    width and height: of a column, in inches. heights: of its panels, relative. side: inches that
    the first column needs besides.
    """
    from matplotlib.figure import Figure

    rows = -(-count // max(1, int((WIDTH - side) / width)))
    across = -(-count // rows)
    figure = Figure(figsize=(across * width + side, rows * height + 0.5), layout="constrained")
    ratios = {"height_ratios": heights * rows, **more}
    panels = figure.subplots(rows * len(heights), across, squeeze=False, **ratios)
    columns = [list(part.T) for part in panels.reshape(rows, len(heights), across)]
    every = [list(column) for part in columns for column in part]
    for panel in (panel for column in every[count:] for panel in column):
        panel.remove()
    return figure, every[:count]


def table(points: dict[str, dict[str, list[float]]], rule: str, units: str = "seeds"):
    """One panel for each accuracy, one line for each method, in their order.

    points: {panel: {method: percent of each seed, or fold, as units says}}, every panel with the
    same methods.
    """
    methods = list(next(iter(points.values())))
    height, names = len(methods) * 0.36 + 0.8, max(map(len, methods)) * 0.08
    figure, panels = grid(len(points), 2.3, height, side=names, sharey=True)
    for (panel,), (name, seeds), color in zip(panels, points.items(), cycle(COLORS), strict=False):
        for place, values in enumerate(seeds.values()):
            spread, look = deviation(values), {"fmt": "|", "color": color, "markersize": 14}
            panel.errorbar(statistics.mean(values), place, xerr=spread, **look)
            panel.plot(values, [place] * len(values), "o", color=color, alpha=0.6, markersize=4)
        panel.set_title(name, fontsize="medium")
        panel.set_yticks(range(len(methods)), methods)
        panel.set_ylim(len(methods) - 0.5, -0.5)
    figure.supxlabel(
        f"test accuracy (%), {rule} epoch\ndots: {units}; tick: mean; line: standard deviation",
        fontsize="medium",
    )
    return figure
