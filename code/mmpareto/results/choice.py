"""The choice of a --tune setting for each method by validation, and the runs that follow."""

import statistics
from itertools import product
from math import inf

from ..system.errors import UserError
from .notes import about_epochs, about_interval
from .plans import Comparison, Plan, label


def of_rule(rows: list[dict], rule: str) -> list[dict]:
    """Return the rows of the epoch that a rule chose; else those of the last epoch."""
    return [row for row in rows if row["rule"] == rule] or [
        row for row in rows if row["rule"] == "last"
    ]


def ranked(comparison: Comparison, rows: list[dict]) -> dict[tuple[str, str], list[dict[str, str]]]:
    """Return {(method, fold): settings with all tuning runs}, best first, equals in given order.

    The best has the highest mean validation score, accuracy or F1 as --select_by says; of equals,
    it has the lowest mean loss.
    """
    score = f"val_{comparison.measure}"
    choosing = [row for row in rows if row["seed"] in comparison.tune_seeds]
    found = {}
    for (name, fold), mine in _by_fold(comparison, choosing).items():
        tried = [
            (setting, [row for row in mine if comparison.setting_of(row) == setting])
            for setting in comparison.settings
        ]
        whole = [(s, runs) for s, runs in tried if len(runs) == len(comparison.tune_seeds)]
        if any(run[score] is None for _, runs in whole for run in runs):
            raise UserError(
                f"--tune: {label(name, whole[0][0])} was scored on the test split only, but "
                "--tune chooses by validation: give a --split with a validation part, or drop "
                "--tune"
            )
        whole.sort(key=lambda pair: _merit(pair[1], score), reverse=True)
        found[name, fold] = [setting for setting, _ in whole]
    return found


def _by_fold(comparison: Comparison, rows: list[dict]) -> dict[tuple[str, str], list[dict]]:
    """Return {(method, fold): its rows}; without folds, all folds are ""."""
    return {
        (name, fold): [row for row in mine if row.get("fold", "") == fold]
        for name, mine in comparison.by_method(rows).items()
        for fold in comparison.splits
    }


def _merit(runs: list[dict], score: str) -> tuple[float, float]:
    """What a setting is ranked by; runs of early versions have no loss, and come last of equals."""
    losses = [run.get("val_loss") for run in runs]
    loss = inf if None in losses else statistics.fmean(losses)
    # rounding separates equal means of other summands
    return round(statistics.fmean(run[score] for run in runs), 9), -loss


def first_plans(comparison: Comparison) -> list[Plan]:
    """Return the plans that need no choice; without --tune_seeds these are all plans."""
    return [plan for plan in comparison.plans if plan.seed in comparison.tune_seeds]


def _ranked_plans(comparison: Comparison) -> dict[tuple[str, str], list[dict[str, str]]]:
    """Return what `ranked` says of the runs that have been found."""
    rows = [row for plan in first_plans(comparison) for row in plan.rows]
    return ranked(comparison, of_rule(rows, comparison.rule))


def plans_of_choice(comparison: Comparison) -> list[Plan]:
    """Return the plans of the settings chosen by --tune_seeds, with the table's seeds."""
    if comparison.seeds == comparison.tune_seeds:
        return []
    chosen = _ranked_plans(comparison)
    others = [plan for plan in comparison.plans if plan.seed in comparison.seeds]
    return [plan for plan in others if plan.setting in chosen.get((plan.name, plan.fold), [])[:1]]


def failures(comparison: Comparison) -> dict[str, str]:
    """Return {run: reason} of diverged runs, but of those that choose: these settings have lost.

    Where no setting is left to choose, those that choose have failed, too.
    """
    diverged = {plan: plan.divergence for plan in asked_plans(comparison) if plan.divergence}
    if diverged and comparison.settings[0]:
        chosen, first = _ranked_plans(comparison), first_plans(comparison)
        waiting = {(plan.name, plan.fold) for plan in first if not plan.is_over}
        for plan in first:
            if (place := (plan.name, plan.fold)) in waiting or chosen.get(place):
                diverged.pop(plan, None)
    return {plan.label: reason for plan, reason in diverged.items()}


def asked_plans(comparison: Comparison) -> list[Plan]:
    """All plans that are asked for, as far as choices are known."""
    return [*first_plans(comparison), *plans_of_choice(comparison)]


def table_rows(comparison: Comparison, rows: list[dict]) -> tuple[list[dict], list[str]]:
    """The rows of the chosen epoch and of each method's chosen setting, and notes on them."""
    chosen, notes = of_rule(rows, comparison.rule), []
    if comparison.settings[0]:
        chosen, notes = _of_settings(comparison, chosen)
    if chosen and comparison.baseline:
        notes.append(about_interval(comparison, chosen))
    if chosen and chosen[0]["rule"] != "last":
        notes += about_epochs(comparison, chosen, rows)
    return chosen, notes


def _lost(comparison: Comparison, name: str, fold: str) -> str:
    """Say how many of a method's settings have a run that diverged."""
    mine = [p for p in first_plans(comparison) if (p.name, p.fold) == (name, fold)]
    count = len({tuple(p.setting.items()) for p in mine if p.divergence})
    return f" ({count} diverged)" if count else ""


def _of_settings(comparison: Comparison, rows: list[dict]) -> tuple[list[dict], list[str]]:
    kept, notes = [], []
    seeds, total = comparison.tune_seeds, len(comparison.settings)
    found = ranked(comparison, rows)
    scored = _by_fold(comparison, [row for row in rows if row["seed"] in comparison.seeds])
    for name, fold in product(comparison.names, comparison.splits):
        whole = found.get((name, fold), [])
        if len(whole) < total:
            notes.append(
                f"{name}{fold and f', {fold}'}: only {len(whole)} of {total} settings have all "
                f"their runs finished{_lost(comparison, name, fold)}"
                + (", the choice is among them" if whole else ": not in the table")
            )
        if whole:
            mine = scored.get((name, fold), [])
            kept += [row for row in mine if comparison.setting_of(row) == whole[0]]
    flags, which = ", ".join(comparison.settings[0]), "seeds"
    if seeds != comparison.seeds:
        which = f"seeds {', '.join(map(str, seeds))}, none of them in the table"
    own, parts = ("in each fold ", f" x {comparison.folds} folds") if comparison.folds else ("", "")
    notes.append(
        f"{flags}: chosen {own}by the mean validation {comparison.select_by} over {which} (of "
        "equals, by the lower loss), never by the test split; "
        f"{total * len(seeds) * len(comparison.splits)} runs for each method "
        f"({total} settings x {len(seeds)} seeds{parts})"
    )
    return kept, notes
