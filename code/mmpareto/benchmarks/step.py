"""A training step on random pictures: ours, uniform's, and MMPareto's as others take it."""

import gc
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from functools import partial
from importlib.util import find_spec
from itertools import count
from statistics import median
from types import SimpleNamespace
from unittest.mock import patch

import torch
from torch import Tensor

from ..core import distributed, integrate
from ..data.samples import Batch, Data, Modality
from ..methods import METHODS
from ..methods.base import Decision
from ..models.fusions import FUSIONS
from ..models.fusions.base import Fusion
from ..run import devices, optimizing, options, setup
from ..run.environment import commit
from .rivals import Released, TorchJD
from .timing import compare, now, show_ratio

CLASSES = [str(i) for i in range(10)]
CREMAD = {
    "audio": Modality("spectrogram", (1, 257, 188)),
    "visual": Modality("frames", (2, 3, 224, 224)),
}
DIGITS = {"gray": Modality("image", (1, 32, 32)), "color": Modality("image", (3, 32, 32))}
SIZES = {"small": (64, DIGITS), "cremad": (8, CREMAD)}  # batch size, modalities
RIVALS = {"released": Released, "torchjd": TorchJD}
OURS = {
    "uniform": "--method uniform",
    "mmpareto": "--method mmpareto",
    "mmpareto tensor": "--method mmpareto --granularity tensor",
    "mmpareto features": "--method mmpareto --gramian features",
}


class Stepper:
    """A model with its method and optimizer; a call takes one training step."""

    def __init__(self, name: str, data: Data, device: torch.device, *more: str):
        rival = RIVALS.get(name)
        flags = options.parse([*(OURS["mmpareto"] if rival else name).split(), *more])
        torch.manual_seed(flags.random_seed)
        model = setup.build_model(flags, data)
        if rival:
            self.model: Fusion = model.to(device)
            self.method = rival(self.model)
            self.optimizer = torch.optim.SGD(
                model.parameters(), flags.learning_rate, flags.momentum, 0, flags.weight_decay
            )
            return
        self.model = devices.place(model, device, flags.precision)
        if flags.compile:
            self.model.compile()
        self.method = METHODS[flags.method](self.model, flags)
        params = [*self.model.parameters(), *self.method.parameters()]
        self.optimizer, _ = optimizing.build_optimizer(flags, self.model, params, device)

    def __call__(self, batch: Batch) -> Decision:
        for turn in range(self.method.turns):
            self.method.turn = turn
            decision = self.method.decide(self.method.forward(batch), batch)
            decision = self.method.backward(decision)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return decision

    @contextmanager
    def wrapped(self, wrap: Callable[[str, Callable], Callable]) -> Iterator[None]:
        """Replace each part of a step by wrap(its name, its call), until the context ends."""
        integrator = getattr(self.method, "integrator", None) or SimpleNamespace(rules={})
        rules = {name: wrap("integration", rule) for name, rule in integrator.rules.items()}
        with (
            patch.object(self.method, "forward", wrap("forward", self.method.forward)),
            patch.object(torch.autograd, "grad", wrap("backward", torch.autograd.grad)),
            patch.object(torch.autograd, "backward", wrap("backward", torch.autograd.backward)),
            patch.object(self.optimizer, "step", wrap("optimizer", self.optimizer.step)),
            patch.object(integrator, "rules", rules),
        ):
            yield


def measure(flags: Namespace) -> None:
    """Seconds of a training step and its parts, bytes of gradients, and ratios."""
    device = devices.pick_device(flags.device, flags.gpu_ids)
    size, modalities = SIZES[flags.size]
    batch = random_batch(size, modalities, device)
    names = [name for name in RIVALS if find_spec(name) or name != "torchjd"]
    words = dict(zip(names, names, strict=True)) | OURS
    data = random_data(modalities)
    steppers = {name: Stepper(words[name], data, device) for name in words}
    print(f"commit {commit()}, {flags.size}: batch of {size}, {device}", flush=True)

    jobs = {name: partial(stepper, batch) for name, stepper in steppers.items()}
    seconds = compare(jobs, flags.seconds, flags.steps)
    parameters = sum(p.nbytes for p in steppers["mmpareto"].model.encoders.parameters())
    print(f"encoders: {parameters / 1e6:.1f} MB of parameters")
    print(f"{'':20}{'s a step':>10}{'gradients':>12}{'of parameters':>15}")
    for name, stepper in steppers.items():
        held, middle = most_gradients(stepper, batch), median(seconds[name])
        print(f"{name:20}{middle:10.3f}{held / 1e6:9.0f} MB{held / parameters:14.2f}x")
    for name in names[::-1]:
        show_ratio(seconds, name, "mmpareto")
    for name in ("mmpareto", "mmpareto features"):
        show_ratio(seconds, name, "uniform")
    for name in ("mmpareto", "mmpareto features"):
        show_parts(name, steppers[name], batch, flags.steps)


def random_data(modalities: dict) -> Data:
    return Data("random", CLASSES, modalities, {}, {})


def measure_methods(flags: Namespace) -> None:
    """A step of every method on a batch of digits, in its first epoch, against joint's."""
    device = devices.pick_device(flags.device, flags.gpu_ids)
    size, modalities = SIZES["small"]
    batch, data = random_batch(size, modalities, device), random_data(modalities)
    steppers = {
        name: Stepper(f"--method {name}", data, device, "--encoder", flags.encoder)
        for name in METHODS
    }
    for stepper in steppers.values():
        if stepper.method.needs_teachers:
            stepper.method.teach(deepcopy(stepper.model).eval())
    print(f"commit {commit()}, {flags.encoder}, batch of {size}, {device}", flush=True)
    jobs = {name: partial(stepper, batch) for name, stepper in steppers.items()}
    seconds = compare(jobs, flags.seconds, flags.steps)
    for name in METHODS:
        show_ratio(seconds, name, "joint")


def random_batch(size: int, modalities: dict, device: torch.device) -> Batch:
    generator = torch.Generator().manual_seed(0)
    inputs = {
        name: torch.randn(size, *spec.shape, generator=generator)
        for name, spec in modalities.items()
    }
    targets = torch.randint(len(CLASSES), (size,), generator=generator)
    return Batch(inputs, targets).to(device)


def show_parts(name: str, stepper: Stepper, batch: Batch, steps: int) -> None:
    """Show how long each part of a step takes; the clock waits for a GPU at each part."""
    seconds: Counter[str] = Counter()

    def timed(part: str, call: Callable) -> Callable:
        def run(*args, **settings):
            began = now()
            result = call(*args, **settings)
            number = f" {next(traversals)}" if part == "backward" else ""
            seconds[part + number] += now() - began
            return result

        return run

    stepper(batch)  # warms up
    with stepper.wrapped(timed):
        began = now()
        for _ in range(steps):
            traversals = count(1)
            stepper(batch)
        whole = now() - began
    seconds["rest"] = whole - sum(seconds.values())
    parts = ", ".join(f"{part} {s / steps:.3f} s ({s / whole:.1%})" for part, s in seconds.items())
    print(f"{name}: {parts}")


def most_gradients(stepper: Stepper, batch: Batch) -> int:
    """Most bytes of tensors that a step holds beside model, optimizer, batch and activations.

    Asked after every backward traversal, as every integration begins, and before the optimizer.
    """
    before = {t.untyped_storage().data_ptr() for t in python_tensors()}
    most = 0

    def ask() -> None:
        nonlocal most
        grads = [p.grad for p in stepper.model.parameters() if p.grad is not None]
        found = {}
        for t in [*grads, *python_tensors()]:
            with suppress(NotImplementedError):  # vmap, which torchjd uses, hides its storages
                if not t.requires_grad:  # as activations do
                    found[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        most = max(most, sum(size for place, size in found.items() if place not in before))

    def asking(part: str, call: Callable) -> Callable:
        def run(*args, **settings):
            if part in ("integration", "optimizer"):
                ask()
            result = call(*args, **settings)
            if part == "backward":
                ask()
            return result

        return run

    gc.freeze()  # no need to look again through what there is already
    with stepper.wrapped(asking):
        stepper(batch)
    gc.unfreeze()
    return most


def python_tensors() -> list[Tensor]:
    """Return the tensors that Python knows and that have a storage, unlike sparse ones."""
    found = [x for x in gc.get_objects() if type(x) in (Tensor, torch.nn.Parameter)]
    return [x for x in found if x.layout == torch.strided]


def measure_scaling(flags: Namespace) -> None:
    """A step by number of modalities, integration by number of parameters.

    Started by torchrun, the exchange of gradients as well.
    """
    with devices.joined():
        device = devices.pick_device(flags.device, flags.gpu_ids)
        say = print if distributed.is_first() else lambda _: None
        say(f"commit {commit()}, {distributed.size()} processes, batch of 64 pictures of 32x32")
        for number in flags.modalities:
            say(scaled(number, device, flags))
        jobs = {}
        for millions in flags.millions:
            j = [torch.randn(1000, 1000, device=device) for _ in range(millions)]
            g = [torch.randn_like(x) - x / 2 for x in j]  # opposed to j
            jobs[f"{millions} M parameters"] = partial(integrate.mmpareto_rule, j, g)
        for name, seconds in compare(jobs, flags.seconds).items():
            say(f"{name}: integrated in {median(seconds):.4f} s")


def scaled(number: int, device: torch.device, flags: Namespace) -> str:
    """Describe what a step with that number of modalities takes."""
    modalities = {f"picture_{i}": DIGITS["color"] for i in range(number)}
    batch = random_batch(64 // distributed.size(), modalities, device)
    fusion = FUSIONS.find(flags.fusion)
    names = ["uniform", "mmpareto", *(["mmpareto features"] if FUSIONS[fusion].late else [])]
    data = random_data(modalities)
    steppers = {name: Stepper(OURS[name], data, device, "--fusion", fusion) for name in names}
    gradients = [torch.zeros_like(p) for p in steppers["mmpareto"].model.parameters()] * 2
    jobs = {name: partial(stepper, batch) for name, stepper in steppers.items()}
    seconds = compare(jobs, flags.seconds, flags.steps)
    steps = ", ".join(f"{name} {median(seconds[name]):.3f} s" for name in names)
    exchange = compare({"": partial(distributed.average, gradients)}, flags.seconds)[""]
    held = most_gradients(steppers["mmpareto"], batch) / 1e6
    size = sum(gradient.nbytes for gradient in gradients) / 1e6
    return (
        f"{number} modalities: {steps}; mmpareto holds {held:.0f} MB of gradients; "
        f"{size:.0f} MB are averaged in {median(exchange):.3f} s"
    )
