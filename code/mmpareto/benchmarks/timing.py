"""Times of jobs in turns, and their ratios."""

import statistics
import time
from collections.abc import Callable

import torch
from tqdm import tqdm


def now() -> float:
    """The time in seconds, once a GPU has done all its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def compare(
    jobs: dict[str, Callable[[], object]], repeats: int, steps: int = 1
) -> dict[str, list[float]]:
    """Seconds of a step of every job; jobs take turns, so that a slow moment meets all of them.

    A first round warms up; repeats rounds are measured, of so many steps each.
    """
    seconds = {name: [] for name in jobs}
    for number in tqdm(range(repeats + 1), "measure", leave=False, disable=None):
        for name, job in jobs.items():
            began = now()
            for _ in range(steps):
                job()
            if number:
                seconds[name].append((now() - began) / steps)
    return seconds


def show_ratio(seconds: dict[str, list[float]], slow: str, fast: str) -> None:
    """Print slow / fast of every round, and the median."""
    ratios = [a / b for a, b in zip(seconds[slow], seconds[fast], strict=True)]
    listed = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    print(f"ratio {slow} / {fast}: median {statistics.median(ratios):.2f} ({listed})")
