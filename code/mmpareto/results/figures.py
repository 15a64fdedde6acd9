"""Pictures in one style, and that of a comparison: the accuracies of all seeds, their means."""

import io
import statistics
import warnings
from collections.abc import Callable, Iterable
from itertools import cycle
from pathlib import Path

from ..system.writing import write_atomically

# Okabe and Ito's colours: readers who are colour-blind tell them apart.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INCHES = {"panel": 2.3, "row": 0.36, "letter": 0.075, "rest": 1.3}
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


def table(points: dict[str, dict[str, list[float]]], rule: str):
    """One panel for each accuracy, one line for each method, in their order.

    points: {panel: {method: percent of each seed}}, every panel with the same methods.
    """
    from matplotlib.figure import Figure

    methods = list(next(iter(points.values())))
    width = len(points) * INCHES["panel"] + max(map(len, methods)) * INCHES["letter"]
    height = len(methods) * INCHES["row"] + INCHES["rest"]
    figure = Figure(figsize=(width, height), layout="constrained")
    panels = figure.subplots(1, len(points), sharey=True, squeeze=False)[0]
    for panel, (name, seeds), color in zip(panels, points.items(), cycle(COLORS), strict=False):
        for place, values in enumerate(seeds.values()):
            middle = statistics.mean(values)
            deviation = statistics.stdev(values) if len(values) > 1 else None
            panel.errorbar(middle, place, xerr=deviation, fmt="|", color=color, markersize=14)
            panel.plot(values, [place] * len(values), "o", color=color, alpha=0.6, markersize=4)
        panel.set_title(name, fontsize="medium")
        panel.set_yticks(range(len(methods)), methods)
        panel.set_ylim(len(methods) - 0.5, -0.5)
    figure.supxlabel(
        f"test accuracy (%), {rule} epoch\ndots: seeds; tick: mean; line: standard deviation",
        fontsize="medium",
    )
    return figure
