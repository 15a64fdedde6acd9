"""Times of jobs in turns, and their ratios."""

import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from tqdm import tqdm

NOISY = 0.1  # of the median: a larger distance between the quartiles is said
ENOUGH = 5  # rounds


def now() -> float:
    """The time in seconds, once a GPU has done all its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def compare(
    jobs: dict[str, Callable[[], object]], seconds: float, steps: int = 1
) -> dict[str, list[float]]:
    """Return the seconds of a step of every job, one number for each round.

    In a round each job takes so many steps; jobs take turns, so that a slow moment meets all of
    them. A first round warms up; then at least one round follows, and more until seconds are over.
    """
    found: dict[str, list[float]] = {name: [] for name in jobs}

    def take_round() -> None:
        for name, job in jobs.items():
            began = now()
            for _ in range(steps):
                job()
            found[name].append((now() - began) / steps)

    take_round()
    for warm in found.values():
        warm.clear()
    end = now() + seconds
    with tqdm(desc="measure", unit="round", leave=False, disable=None) as bar:
        while not all(found.values()) or now() < end:
            take_round()
            bar.update()
    return found


def host_waits(job: Callable[[], object], times: int) -> float:
    """Return how often the host waits for the GPU in one run of the job, as far as torch knows."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            for _ in range(times):
                job()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing CUDA operation" in str(w.message) for w in caught) / times


def show_ratio(seconds: dict[str, list[float]], slow: str, fast: str) -> None:
    """Print slow / fast, round by round: median and quartiles."""
    ratios = [a / b for a, b in zip(seconds[slow], seconds[fast], strict=True)]
    low, middle, high = np.quantile(ratios, (0.25, 0.5, 0.75))
    told = f"median {middle:.2f}, quartiles {low:.2f} and {high:.2f}, {len(ratios)} rounds"
    if high - low > NOISY * middle:
        told += f": too noisy for differences below {(high - low) / middle:.0%}"
    elif len(ratios) < ENOUGH:
        told += ": too few to see the noise, measure longer"
    print(f"ratio {slow} / {fast}: {told}")
