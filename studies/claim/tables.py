"""The tables of docs/claim.md and docs/claim_protocol.md, in Markdown."""

import statistics
from collections.abc import Iterable

from mmpareto.results.table import as_text, deviation, spread
from mmpareto.run.report import mean

from .contrasts import contrast, holm
from .design import ARMS, CONTRASTS, FIXED, MAIN, PARTS
from .rows import Epoch, Run, grouped, scored


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
            scores = [run.Acc for run in mine]
            accuracy = spread(statistics.mean(scores), deviation(scores))
            rows.append({
                "arm": arm, "learning rate": f"{mine[0].learning_rate:g}",
                "seeds": str(len(mine)), "Acc": accuracy.replace("+-", "\u00b1"),
                "conflict": share(mean(run.conflict for run in mine)),
            })  # fmt: skip
    return rows


def differences(runs: list[Run]) -> list[dict[str, str]]:
    found = [c for arms in CONTRASTS if (c := contrast(runs, MAIN, arms))]
    corrected = holm([c.p for c in found])
    return [
        {"difference": c.arms, "points [95 %]": c.points, "p": f"{c.p:.3f}",
         "p (Holm)": f"{p:.3f}", "detectable": f"{100 * c.detectable:.1f}"}
        for c, p in zip(found, corrected, strict=True)
    ]  # fmt: skip


def rates(runs: list[Run]) -> list[dict[str, str]]:
    """Validation accuracy in every part, over the seeds that choose; the choice in bold."""
    rows = []
    choosing = [run for run in runs if run.is_choosing]
    for (part, arm), mine in grouped(choosing, "part", "arm").items():
        tried = sorted(grouped(mine, "learning_rate").items())
        means = {rate: statistics.mean(run.val_Acc for run in some) for rate, some in tried}
        cells = {rate: f"{rate:g}: {percent(value)}" for rate, value in means.items()}
        if done := scored(runs, part, arm):
            chosen = done[0].learning_rate
            cells[chosen] = f"**{cells[chosen]}**"
        rows.append({"setting": part, "arm": arm, "rate: accuracy": ", ".join(cells.values())})
    return rows


def same_rate(runs: list[Run], part: str = FIXED) -> list[dict[str, str]]:
    """Differences at each rate, and differences of each seed's mean over all rates."""
    mine = [run for run in runs if run.part == part]
    tried = sorted(grouped(mine, "learning_rate").items())
    rows = []
    for name, some in [*((f"{rate:g}", r) for rate, r in tried), ("mean of all", over_rates(mine))]:
        found = {arms: contrast(some, part, arms) for arms in ("B-A", "E-A", "E-B", "D-A")}
        cells = {f"{arms} [95 %]": c.points if c else "-" for arms, c in found.items()}
        seeds = found["E-B"].seeds if found["E-B"] else 0
        rows.append({"learning rate": name, "seeds": str(seeds), **cells})
    return rows if mine else []


def over_rates(runs: list[Run]) -> list[Run]:
    """One run for each arm and seed that has all rates, with its mean accuracy over them."""
    rates = {run.learning_rate for run in runs}
    return [
        some[0]._replace(Acc=statistics.mean(run.Acc for run in some))
        for some in grouped(runs, "arm", "seed").values()
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
            row[f"{arm}, at rate"] = at_rate(scored(runs, part, arm))
        row["conflict"] = share(mean(run.conflict for run in scored(runs, part, "E")))
        row |= {"E-B [95 %]": gain.points, "p (Holm)": f"{p:.3f}"}
        rows.append(row | {"E-A [95 %]": contrast(runs, part, "E-A").points})
    return rows


def conflict(epochs: list[Epoch]) -> list[dict[str, str]]:
    """Conflict of arm E by encoder: in the first epoch, in both halves, and altogether."""
    mine = [row for row in epochs if row.arm == "E" and row.part != FIXED]
    rows = []
    for (part, encoder), all_epochs in grouped(mine, "part", "encoder").items():
        half = max(row.epoch for row in all_epochs) / 2
        met = sum(row.conflicts for row in all_epochs)
        angle = sum(row.turn * row.conflicts for row in all_epochs) / met if met else None
        rows.append({
            "setting": part, "encoder": encoder,
            "first epoch": rate(row for row in all_epochs if row.epoch == 1),
            "first half": rate(row for row in all_epochs if row.epoch <= half),
            "second half": rate(row for row in all_epochs if row.epoch > half),
            "all": rate(all_epochs),
            "turned by": "-" if angle is None else f"{angle:.0f} degrees",
        })  # fmt: skip
    return rows


def rate(epochs: Iterable[Epoch]) -> str:
    rows = list(epochs)
    steps = sum(row.steps for row in rows)
    return share(sum(row.conflicts for row in rows) / steps if steps else None)


def at_rate(runs: list[Run]) -> str:
    """The mean accuracy of one arm's runs, and their learning rate."""
    return f"{percent(statistics.mean(run.Acc for run in runs))}, {runs[0].learning_rate:g}"


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
