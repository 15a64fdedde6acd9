"""Notes under a table: what its intervals mean, and which epochs its scores come from."""

from .plans import Comparison
from .table import FEWEST, Difference, accuracies, paired_difference, points, samples_of


def about_interval(comparison: Comparison, rows: list[dict]) -> str:
    samples = samples_of(rows)
    over = "Student's t over seeds"
    if comparison.folds:
        over = "corrected t (Nadeau and Bengio) over folds, each the mean of its seeds"
    least = f"; no narrower than {100 / samples:.2g}, one of {samples} samples" if samples else ""
    return f"[95% CI]: points, {over}, from {FEWEST} {comparison.units} on{least}"


def about_epochs(comparison: Comparison, chosen: list[dict], rows: list[dict]) -> list[str]:
    """Say which epochs were chosen, and of which methods the last epoch scores clearly otherwise.

    rows also holds the rows of the last epochs.
    """

    def run_of(row: dict) -> tuple:
        return row["method"], comparison.run_of(row), *comparison.setting_of(row).values()

    epochs, notes, samples = [], [], samples_of(chosen)
    last = {run_of(row): row for row in rows if row["rule"] == "last"}
    for name, mine in comparison.by_method(chosen).items():
        epochs.append(f"{name} {', '.join(str(row['epoch']) for row in mine)}")
        far = []
        for score in dict.fromkeys([*accuracies(mine[0]), comparison.measure]):
            ends = {comparison.run_of(row): last[run_of(row)][score] for row in mine}
            chosen_at = {comparison.run_of(row): row[score] for row in mine}
            found = paired_difference(ends, chosen_at, samples, comparison.folds)
            if found and is_clear(found, samples):
                far.append(f"{score} {points(*found[1:])}")
        if far:
            notes.append(
                f"{name}: the last epoch scores clearly otherwise ({'; '.join(far)} points): the "
                "same command with --select last makes the table of last epochs"
            )
    each = "run by run" if comparison.folds else "seed by seed"
    return [f"Epochs by {chosen[0]['rule']}, {each}: {'; '.join(epochs)}", *notes]


def is_clear(found: Difference, samples: int | None) -> bool:
    """Whether zero is outside the interval.

    With too few seeds for one, the margin is 1 / sqrt(samples): two standard errors of an accuracy
    of 0.5.
    """
    if found.low is None or found.high is None:
        return samples is not None and found.mean**2 * samples > 1
    return found.low > 0 or found.high < 0
