"""Shapley values (Shapley 1953): what each player adds to a game, fairly shared."""

from collections.abc import Iterable
from functools import reduce
from itertools import combinations
from math import factorial
from operator import add
from typing import Any

Coalition = frozenset[str]


def coalitions(names: Iterable[str]) -> list[Coalition]:
    """Return the coalitions of one player or more, small ones first, all players last."""
    names = list(names)
    sizes = range(1, len(names) + 1)
    return [frozenset(some) for size in sizes for some in combinations(names, size)]


def shapley(names: Iterable[str], v: dict[Coalition, Any]) -> dict[str, Any]:
    """Return each player's value; the values add up to v(all) - v(nobody).

    phi_k = sum over S without k of |S|! (N - |S| - 1)! / N! (v(S + k) - v(S)): the mean, over all
    orders in which the N players may join, of what k adds on joining. v holds a number
    or tensor for every coalition, the empty one, too.
    """
    names = list(names)
    number = len(names)
    weights = [factorial(n) * factorial(number - n - 1) / factorial(number) for n in range(number)]
    return {
        name: reduce(add, (weights[len(s)] * (v[s | {name}] - v[s]) for s in v if name not in s))
        for name in names
    }
