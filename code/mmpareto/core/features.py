"""Gradients at the encoders' outputs z: they give the weights, or show where none are needed.

Let J be the Jacobian of an encoder's z in its parameters, a and b both losses' gradients in z, so
that j = J'a and g = J'b. The heads alone give a and b, over the whole batch.

"features" takes the weights from a and b. The encoder gets J'h with h = w_1 a + w_2 b, that is
w_1 j + w_2 g, in one traversal: a plain backward pass's cost. Needs a rule that maps a Gramian, as
those of `mmpareto.core.integrate` do. Where cos(a, b) > 0, which is nearly always, MMPareto is then
gamma times the uniform sum. At a Pareto stationary z it stops, and if J has full row rank the
parameters are stationary there, too, and nowhere else (Sener and Koltun 2018, theorem 1, for the
shortest h). If z moved along -h itself, neither loss would rise, and ||h|| is what the rule says.
But parameters move z along -JJ'h, and <a, JJ'h> can be negative, for JJ' is no multiple of the
identity. So a loss can rise along the encoder's step, and the length of J'h is no longer
gamma ||j + g||.

"adaptive" keeps the method itself where an encoder may be in conflict: it takes j and g, and the
rule decides. Where a `Forecast` from cos(a, b) excludes conflict, one traversal takes a + b back to
the parameters, times plain, as the rule would. The host waits for a GPU once in a step: it reads
this step's cosines, and with them those that the last step found and the forecast is to learn.
"""

from collections.abc import Callable, Mapping
from math import isfinite

import torch
from torch import Tensor, nn

from . import distributed, integrate
from .forecast import Forecast
from .integrate import Stats, Tensors

Sides = dict[str, tuple[Tensors, Tensors]]  # {encoder: ([a], [b])}


class AtFeatures:
    """What an `Integrator` does with a and b: "features", or "adaptive", which has forecasts."""

    def __init__(
        self, gramian: str, encoders: Mapping[str, nn.Module], rules: Mapping[str, Callable],
        late: bool, plain: float | None,
    ):  # fmt: skip
        if not late and len(encoders) > 1:
            raise ValueError(
                f"gramian={gramian!r} needs modalities that meet only after the encoders "
                "(late=True): use gramian='parameters'"
            )
        if gramian == "adaptive" and plain is None:
            raise ValueError(
                "gramian='adaptive' needs plain, the rule's factor on j + g without conflict: give "
                "it, or use gramian='parameters'"
            )
        self.rules, self.plain = rules, plain or 1.0
        self.forecasts: dict[str, Forecast] = {}
        if gramian == "adaptive":
            for name, encoder in encoders.items():
                device = next((p.device for p in encoder.parameters()), "cpu")
                self.forecasts[name] = Forecast(device)
        self.taken: dict[str, Tensor] = {}  # {encoder that takes both: its features' cosine}
        self._stats: dict[str, Stats] = {}  # with "features"

    def decide(self, sides: Sides) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return, for each encoder, what its first traversal takes back, and its second if any."""
        if not sides:  # all encoders are frozen
            self.taken, self._stats = {}, {}
            return {}, {}
        # The Gramian of the whole batch: its mean loss is the sum of the processes' / size.
        grams = torch.stack(
            [integrate.gramian(a, b).sum(1, keepdim=True) for a, b in sides.values()]
        )
        grams = distributed.total(grams) / distributed.size() ** 2
        if not self.forecasts:
            decided = {
                name: self.rules[name](*pair, gram=gram)
                for (name, pair), gram in zip(sides.items(), grams, strict=True)
            }
            self._stats = {name: stats for name, (_, stats) in decided.items()}
            return {name: h for name, ((h,), _) in decided.items()}, {}
        jj, jg, gg = grams.squeeze(2).T
        cosines = jg / (jj * gg).sqrt()
        pairs = torch.stack([self.forecasts[name].pair for name in sides]).to(cosines)
        self.taken = {}
        read = torch.column_stack([cosines, pairs]).tolist()  # sync
        for name, found, (cos, *pair) in zip(sides, cosines, read, strict=True):
            forecast = self.forecasts[name]
            if isfinite(pair[1]):
                forecast.learn(*pair)
                forecast.pair.fill_(torch.nan)
            if forecast.may_conflict(cos):
                self.taken[name] = found
        along = {
            name: a if name in self.taken else (a + b).mul_(self.plain)
            for name, ((a,), (b,)) in sides.items()
        }
        return along, {name: sides[name][1][0] for name in self.taken}

    def integrate(
        self, first: dict[str, Tensors], second: dict[str, Tensors]
    ) -> tuple[dict[str, Tensors], dict[str, Stats]]:
        """Return h and what was decided, given what both traversals brought to the parameters."""
        if not self.forecasts:
            return first, self._stats
        h, stats = {}, {}
        for name, j in first.items():
            if name in second:
                h[name], stats[name] = self.rules[name](j, second[name])
                self.forecasts[name].pair.copy_(torch.stack([self.taken[name], stats[name].cos]))
            else:
                h[name], stats[name] = j, integrate.unseen(j[0].device, self.plain)
        return h, stats

    def measures(self) -> dict[str, Tensor]:
        """Return the last step's shares of encoders, or nothing with "features".

        both: of those that took both gradients. missed: of those whose conflict an audit found.
        """
        if not self.forecasts:
            return {}
        every = self.forecasts.values()
        both = torch.zeros_like(next(iter(every)).pair[0])
        audited = [self.forecasts[n].pair[1] for n in self.taken if not self.forecasts[n].expected]
        missed = sum(((cos <= 0).to(both) for cos in audited), both) / len(every)
        return {"both": both + len(self.taken) / len(every), "missed": missed}
