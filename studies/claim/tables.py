"""The tables of docs/claim.md, in Markdown."""

import statistics
from collections import defaultdict

from mmpareto.results.table import as_text
from mmpareto.run.report import mean

from .contrasts import Contrast, contrast, holm
from .design import ARMS, CONTRASTS, FIXED, MAIN, PARTS
from .rows import Epoch, Run


def tables(runs: list[Run], epochs: list[Epoch]) -> dict[str, str]:
    """{heading: table}; a part without runs is left out."""
    found = {
        "Arms": arms(runs),
        "Differences": differences(runs),
        "Validation accuracy by learning rate": rates(runs),
        "At the same learning rate": same_rate(runs),
        "Settings": settings(runs),
        "Where conflict is": conflict(epochs),
    }
    return {heading: as_text(rows, "pipe") for heading, rows in found.items() if rows}


def arms(runs: list[Run]) -> list[dict[str, str]]:
    rows = []
    for arm in ARMS:
        mine = scored(runs, MAIN, arm)
        if mine:
            rows.append({
                "arm": arm, "learning rate": f"{mine[0].learning_rate:g}",
                "seeds": str(len(mine)), "Acc": spread(run.Acc for run in mine),
                "conflict": share(mean(run.conflict for run in mine)),
            })  # fmt: skip
    return rows


def differences(runs: list[Run]) -> list[dict[str, str]]:
    found = [c for arms in CONTRASTS if (c := contrast(runs, MAIN, arms))]
    corrected = holm([c.p for c in found])
    return [
        {"difference": c.arms, "points [95 %]": points(c), "p": f"{c.p:.3f}",
         "p (Holm)": f"{p:.3f}", "detectable": f"{100 * c.detectable:.1f}"}
        for c, p in zip(found, corrected, strict=True)
    ]  # fmt: skip


def rates(runs: list[Run]) -> list[dict[str, str]]:
    """In every part, of the seeds that choose; the choice in bold."""
    tried = defaultdict(lambda: defaultdict(list))
    for run in runs:
        if run.is_choosing:
            tried[run.part, run.arm][run.learning_rate].append(run.val_Acc)
    rows = []
    for (part, arm), by_rate in tried.items():
        means = {rate: statistics.mean(values) for rate, values in sorted(by_rate.items())}
        best = max(means, key=means.get)
        cells = [f"{rate:g}: {percent(value)}" for rate, value in means.items()]
        cells[list(means).index(best)] = f"**{cells[list(means).index(best)]}**"
        rows.append({"setting": part, "arm": arm, "rate: accuracy": ", ".join(cells)})
    return rows


def same_rate(runs: list[Run]) -> list[dict[str, str]]:
    """Differences with nothing chosen: at each rate, and of each seed's mean over all rates."""
    mine = [run for run in runs if run.part == FIXED]
    by_rate = {f"{rate:g}": [run for run in mine if run.learning_rate == rate]
               for rate in sorted({run.learning_rate for run in mine})}  # fmt: skip
    rows = []
    for name, some in (by_rate | {"mean of all": over_rates(mine)}).items():
        found = {arms: contrast(some, FIXED, arms) for arms in ("B-A", "E-A", "E-B", "D-A")}
        cells = {f"{arms} [95 %]": points(c) if c else "-" for arms, c in found.items()}
        seeds = found["E-B"].seeds if found["E-B"] else 0
        rows.append({"learning rate": name, "seeds": str(seeds), **cells})
    return rows if mine else []


def over_rates(runs: list[Run]) -> list[Run]:
    """One run for each arm and seed that has all rates, with its mean accuracy over them."""
    rates = {run.learning_rate for run in runs}
    together = defaultdict(list)
    for run in runs:
        together[run.arm, run.seed].append(run)
    return [
        some[0]._replace(Acc=statistics.mean(run.Acc for run in some))
        for some in together.values()
        if len(some) == len(rates)
    ]


def settings(runs: list[Run]) -> list[dict[str, str]]:
    found = {part: contrast(runs, part, "E-B") for part in PARTS if part != FIXED}
    found = {part: c for part, c in found.items() if c}
    corrected = holm([c.p for c in found.values()])
    rows = []
    for (part, gain), p in zip(found.items(), corrected, strict=True):
        row = {"setting": part, "seeds": str(gain.seeds)}
        for arm in "ABE":
            mine = scored(runs, part, arm)
            row[f"{arm}, at rate"] = (
                f"{percent(mean(run.Acc for run in mine))}, {mine[0].learning_rate:g}"
            )
        row["conflict"] = share(mean(run.conflict for run in scored(runs, part, "E")))
        row |= {"E-B [95 %]": points(gain), "p (Holm)": f"{p:.3f}"}
        rows.append(row | {"E-A [95 %]": points(contrast(runs, part, "E-A"))})
    return rows


def conflict(epochs: list[Epoch]) -> list[dict[str, str]]:
    """Of arm E, by encoder: in the first epoch, in the rest of both halves, and altogether."""
    mine = defaultdict(list)
    for row in epochs:
        if row.arm == "E" and row.part != FIXED:
            mine[row.part, row.encoder].append(row)
    rows = []
    for (part, encoder), parts in mine.items():
        half = max(row.epoch for row in parts) / 2
        cells = {
            "first epoch": [row for row in parts if row.epoch == 1],
            "first half": [row for row in parts if row.epoch <= half],
            "second half": [row for row in parts if row.epoch > half],
            "all": parts,
        }
        met = sum(row.conflicts for row in parts)
        angle = sum(row.turn * row.conflicts for row in parts) / met if met else None
        rows.append({
            "setting": part, "encoder": encoder,
            **{name: share(rate(some)) for name, some in cells.items()},
            "turned by": "-" if angle is None else f"{angle:.0f} degrees",
        })  # fmt: skip
    return rows


def rate(rows: list[Epoch]) -> float:
    return sum(row.conflicts for row in rows) / sum(row.steps for row in rows)


def scored(runs: list[Run], part: str, arm: str) -> list[Run]:
    return [run for run in runs if (run.part, run.arm, run.is_choosing) == (part, arm, False)]


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def signed(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:+.1f}"


def spread(values) -> str:
    values = list(values)
    deviation = f" \u00b1 {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{deviation}"


def points(c: Contrast) -> str:
    return f"{100 * c.mean:+.1f} [{100 * c.low:+.1f}, {100 * c.high:+.1f}]"
