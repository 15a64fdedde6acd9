"""MMPareto for any training loop: `backward` replaces `loss.backward()`.

mmpareto = MMPareto(model, {"audio": model.audio, "visual": model.visual})
...
mmpareto.backward(joint_loss, {"audio": audio_loss, "visual": visual_loss})
optimizer.step()
"""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from numbers import Real
from typing import Any

import torch
import torch._functorch.config
import torch.compiler.config
import torch.distributed as dist
from torch import Tensor, nn

from . import checks, distributed, integrate
from .features import AtFeatures
from .integrate import Stats, Tensors

Rule = Callable[..., integrate.Integrated]  # of j and g, lists of tensors
Rules = Rule | Mapping[str, Rule]
Encoders = Mapping[str, nn.Module] | nn.ModuleDict
Places = dict[str, Tensors]  # of each encoder, where its two gradients are taken
Losses = tuple[Tensor, Mapping[str, Tensor]]  # the joint one, and each encoder's own
Gradients = dict[Tensor, Tensor]  # {parameter or feature: gradient}
GRAMIANS = ("parameters", "features", "adaptive")


class Integrator:
    """Writes to `.grad` as a backward pass does, with each encoder's two gradients integrated.

    model: the whole model, not wrapped in DistributedDataParallel (which does not see gradients
        taken with autograd.grad: its processes would drift apart in silence). Where
        torch.distributed is initialised, both gradients are averaged over its processes before they
        are integrated; each gives losses that are means over its own, equal share of the batch.
    encoders: {name: module}, parts of the model that share no parameter. Each has two objectives:
        the joint loss and its own. For multi-task learning, one shared encoder whose objectives
        are the two tasks' losses.
    rule: (j, g) -> (h, Stats) on lists of tensors, as in `mmpareto.core.integrate`; may overwrite
        j. A mapping {name: rule} gives every encoder its own.
    late: whether modalities meet only after the encoders, so that the loss of one encoder does not
        reach the parameters of another. Then any number of encoders takes two backward traversals;
        otherwise it takes one more for each. The first step of a model that is not compiled
        verifies the claim.
    gramian: which gradients decide. "parameters", the method itself: j and g are gradients of the
        encoder's parameters. "features" and "adaptive" look at its output z first, and need
        modalities that meet only in what is made of z: see `mmpareto.core.features`.
    plain: factor on j + g that the rule gives on every step without conflict, for "adaptive".

    Every parameter outside the encoders gets the plain gradient of the sum of all losses.
    """

    def __init__(
        self, model: nn.Module, encoders: Encoders, rule: Rules, *, late=True,
        gramian="parameters", plain: float | None = None,
    ):  # fmt: skip
        checks.check_encoders(model, encoders)
        if gramian not in GRAMIANS:
            raise ValueError(f"gramian is {gramian!r}; it must be one of {GRAMIANS}")
        self.model, self.encoders, self.late = model, dict(encoders), late
        self.gramian = gramian
        self.rules = rule if isinstance(rule, Mapping) else dict.fromkeys(encoders, rule)
        self.at_features = None
        if gramian != "parameters":
            self.at_features = AtFeatures(gramian, self.encoders, self.rules, late, plain)
        self._verified = self._verified_features = False
        self._held: list[Gradients] = []  # j and g of earlier micro-batches
        _keep_buffers_of_compiled_backwards()

    def backward(
        self,
        joint_loss: Tensor,
        unimodal_losses: Mapping[str, Tensor],
        features: Mapping[str, Tensor] | None = None,
        *,
        accumulate: bool = False,
    ) -> dict[str, Stats]:
        """Add the integrated gradients to `.grad`; returns what was decided for each encoder.

        Encoders without a gradient are left out of what is returned: frozen ones, and those whose
        modality the batch lacks.

        joint_loss, unimodal_losses: scalars of one forward pass; unimodal_losses has one entry for
            each encoder, 0 if the batch lacks its modality. Their graph is freed.
        features: {name: z}, each encoder's output (B, ...), unless gramian is "parameters": the
            very tensors that both losses were computed from; their first dimension is the batch.
        accumulate: hold this micro-batch's two gradients back; the next call without it integrates
            their sums, once. Returns {} then. Divide the losses by the number of micro-batches.
            Only with gramian="parameters": any other decides on the whole batch at once.

        Gradient scaling (fp16) and clipping keep their meaning: scale all losses by one factor
        before, unscale and clip `.grad` after. Non-finite gradients stay non-finite.
        """
        losses = joint_loss, unimodal_losses
        self._check_losses(losses)
        encoders, outside = self._places()
        if self.at_features:
            given = checks.check_features(self.encoders, features, accumulate)
            if not self._verified_features:
                every = [joint_loss, *unimodal_losses.values()]
                checks.verify_features(self.encoders, every, given)
                self._verified_features = True
            return self._behind_features(self.at_features, losses, given, encoders, outside)
        if features is not None:
            raise ValueError(
                "features are given, but gramian='parameters' ignores them: omit features"
            )

        j, g = self._both(losses, encoders, outside)
        if self._held:
            for gradients, held in zip((j, g), self._held, strict=True):
                _add(gradients, held)
        self._held = [j, g] if accumulate else []
        if accumulate:
            return {}

        if dist.is_initialized():
            distributed.average([*j.values(), *g.values()])
        stats, integrated = {}, {}
        for name, pair in _pairs(encoders, losses, j, g).items():
            h, stats[name] = self.rules[name](*pair)
            integrated |= zip(encoders[name], h, strict=True)
        reached = {p: x for p, x in integrated.items() if p in j or p in g}
        _write(reached, *_only(outside, j, g))
        return stats

    def observe(
        self, joint_loss: Tensor, unimodal_losses: Mapping[str, Tensor]
    ) -> dict[str, tuple[Tensors, Tensors]]:
        """Return each encoder's two gradients, j and g, in the order of its parameters.

        `.grad` and the graph stay as they are, so that any backward pass may follow. Traversals,
        processes and encoders without a gradient are treated as in `backward`.
        """
        losses = joint_loss, unimodal_losses
        self._check_losses(losses)
        encoders, _ = self._places()
        j, g = self._both(losses, encoders, [], retain_graph=True)
        distributed.average([*j.values(), *g.values()])
        return _pairs(encoders, losses, j, g)

    def reset(self) -> None:
        """Forget the micro-batches that are held back, for instance when their step is given up."""
        self._held = []

    def _check_losses(self, losses: Losses) -> None:
        joint, own = losses
        every = [joint, *own.values()] if isinstance(own, Mapping) else []
        if not every or own.keys() != self.encoders.keys() or not all(map(_is_loss, every)):
            checks.check_losses(self.encoders, joint, own)
        self._guard = nullcontext  # in which gradients are taken
        if not self._verified:
            checks.check_encoders(self.model, self.encoders)  # once more: wrapped since, perhaps
            if self.late:
                checks.verify_late(self.encoders, own)
            self._guard = partial(checks.no_backward_inside, self.model)
            self._verified = checks.reached(self.encoders, every)[1]

    def _places(self) -> tuple[Places, Tensors]:
        """Return each encoder's trainable parameters, and those outside the encoders."""
        encoders: Places = {
            n: [p for p in m.parameters() if p.requires_grad] for n, m in self.encoders.items()
        }
        inside = {p for params in encoders.values() for p in params}
        every: Tensors = [p for p in self.model.parameters() if p.requires_grad]
        outside = [p for p in every if p not in inside]
        if len(inside) + len(outside) != len(every):
            checks.check_encoders(self.model, self.encoders)  # raises: one has been replaced
        return encoders, outside

    def _both(
        self, losses: Losses, encoders: Places, outside: Tensors, *, retain_graph=False
    ) -> tuple[Gradients, Gradients]:
        """Return gradients of the joint and of the encoders' own losses; outside gets both."""
        joint, own = losses
        everything = [*(p for params in encoders.values() for p in params), *outside]
        with self._guard(everything):
            j = _gradients([joint], everything, retain_graph=True)
            if self.late:
                return j, _gradients(list(own.values()), everything, retain_graph=retain_graph)
            g: Gradients = {}
            for i, (name, params) in enumerate(encoders.items(), start=1):
                # This loss trains its own encoder only; its gradients in the others are dropped.
                keep = retain_graph or i < len(encoders)
                _add(g, _gradients([own[name]], [*params, *outside], retain_graph=keep))
        return j, g

    def _behind_features(
        self, at: AtFeatures, losses: Losses, features: Mapping[str, Tensor], encoders: Places,
        outside: Tensors,
    ) -> dict[str, Stats]:  # fmt: skip
        """Traverse the heads for both gradients, and the encoders as often as these ask for."""
        outputs: Places = {name: [z] for name, z in features.items() if z.requires_grad}
        params = {name: encoders[name] for name in outputs}
        j, g = self._both(losses, outputs, outside, retain_graph=True)
        sides = {name: (_zero_filled(j, z), _zero_filled(g, z)) for name, z in outputs.items()}

        def take(along: Mapping[str, Tensor], retain_graph: bool = False) -> Gradients:
            ends, inside = ([x for n in along for x in part[n]] for part in (outputs, params))
            with self._guard(inside):
                values = list(along.values())
                return _gradients(ends, inside, along=values, retain_graph=retain_graph)

        along, again = at.decide(sides)
        first, second = take(along, bool(again)), take(again)
        reached = {name for name, own in params.items() if any(p in first for p in own)}
        checks.check_reached(params, losses[1], reached)
        parts = _only(outside, j, g)
        distributed.average([x for part in (*parts, first, second) for x in part.values()])
        once = {name: _zero_filled(first, own) for name, own in params.items()}
        h, stats = at.integrate(once, {name: _zero_filled(second, params[name]) for name in again})
        pairs = ((p, x) for n, own in params.items() for p, x in zip(own, h[n], strict=True))
        _write({p: x for p, x in pairs if p in first or p in second}, *parts)
        return stats


class MMPareto(Integrator):
    """MMPareto (Wei and Hu, ICML 2024) as an `Integrator`; its rule is `integrate.mmpareto_rule`.

    gamma: factor (> 0) on the length of each encoder's gradient, 1.5 in the paper.
    granularity: "encoder" rescales an encoder as a whole and never ascends either loss; "tensor"
        rescales each parameter tensor, as the released script does, and can ascend one; "none"
        leaves the length of the common direction as it is.
    late, gramian: see `Integrator`.
    """

    def __init__(
        self,
        model: nn.Module,
        encoders: Encoders,
        *,
        gamma: float = 1.5,
        granularity: str = "encoder",
        late: bool = True,
        gramian: str = "parameters",
    ):
        if not isinstance(gamma, Real) or not 0 < gamma < float("inf"):
            raise ValueError(f"gamma is {gamma!r}; it must be a positive number (1.5 in the paper)")
        if granularity not in integrate.GRANULARITIES:
            raise ValueError(
                f"granularity is {granularity!r}; it must be one of {integrate.GRANULARITIES}"
            )
        if gramian == "features" and granularity == "tensor":
            raise ValueError(
                "granularity='tensor' rescales parameter by parameter, and gramian='features' sees "
                "no parameter's gradients: leave out one of the two"
            )
        rule = partial(integrate.mmpareto_rule, gamma=gamma, granularity=granularity)
        super().__init__(model, encoders, rule, late=late, gramian=gramian, plain=gamma)


def _keep_buffers_of_compiled_backwards() -> None:
    """Let a compiled model be traversed twice: else its backward overwrites what it has read.

    The tag keeps torch's cache on disk from handing out code that was compiled without this.
    """
    torch._functorch.config.donated_buffer = False
    tag = torch.compiler.config.cache_key_tag
    if "undonated" not in tag:
        torch.compiler.config.cache_key_tag = tag + "undonated"


def _pairs(
    encoders: Places, losses: Losses, j: Gradients, g: Gradients
) -> dict[str, tuple[Tensors, Tensors]]:
    """Return {name: j and g of all its parameters} for every encoder that a loss reaches.

    So rules that remember something of each parameter find it at the same place at every step.
    """
    pairs = {
        name: (_zero_filled(j, params), _zero_filled(g, params))
        for name, params in encoders.items()
        if any(p in j or p in g for p in params)
    }
    if len(pairs) < len(encoders):
        checks.check_reached(encoders, losses[1], pairs)
    return pairs


def _is_loss(loss: Tensor) -> bool:
    return isinstance(loss, Tensor) and loss.requires_grad and loss.numel() == 1


def _gradients(
    losses: Tensors, params: Tensors, *, along: Tensors | None = None, retain_graph: bool = False
) -> Gradients:
    """One backward traversal: the gradients of those params that a loss depends on.

    Several losses are summed; with along, the tensors' inner products with it are.
    """
    outputs = [x for x in losses if isinstance(x, Tensor) and x.requires_grad]
    if not outputs:
        return {}  # the encoder is frozen, and so is its head
    found = torch.autograd.grad(outputs, params, along, retain_graph, allow_unused=True)
    gradients, storages = {}, set()
    for param, gradient in zip(params, found, strict=True):
        if gradient is None:
            continue
        if gradient.layout != torch.strided:  # of an embedding with sparse=True
            gradient = gradient.to_dense()
        # Autograd may hand out one tensor, or an expanded one, for several parameters, or one that
        # its graph still holds; ours are overwritten in place.
        storage = gradient.untyped_storage()
        size = gradient.numel() * gradient.element_size()
        shared = storage.data_ptr() in storages or storage.nbytes() < size
        shared |= getattr(gradient, "_use_count", lambda: 1)() > 1  # as a backward pass decides
        storages.add(storage.data_ptr())
        # Fused optimizers take for granted that a gradient lies in memory as its parameter does;
        # a backward pass sees to it, autograd.grad (of a compiled model, say) does not.
        if shared or gradient.stride() != param.stride():
            gradient = torch.empty_like(param).copy_(gradient)
        gradients[param] = gradient
    return gradients


def _add(total: Gradients, more: Gradients) -> None:
    for param, gradient in more.items():
        total[param] = total[param].add_(gradient) if param in total else gradient


def _only(params: Tensors, *every: Gradients) -> list[Gradients]:
    return [{p: gradients[p] for p in params if p in gradients} for gradients in every]


def _zero_filled(gradients: Gradients, params: Tensors) -> Tensors:
    return [gradients[p] if p in gradients else torch.zeros_like(p) for p in params]


@torch.no_grad()
def _write(*parts: Mapping[Any, Tensor]) -> None:
    """Add to `.grad`, as a backward pass does; then run the hooks that wait for it."""
    for part in parts:
        for param, gradient in part.items():
            param.grad = gradient if param.grad is None else param.grad.add_(gradient)
    for param in dict.fromkeys(param for part in parts for param in part):
        for hook in (getattr(param, "_post_accumulate_grad_hooks", None) or {}).values():
            hook(param)
