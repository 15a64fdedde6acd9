"""The tables of docs/claim_real.md and docs/results/claim_real.md, in Markdown."""

import statistics
from typing import NamedTuple

from claim.contrasts import Contrast, contrast, difference, holm
from claim.rows import Epoch, Run, grouped, scored
from claim.tables import at_rate, conflict, percent, rates, same_rate, share
from mmpareto.results.table import as_text, deviation, spread
from mmpareto.run.report import mean

from .design import ARMS, MAIN, OTHERS, SAME, SETS, SETTINGS, part_name
from .looks import Gradient, Parted
from .planning import samples_needed, seeds_needed

GAINS = (1, 2, 3, 5)  # points
Rows = list[dict[str, str]]


class Own(NamedTuple):
    """Test accuracy of one modality's own head, at the epoch that validation chose."""

    set: str
    arm: str
    modality: str
    seed: int
    Acc: float


class Found(NamedTuple):
    """Everything that was trained and looked at."""

    runs: list[Run]
    epochs: list[Epoch]
    own: list[Own]
    gradients: list[Gradient]
    parted: list[Parted]


def tables(found: Found) -> dict[str, str]:
    """{heading: table}; what is not trained is left out."""
    runs = found.runs
    made = {
        "E against A and B": main(runs),
        "All differences": others(runs),
        "Each modality's own accuracy": own_accuracy(found.own),
        "At the same learning rate": [
            {"set": name, **row} for name in SETS for row in same_rate(runs, part_name(name, SAME))
        ],
        "One thing changed": settings(runs),
        "Gain and conflict": gain_and_conflict(runs),
        "Both gradients": gradients(found.gradients),
        "What a comparison needs": planning(runs, found.parted),
        "Where conflict is": conflict([row for row in found.epochs if row.part in SETS]),
        **{f"{name}: all arms": arms(runs, found.own, name) for name in SETS},
        "Validation accuracy by learning rate": rates(runs),
    }
    return {heading: as_text(rows, "pipe") for heading, rows in made.items() if rows}


def corrected(found: dict[tuple, Contrast | None]) -> dict[tuple, tuple[Contrast, float]]:
    """{key: contrast, p by Holm over all of them}."""
    known = {key: one for key, one in found.items() if one}
    ps = holm([one.p for one in known.values()])
    return {key: (one, p) for (key, one), p in zip(known.items(), ps, strict=True)}


def cell(one: tuple[Contrast, float] | None) -> str:
    """The points of a contrast, in bold where the corrected p is below 0.05."""
    if one is None:
        return "-"
    return f"**{one[0].points}**" if one[1] < 0.05 else one[0].points


def main(runs: list[Run]) -> Rows:
    family = {(name, arms): contrast(runs, name, arms) for name in SETS for arms in MAIN}
    found, rows = corrected(family), []
    for name in SETS:
        row = {"set": name}
        for arm in "ABE":
            if mine := scored(runs, name, arm):
                row[f"{arm}, at rate"] = at_rate(mine)
        for arms in MAIN:
            if (name, arms) in found:
                one, p = found[name, arms]
                row |= {f"{arms} [95 %]": one.points, f"p (Holm), {arms}": f"{p:.3f}"}
                row[f"detectable, {arms}"] = f"{100 * one.detectable:.1f}"
        rows += [row] * (len(row) > 1)
    return rows + [pooled(found)] * bool(rows)


def pooled(found: dict[tuple, tuple[Contrast, float]]) -> dict[str, str]:
    """The mean over sets, with Student's interval over the sets' means."""
    row = {"set": "mean of the sets"}
    for arms in MAIN:
        means = {key[0]: one.mean for key, (one, _) in found.items() if key[1] == arms}
        if whole := difference(arms, means, dict.fromkeys(means, 0.0)):
            row |= {f"{arms} [95 %]": whole.points, f"p (Holm), {arms}": "-"}
            row[f"detectable, {arms}"] = f"{100 * whole.detectable:.1f}"
    return row


def others(runs: list[Run]) -> Rows:
    """Contrasts in rows, sets in columns; p is corrected within each set."""
    found = {}
    for name in SETS:
        found |= corrected({(name, arms): contrast(runs, name, arms) for arms in OTHERS})
    here = [name for name in SETS if any(key[0] == name for key in found)]
    return [
        {"difference": arms, **{name: cell(found.get((name, arms))) for name in here}}
        for arms in OTHERS
        if here
    ]


def own_accuracy(own: list[Own]) -> Rows:
    """Every modality's own head; differences are corrected over the weak modalities alone."""

    def difference_of(key: tuple[str, str], arms: str) -> Contrast | None:
        both = [of_arm(own, *key, arm) for arm in arms.split("-")]
        return difference(arms, *({row.seed: row.Acc for row in mine} for mine in both))

    keys = list(grouped(own, "set", "modality"))
    weak = [(name, s.weak) for name, s in SETS.items()]
    ps = {arms: corrected({k: difference_of(k, arms) for k in weak}) for arms in MAIN}
    rows = []
    for key in keys:
        row = {"set": key[0], "modality": key[1] + " (weak)" * (key in weak)}
        for arm in "UAE":
            row[arm] = percent(mean(r.Acc for r in of_arm(own, *key, arm)) or 0.0)
        for arms in MAIN:
            one = difference_of(key, arms)
            row[f"{arms} [95 %]"] = one.points if one else "-"
            row[f"p (Holm), {arms}"] = f"{ps[arms][key][1]:.3f}" if key in ps[arms] else "-"
        rows.append(row)
    return rows


def of_arm(own: list[Own], name: str, modality: str, arm: str) -> list[Own]:
    return [row for row in own if (row.set, row.modality, row.arm) == (name, modality, arm)]


def settings(runs: list[Run]) -> Rows:
    """E-A and E-B with one thing changed; each is corrected over all sets and settings."""
    keys = [(name, changed) for name in SETS for changed in SETTINGS]
    found = {
        arms: corrected({key: contrast(runs, part_name(*key), arms) for key in keys})
        for arms in MAIN
    }
    rows = []
    for name, changed in keys:
        part = part_name(name, changed)
        if not all((name, changed) in found[arms] for arms in MAIN):
            continue
        row = {"set": name, "setting": changed}
        for arm in "ABE":
            row[f"{arm}, at rate"] = at_rate(scored(runs, part, arm))
        row["conflict"] = share(mean(run.conflict for run in scored(runs, part, "E")))
        row |= {f"{arms} [95 %]": cell(found[arms][name, changed]) for arms in MAIN}
        rows.append(row)
    return rows


def gain_and_conflict(runs: list[Run]) -> Rows:
    """Spearman's rank correlation, over sets and settings, of conflict and gain."""
    from scipy.stats import spearmanr

    rows = []
    for arms in MAIN:
        pairs = [
            (mean(run.conflict for run in scored(runs, part, "E")), one.mean)
            for part in dict.fromkeys(run.part for run in runs)
            if not part.endswith(SAME) and (one := contrast(runs, part, arms))
        ]
        if len(pairs) > 3:
            found = spearmanr(*zip(*pairs, strict=True))
            rows.append({
                "gain": arms, "sets and settings": str(len(pairs)),
                "rank correlation with conflict": f"{found.statistic:+.2f}",
                "p": f"{found.pvalue:.3f}",
            })  # fmt: skip
    return rows


def gradients(rows: list[Gradient]) -> Rows:
    """Joint over unimodal: magnitude and covariance, means over seeds."""
    found = []
    for (name, encoder, epoch), some in grouped(rows, "set", "encoder", "epoch").items():
        of_loss = grouped(some, "loss")
        row = {"set": name, "encoder": encoder, "epoch": str(epoch)}
        for column, heading in (("magnitude", "magnitude"), ("trace", "trace of covariance")):
            both = [[getattr(r, column) for r in of_loss[loss]] for loss in ("joint", "unimodal")]
            smaller = sum(j < g for j, g in zip(*both, strict=True))
            row[heading] = " / ".join(f"{statistics.mean(values):.2g}" for values in both)
            row[f"joint smaller, {column}"] = f"{smaller} of {len(both[0])}"
        found.append(row)
    return found


def planning(runs: list[Run], parted: list[Parted]) -> Rows:
    """Seeds and test samples that gains of E over A need."""
    rows = []
    for name in SETS:
        one, other = ({r.seed: r.Acc for r in scored(runs, name, arm)} for arm in "EA")
        gaps = [one[seed] - other[seed] for seed in one.keys() & other.keys()]
        mine = [row for row in parted if row.set == name]
        if len(gaps) < 3 or not mine:
            continue
        spread_of = statistics.stdev(gaps)
        split = sum(r.first + r.second for r in mine) / sum(r.samples for r in mine)
        row = {"set": name, "test samples": str(mine[0].samples)}
        row["spread of E-A"] = f"{100 * spread_of:.1f}"
        row |= {f"seeds, {g} points": str(seeds_needed(g / 100, spread_of)) for g in GAINS}
        row["parted"] = share(split)
        row |= {f"samples, {g} points": str(samples_needed(g / 100, split)) for g in GAINS}
        rows.append(row)
    return rows


def arms(runs: list[Run], own: list[Own], name: str) -> Rows:
    """Test accuracy of every arm and of its modalities' heads."""
    rows = []
    for arm, method in ARMS.items():
        if not (mine := scored(runs, name, arm)):
            continue
        scores = [run.Acc for run in mine]
        accuracy = spread(statistics.mean(scores), deviation(scores))
        row = {"arm": f"{arm} `{method}`", "learning rate": f"{mine[0].learning_rate:g}"}
        row |= {"seeds": str(len(mine)), "Acc": accuracy.replace("+-", "\u00b1")}
        for modality in dict.fromkeys(r.modality for r in own if r.set == name):
            row[modality] = percent(mean(r.Acc for r in of_arm(own, name, modality, arm)) or 0.0)
        rows.append(row | {"conflict": share(mean(run.conflict for run in mine))})
    return rows
