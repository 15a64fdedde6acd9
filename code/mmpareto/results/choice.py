"""Which setting of --tune every method gets: validation chooses, and what follows of it."""

import statistics

from ..system.errors import UserError
from .plans import Comparison, Plan, label


def of_rule(rows: list[dict], select: str) -> list[dict]:
    """The rows of the epoch that --select names; of the last one where no other was chosen."""
    return [row for row in rows if row["rule"] == select] or [
        row for row in rows if row["rule"] == "last"
    ]


def complete(rows: list[dict], settings: list[dict], seeds: list[int]) -> list[dict]:
    """The settings of which one method's rows hold every seed."""
    return [setting for setting in settings if len(_having(rows, setting)) == len(seeds)]


def choose(rows: list[dict], settings: list[dict]) -> dict[str, str]:
    """The setting with the highest mean validation accuracy, the first of equals."""
    if any(row["val_Acc"] is None for row in rows):
        raise UserError(
            f"--tune: {label(rows[0]['method'], settings[0])} was scored on the test split only, "
            "and validation has to choose: give a --split with a validation part, or drop --tune"
        )
    return max(
        settings,
        key=lambda setting: statistics.mean(row["val_Acc"] for row in _having(rows, setting)),
    )


def _having(rows: list[dict], setting: dict) -> list[dict]:
    return [row for row in rows if setting.items() <= row.items()]


def first_plans(comparison: Comparison) -> list[Plan]:
    """Those that do not depend on which setting is chosen: all without --tune_seeds."""
    return [plan for plan in comparison.plans if plan.seed in comparison.tune_seeds]


def plans_of_choice(comparison: Comparison) -> list[Plan]:
    """Those of the settings that --tune_seeds have chosen, with the table's seeds."""
    if comparison.seeds == comparison.tune_seeds:
        return []
    rows = [row for plan in first_plans(comparison) for row in plan.rows()]
    chosen = choices(comparison, of_rule(rows, comparison.select))
    others = [plan for plan in comparison.plans if plan.seed in comparison.seeds]
    return [plan for plan in others if chosen.get(plan.name) == plan.setting]


def asked_plans(comparison: Comparison) -> list[Plan]:
    """Those that are asked for, as far as choices are known."""
    return [*first_plans(comparison), *plans_of_choice(comparison)]


def choices(comparison: Comparison, rows: list[dict]) -> dict[str, dict[str, str]]:
    """{method: the setting chosen among those that have all their runs}; others are left out."""
    chosen = {}
    for name in comparison.names:
        mine = _choosing(comparison, name, rows)
        if whole := complete(mine, comparison.settings, comparison.tune_seeds):
            mine = [row for setting in whole for row in _having(mine, setting)]
            chosen[name] = choose(mine, whole)
    return chosen


def _choosing(comparison: Comparison, name: str, rows: list[dict]) -> list[dict]:
    """One method's rows of the seeds that choose."""
    seeds = comparison.tune_seeds
    return [row for row in rows if row["method"] == name and row["seed"] in seeds]


def pick_settings(comparison: Comparison, rows: list[dict]) -> tuple[list[dict], list[str]]:
    """The table's rows of every method's choice, and what the reader has to know of the choice."""
    kept, notes = [], []
    seeds, total = comparison.tune_seeds, len(comparison.settings)
    chosen = choices(comparison, rows)
    for name in comparison.names:
        whole = complete(_choosing(comparison, name, rows), comparison.settings, seeds)
        if len(whole) < total:
            notes.append(
                f"{name}: only {len(whole)} of {total} settings have all their runs finished"
                + (", the choice is among them" if whole else ": not in the table")
            )
        if whole:
            mine = [row for row in rows if row["method"] == name]
            mine = [row for row in mine if row["seed"] in comparison.seeds]
            kept += _having(mine, chosen[name])
    flags = ", ".join(comparison.settings[0])
    which = "seeds"
    if seeds != comparison.seeds:
        which = f"seeds {', '.join(map(str, seeds))}, none of them in the table"
    notes.append(
        f"{flags}: chosen by the mean validation accuracy over {which}, never by the test split; "
        f"{total * len(seeds)} runs for each method ({total} settings x {len(seeds)} seeds)"
    )
    return kept, notes
