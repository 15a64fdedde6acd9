"""The words that the console shows, made from numbers."""

import re
import textwrap
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from math import isfinite

from ..system.errors import printable
from .records import Best, measure_of

TIED = "\x00"  # stands for a space that no line ends at


def summary(steps: list[dict]) -> dict:
    """Return one epoch's steps in few numbers; conflict is a share of all (step, encoder) pairs."""
    good = [step for step in steps if not step["skipped"]]
    encoders = [stats for step in good for stats in step.get("encoders", {}).values()]
    names = dict.fromkeys(name for step in good for name in step.get("encoders", {}))
    measures = dict.fromkeys(name for step in good for name in step.get("measures", {}))
    return {
        "loss": mean(step["loss"] for step in good),
        "conflict": mean(stats["conflict"] for stats in encoders),
        "stationary": sum(stats["stationary"] for stats in encoders),
        "skipped": len(steps) - len(good),
        **{name: mean(step["measures"].get(name) for step in good) for name in measures},
        "encoders": {name: _means(step["encoders"].get(name) for step in good) for name in names},
    }


def _means(stats: Iterable[dict | None]) -> dict[str, float | None]:
    """The mean of every field over the steps in which it has a value."""
    known = [one for one in stats if one]
    return {field: mean(v for v in (s[field] for s in known) if isfinite(v)) for field in known[0]}


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of the values that are known; None without any."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def row(epoch: dict, epochs: int, best: Best, by: str = "Acc", further: Iterable[str] = ()) -> str:
    """The console's row of an epoch; by: the score, "Acc" or "F1", that chooses the best one.

    further: more words for it.
    """
    loss = "none" if epoch["loss"] is None else f"{epoch['loss']:.4f}"
    is_tied = best.equals > 1 and best.loss is not None
    tied = f", lowest loss of {best.equals} equal" if is_tied else ""
    words = [
        f"Epoch {epoch['epoch']}/{epochs}",
        f"Loss {loss}",
        f"{epoch['split']} {accuracies(epoch, by)}",
        f"Best {by} {getattr(best, by):.4f} ({best.epoch}{tied})",
    ]
    if epoch["conflict"] is not None:
        words.append(f"conflict {epoch['conflict']:.0%}")
    words += [f"{name} {epoch[name]}" for name in ("stationary", "skipped") if epoch[name]]
    words += further
    return "  ".join([*words, f"waiting {epoch['waiting']:.0%}", f"{epoch['seconds']:.1f}s"])


def fitted(line: str, width: int) -> str:
    """Break a log's line for a terminal, between its parts, which two spaces separate.

    A part that is too long breaks at any space. A command stays whole, so that it can be copied.
    """
    if len(line) <= width or line.startswith(("Command", "Evaluate")):
        return line
    indent = " " * 9
    whole = re.sub(r"(?<=\S) (?=\S)", TIED, line)
    fits = all(len(indent + part) <= width for part in whole.split())
    lines = textwrap.wrap(
        whole if fits else line, width, subsequent_indent=indent, break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip
    return "\n".join(lines).replace(TIED, " ")


def accuracies(scores: dict, by: str = "Acc") -> str:
    """All accuracies in words, and the score that an epoch is chosen by."""
    named = {k: v for k, v in scores.items() if k.split("_")[0] == "Acc" or k == by}
    return "  ".join(f"{k} {v:.4f}" for k, v in named.items())


def rates_in(epoch: dict) -> str:
    """The learning rates of an epoch in words: that of all parameters, or those of the parts."""
    rates = {k.partition("/")[2]: v for k, v in epoch.items() if k.startswith("learning_rate")}
    return "rate " + ", ".join(f"{part} {rate:.3g}".strip() for part, rate in rates.items())


def result_lines(results: dict[str, dict], stopped: int | None = None) -> list[str]:
    """One line per selection rule: {rule: {"epoch": ..., scores}}; stopped: as in `Result`."""
    lines, by = [], max(map(measure_of, results))  # F1 if one of the rules chose by it
    for rule, scores in results.items():
        last = f", stopped early after epoch {stopped}" if stopped else ""
        epoch = last if rule == "last" else f", epoch {scores['epoch']}"
        lines.append(f"Result ({rule}{epoch}): test {accuracies(scores, by)}")
    return lines


def table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], width: int, *, texts: int = 1
) -> str:
    """Return a table for the console: first columns of text (texts many), then numbers.

    Nothing is cut. Long cells of the first column take several lines, each at least 16 letters
    wide; headings of numbers take lines of 9, or as wide as the numbers. (tabulate would pad
    headings.)
    """
    headings, *rows = ([printable(cell) for cell in row] for row in (headings, *rows))
    sizes = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    for place in range(texts, len(sizes)):
        sizes[place] = max([min(len(headings[place]), 9), *(len(row[place]) for row in rows)])
    sizes[0] = min(sizes[0], max(16, width - sum(size + 2 for size in sizes[1:])))
    sides = "<" * texts + ">" * (len(sizes) - texts)

    def lines(row: Sequence[str]) -> Iterable[str]:
        wrapped = [textwrap.wrap(cell, size) for cell, size in zip(row, sizes, strict=True)]
        for parts in zip_longest(*wrapped, fillvalue=""):
            cells = zip(parts, sides, sizes, strict=True)
            yield "  ".join(f"{text:{side}{size}}" for text, side, size in cells).rstrip()

    rule = "  ".join("-" * size for size in sizes)
    return "\n".join([*lines(headings), rule, *(line for row in rows for line in lines(row))])
