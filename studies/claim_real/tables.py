"""The tables of docs/claim_real.md and docs/results/claim_real.md, in Markdown."""

import statistics
from typing import NamedTuple

from claim.contrasts import Contrast, contrast, difference, holm
from claim.rows import Epoch, Run, grouped, scored
from claim.tables import at_rate, conflict, percent, rates, same_rate, share
from mmpareto.results.table import as_text, deviation, spread
from mmpareto.run.report import mean

from .design import ARMS, LONG, MAIN, OTHERS, SAME, SETS, SETTINGS, WIDE, part_name
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


class Difference(NamedTuple):
    """A contrast that is corrected together with others."""

    family: str  # of those that it is corrected with
    part: str
    modality: str  # whose own head; "": the joint prediction
    one: Contrast
    p_holm: float

    @property
    def cell(self) -> str:
        """The points, in bold where the corrected p is below 0.05."""
        return f"**{self.one.points}**" if self.p_holm < 0.05 else self.one.points

    def flat(self) -> dict[str, str | float]:
        """Return it as a row of a CSV file."""
        row = self._asdict()
        return row | row.pop("one")._asdict()


Differences = dict[tuple[str, str, str], Difference]  # by part, modality and arms


def differences(found: Found) -> list[Difference]:
    """The differences that the protocol names, each with Holm's p over its family."""
    changed = [part_name(name, change) for name in SETS for change in SETTINGS]
    families = {
        "main": [(name, "", arms) for name in SETS for arms in MAIN],
        **{f"others, {name}": [(name, "", arms) for arms in OTHERS] for name in SETS},
        "one thing changed": [(part, "", arms) for part in changed for arms in MAIN],
        "weak": [(name, one.weak, arms) for name, one in SETS.items() for arms in MAIN],
    }
    rows = []
    for family, keys in families.items():
        known = [
            (part, modality, one)
            for part, modality, arms in keys
            if (one := head_contrast(found.own, part, modality, arms) if modality
                else contrast(found.runs, part, arms))
        ]  # fmt: skip
        ps = holm([one.p for *_, one in known])
        rows += [Difference(family, *key, p) for key, p in zip(known, ps, strict=True)]
    return rows


def head_contrast(own: list[Own], name: str, modality: str, arms: str) -> Contrast | None:
    """The difference of two arms in the accuracy of a modality's own head."""
    both = [of_arm(own, name, modality, arm) for arm in arms.split("-")]
    return difference(arms, *({row.seed: row.Acc for row in mine} for mine in both))


def tables(found: Found, compared: list[Difference]) -> dict[str, str]:
    """{heading: table}; what is not trained is left out."""
    runs = found.runs
    by_key = {(row.part, row.modality, row.one.arms): row for row in compared}
    made = {
        "E against A and B": main(runs, by_key),
        "All differences (bold: corrected p < 0.05)": others(by_key),
        "Each modality's own accuracy": own_accuracy(found.own, by_key),
        "At the same learning rate": [
            {"set": name, **row} for name in SETS for row in same_rate(runs, part_name(name, SAME))
        ],
        "One thing changed (bold: corrected p < 0.05)": settings(runs, by_key),
        "Gain and conflict": gain_and_conflict(runs),
        "Both gradients": gradients(found.gradients),
        "What a comparison needs": planning(runs, found.parted),
        "Where conflict is": conflict(found.epochs),
        **{f"{name}: all arms": arms(runs, found.own, name) for name in SETS},
        "Validation accuracy by learning rate (bold: the choice)": rates(runs),
    }
    return {heading: as_text(rows, "pipe") for heading, rows in made.items() if rows}


def main(runs: list[Run], compared: Differences) -> Rows:
    rows = []
    for name in SETS:
        row = {"set": name}
        for arm in "ABE":
            if mine := scored(runs, name, arm):
                row[f"{arm}, at rate"] = at_rate(mine)
        for arms in MAIN:
            if found := compared.get((name, "", arms)):
                row[f"{arms} [95 %]"] = found.one.points
                row[f"p (Holm), {arms}"] = f"{found.p_holm:.3f}"
                row[f"detectable, {arms}"] = percent(found.one.detectable)
        rows += [row] * (len(row) > 1)
    return rows + [pooled(compared)] * bool(rows)


def pooled(compared: Differences) -> dict[str, str]:
    """The mean over sets, with Student's interval over the sets' means."""
    row = {"set": "mean of the sets"}
    for arms in MAIN:
        means = {n: found.one.mean for n in SETS if (found := compared.get((n, "", arms)))}
        if whole := difference(arms, means, dict.fromkeys(means, 0.0)):
            row |= {f"{arms} [95 %]": whole.points, f"p (Holm), {arms}": "-"}
            row[f"detectable, {arms}"] = percent(whole.detectable)
    return row


def others(compared: Differences) -> Rows:
    """Contrasts in rows, sets in columns."""
    here = [name for name in SETS if any((name, "", arms) in compared for arms in OTHERS)]
    return [
        {"difference": arms, **{name: cell(compared, name, arms) for name in here}}
        for arms in OTHERS
        if here
    ]


def cell(compared: Differences, part: str, arms: str) -> str:
    return found.cell if (found := compared.get((part, "", arms))) else "-"


def own_accuracy(own: list[Own], compared: Differences) -> Rows:
    """Every modality's own head; p stands at the weak modalities, over which it is corrected."""
    rows = []
    for name, modality in grouped(own, "set", "modality"):
        is_weak = modality == SETS[name].weak
        row = {"set": name, "modality": modality + " (weak)" * is_weak}
        for arm in "UAE":
            row[arm] = percent(mean(r.Acc for r in of_arm(own, name, modality, arm)))
        for arms in MAIN:
            one = head_contrast(own, name, modality, arms)
            row[f"{arms} [95 %]"] = one.points if one else "-"
            found = compared.get((name, modality, arms))
            row[f"p (Holm), {arms}"] = f"{found.p_holm:.3f}" if found else "-"
        rows.append(row)
    return rows


def of_arm(own: list[Own], name: str, modality: str, arm: str) -> list[Own]:
    return [row for row in own if (row.set, row.modality, row.arm) == (name, modality, arm)]


def settings(runs: list[Run], compared: Differences) -> Rows:
    """E-A and E-B with one thing changed."""
    rows = []
    for name in SETS:
        for changed in SETTINGS:
            part = part_name(name, changed)
            if not all((part, "", arms) in compared for arms in MAIN):
                continue
            row = {"set": name, "setting": changed}
            for arm in "ABE":
                row[f"{arm}, at rate"] = at_rate(scored(runs, part, arm))
            row["conflict"] = share(mean(run.conflict for run in scored(runs, part, "E")))
            rows.append(row | {f"{arms} [95 %]": cell(compared, part, arms) for arms in MAIN})
    return rows


def gain_and_conflict(runs: list[Run]) -> Rows:
    """Spearman's rank correlation of conflict and gain, over sets and settings.

    Longer and wider training is left out: its sets are chosen by their gains. There is no p, since
    the settings of one set are not independent.
    """
    from scipy.stats import spearmanr

    parts = [part_name(n, c) for n in SETS for c in ("", *SETTINGS) if c not in (LONG, WIDE)]
    rows = []
    for arms in MAIN:
        pairs = [
            (mean(run.conflict for run in scored(runs, part, "E")), one.mean)
            for part in parts
            if (one := contrast(runs, part, arms))
        ]
        columns = [*zip(*pairs, strict=True)]
        if len(pairs) > 3 and all(len({*column}) > 1 for column in columns):
            rows.append({
                "gain": arms, "sets and settings": str(len(pairs)),
                "rank correlation with conflict": f"{spearmanr(*columns).statistic:+.2f}",
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
            row[modality] = percent(mean(r.Acc for r in of_arm(own, name, modality, arm)))
        rows.append(row | {"conflict": share(mean(run.conflict for run in mine))})
    return rows
