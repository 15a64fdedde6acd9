"""A training step on random pictures: ours, uniform's, and MMPareto's as others take it."""

import gc
import statistics
from argparse import Namespace
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from itertools import count
from types import SimpleNamespace
from unittest.mock import patch

import torch
from torch import Tensor

from ..core import distributed, integrate
from ..core import integrator as core
from ..data.samples import Batch, Data, Modality
from ..methods import METHODS
from ..models.fusions import FUSIONS
from ..models.fusions.base import Fusion
from ..run import devices, options, setup
from ..run.environment import commit
from ..system.flags import positive
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


def add_flags(parser) -> None:
    # fmt: off
    parser.add_argument("--size", choices=SIZES, default="small",
        help="small: 64 pictures of 32x32; cremad: 8 clips of full size (default: %(default)s)")
    # fmt: on
    _add_common_flags(parser, steps=4)


def add_scaling_flags(parser) -> None:
    add = parser.add_argument
    # fmt: off
    add("--modalities", type=positive(int), nargs="+", default=[1, 2, 4],
        help="numbers of them (default: 1 2 4)")
    add("--millions", type=positive(int), nargs="+", default=[1, 10, 100],
        help="of parameters in an encoder whose gradients are integrated (default: 1 10 100)")
    add("--fusion", default="concat", help="where modalities meet (default: %(default)s)")
    # fmt: on
    _add_common_flags(parser, steps=2)


def add_throughput_flags(parser) -> None:
    # fmt: off
    parser.add_argument("--batch_size", type=positive(int), nargs="+", default=[64, 256],
        help="samples in a batch (default: 64 256)")
    # fmt: on
    _add_common_flags(parser, steps=10)


def _add_common_flags(parser, steps: int) -> None:
    # fmt: off
    parser.add_argument("--steps", type=positive(int), default=steps,
        help="of every job in a round (default: %(default)s)")
    # fmt: on
    options.add_device_flags(parser)


class Stepper:
    """A model, and all it takes to train it; called, it takes one training step."""

    def __init__(self, name: str, modalities: dict, device: torch.device, *more: str):
        rival = RIVALS.get(name)
        flags = options.parse(["--method", "mmpareto"] if rival else [*name.split(), *more])
        torch.manual_seed(0)
        model = setup.build_model(flags, Data("random", CLASSES, modalities, {}, {}))
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
        self.optimizer, _ = setup.build_optimizer(flags, self.model, device)

    def __call__(self, batch: Batch) -> None:
        self.method.backward(self.method.decide(self.method.forward(batch.inputs), batch))
        self.optimizer.step()
        self.optimizer.zero_grad()


OURS = {
    "uniform": "--method uniform",
    "mmpareto": "--method mmpareto",
    "mmpareto tensor": "--method mmpareto --granularity tensor",
    "mmpareto features": "--method mmpareto --gramian features",
}


def measure(flags: Namespace) -> None:
    """Seconds of a training step and its parts, bytes of gradients, and ratios."""
    device = devices.pick_device(flags.device, flags.gpu_ids)
    size, modalities = SIZES[flags.size]
    batch = random_batch(size, modalities, device)
    names = [name for name in RIVALS if find_spec(name) or name != "torchjd"]
    steppers = {name: Stepper(name, modalities, device) for name in names}
    steppers |= {name: Stepper(words, modalities, device) for name, words in OURS.items()}
    print(f"commit {commit()}, {flags.size}: batch of {size}, {device}", flush=True)

    jobs = {name: repeated(s, batch, flags.steps) for name, s in steppers.items()}
    seconds = compare(jobs, flags.repeats)
    parameters = sum(p.nbytes for p in steppers["mmpareto"].model.encoders.parameters())
    print(f"encoders: {parameters / 1e6:.1f} MB of parameters")
    print(f"{'':20}{'s a step':>10}{'gradients':>12}{'of parameters':>15}")
    for name, stepper in steppers.items():
        held = most_gradients(stepper, batch)
        middle = statistics.median(seconds[name]) / flags.steps
        print(f"{name:20}{middle:10.3f}{held / 1e6:9.0f} MB{held / parameters:14.2f}x")
    if "torchjd" in steppers:
        show_ratio(seconds, "torchjd", "mmpareto")
    show_ratio(seconds, "released", "mmpareto")
    show_ratio(seconds, "mmpareto", "uniform")
    show_ratio(seconds, "mmpareto features", "uniform")
    for name in ("mmpareto", "mmpareto features"):
        show_parts(name, steppers[name], batch, flags.steps)


def repeated(step: Callable, batch: Batch, steps: int) -> Callable[[int], None]:
    """A job of so many steps on one batch."""
    return lambda _: [step(batch) for _ in range(steps)]


def random_batch(size: int, modalities: dict, device: torch.device) -> Batch:
    generator = torch.Generator().manual_seed(0)
    inputs = {
        name: torch.randn(size, *spec.shape, generator=generator)
        for name, spec in modalities.items()
    }
    targets = torch.randint(len(CLASSES), (size,), generator=generator)
    return Batch(inputs, targets).to(device)


def show_parts(name: str, stepper: Stepper, batch: Batch, steps: int) -> None:
    """Where the time of a step goes, by a clock around each part, which stops a GPU for it."""
    seconds: Counter[str] = Counter()

    def timed(part: str, call: Callable) -> Callable:
        def run(*args, **settings):
            began = now()
            result = call(*args, **settings)
            number = f" {next(traversals)}" if part == "backward" else ""
            seconds[part + number] += now() - began
            return result

        return run

    method, optimizer = stepper.method, stepper.optimizer
    rules = {name: timed("integration", rule) for name, rule in method.integrator.rules.items()}
    stepper(batch)  # warms up
    with (
        patch.object(method, "forward", timed("forward", method.forward)),
        patch.object(core, "_gradients", timed("backward", core._gradients)),
        patch.object(optimizer, "step", timed("optimizer", optimizer.step)),
        patch.object(method.integrator, "rules", rules),
    ):
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
    known = [*stepper.model.parameters(), *stepper.model.buffers()]
    known += [*batch.inputs.values(), batch.targets]
    known += [t for s in stepper.optimizer.state.values() for t in s.values() if t is not None]
    before = {t.untyped_storage().data_ptr() for t in [*known, *python_tensors()]}
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

    def asking(call: Callable, *, first: bool = False) -> Callable:
        def run(*args, **settings):
            if first:
                ask()
            result = call(*args, **settings)
            if not first:
                ask()
            return result

        return run

    integrator = getattr(stepper.method, "integrator", None) or SimpleNamespace(rules={})
    rules = {name: asking(rule, first=True) for name, rule in integrator.rules.items()}
    with (
        patch.object(torch.autograd, "grad", asking(torch.autograd.grad)),
        patch.object(torch.autograd, "backward", asking(torch.autograd.backward)),
        patch.object(stepper.optimizer, "step", asking(stepper.optimizer.step, first=True)),
        patch.object(integrator, "rules", rules),
    ):
        stepper(batch)
    return most


def python_tensors() -> list[Tensor]:
    return [x for x in gc.get_objects() if type(x) in (Tensor, torch.nn.Parameter)]


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
        gradients = {millions: random_gradients(millions, device) for millions in flags.millions}
        jobs = {str(millions): partial(_integrate, *pair) for millions, pair in gradients.items()}
        for millions, times in compare(jobs, flags.repeats).items():
            say(f"{millions} M parameters: integrated in {statistics.median(times):.4f} s")


def scaled(number: int, device: torch.device, flags: Namespace) -> str:
    """What a step with so many modalities takes, in words."""
    modalities = {f"picture_{i}": DIGITS["color"] for i in range(number)}
    batch = random_batch(64 // distributed.size(), modalities, device)
    fusion = FUSIONS.find(flags.fusion)
    names = ["uniform", "mmpareto", *(["mmpareto features"] if FUSIONS[fusion].late else [])]
    steppers = {name: Stepper(OURS[name], modalities, device, "--fusion", fusion) for name in names}
    jobs = {name: repeated(stepper, batch, flags.steps) for name, stepper in steppers.items()}
    gradients = [torch.zeros_like(p) for p in steppers["mmpareto"].model.parameters()] * 2
    jobs["exchange"] = lambda _: distributed.average(gradients)
    seconds = {name: statistics.median(v) for name, v in compare(jobs, flags.repeats).items()}
    steps = ", ".join(f"{name} {seconds[name] / flags.steps:.3f} s" for name in names)
    held = most_gradients(steppers["mmpareto"], batch) / 1e6
    size = sum(gradient.nbytes for gradient in gradients) / 1e6
    return (
        f"{number} modalities: {steps}; mmpareto holds {held:.0f} MB of gradients; "
        f"{size:.0f} MB are averaged in {seconds['exchange']:.3f} s"
    )


def random_gradients(millions: int, device: torch.device) -> list[list[Tensor]]:
    """Two opposed gradients of so many parameters, in tensors of a million numbers."""
    j = [torch.randn(1000, 1000, device=device) for _ in range(millions)]
    return [j, [torch.randn_like(x) - x / 2 for x in j]]


def _integrate(j: list[Tensor], g: list[Tensor], _: int) -> None:
    integrate.mmpareto_rule(j, g)


FAST = ["--precision", "bf16", "--compile"]
VARIANTS = {  # of `throughput`: what to build, flags
    "released, fp32": ["released"],
    "two traversals, fp32": [OURS["mmpareto"]],
    "uniform, fp32": [OURS["uniform"]],
    "mmpareto, fp32": [OURS["mmpareto"]],
    "mmpareto features, fp32": [OURS["mmpareto features"]],
    "mmpareto, bf16 + channels_last": [OURS["mmpareto"], "--precision", "bf16"],
    "two traversals, bf16 + channels_last + compile": [OURS["mmpareto"], *FAST],
    "mmpareto, bf16 + channels_last + compile": [OURS["mmpareto"], *FAST],
    "mmpareto features, bf16 + channels_last + compile": [OURS["mmpareto features"], *FAST],
}


def measure_throughput(flags: Namespace) -> None:
    """Samples a second at CREMA-D's full size: made for a GPU, it runs anywhere."""
    device = devices.pick_device(flags.device, flags.gpu_ids)
    cuda = device.type == "cuda"
    print(f"commit {commit()}, {torch.cuda.get_device_name(device) if cuda else 'CPU'}")
    for size in flags.batch_size:
        batch = random_batch(size, CREMAD, device)
        slowest = None
        print(f"batch of {size:<44}{'samples/s':>9}{'of released':>13}{'peak memory':>13}")
        for title, (name, *more) in VARIANTS.items():
            if cuda:
                torch.cuda.reset_peak_memory_stats(device)
            stepper = Stepper(name, CREMAD, device, *more)
            take = traverse_twice if title.startswith("two") else Stepper.__call__
            job = repeated(partial(take, stepper), batch, flags.steps)
            seconds = statistics.median(compare({"": job}, flags.repeats)[""]) / flags.steps
            slowest = slowest or seconds
            peak = f"{torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB" if cuda else "-"
            ratio = f"{slowest / seconds:.2f}x"
            print(f"{title:53}{size / seconds:9.1f}{ratio:>13}{peak:>13}", flush=True)
            del stepper, job


def traverse_twice(stepper: Stepper, batch: Batch) -> None:
    """The floor of every exact method: forward, two traversals, nothing integrated."""
    output = stepper.model(batch.inputs)
    joint, own, _ = stepper.model.objectives(output, output.losses(batch.targets))
    params = list(stepper.model.parameters())
    torch.autograd.grad(joint, params, retain_graph=True, allow_unused=True)
    torch.autograd.grad(sum(own.values()), params, allow_unused=True)
