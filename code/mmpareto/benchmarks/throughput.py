"""Samples a second at CREMA-D's full size, by precision and compiler; memory and waits of a GPU."""

from argparse import Namespace
from collections.abc import Callable
from functools import partial
from statistics import median

import numpy as np
import torch

from ..data.samples import Batch
from ..methods.base import numbers
from ..run import devices
from ..run.environment import commit
from .step import CREMAD, OURS, Stepper, random_batch, random_data
from .timing import compare, host_waits

JOBS = {  # what to build; the released procedure is always in fp32 and not compiled
    "released, fp32": "released",
    "two traversals": OURS["mmpareto"],
    "mmpareto": OURS["mmpareto"],
    "mmpareto adaptive": "--method mmpareto --gramian adaptive",
    "uniform": OURS["uniform"],
}
BF16 = ["--precision", "bf16"]
SETTINGS = {  # flags of ours
    "fp32": [],
    "bf16 + channels_last": BF16,
    "bf16 + channels_last + compile": [*BF16, "--compile"],
}
COLUMNS = ("samples/s", "quartiles", "of released", "of floor", "waits", "memory")


def measure_throughput(flags: Namespace) -> None:
    """Samples a second at CREMA-D's full size, memory and waits: for a GPU, but it runs anywhere.

    "two traversals" is the floor: the least that an exact method needs. A wait is one of the host
    for the GPU, in a step; memory is the most that a process with this job alone would hold.
    """
    device = devices.pick_device(flags.device, flags.gpu_ids)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    fp32 = torch.backends.cudnn.conv.fp32_precision
    print(f"commit {commit()}, {name}, convolutions of fp32 in {fp32}", flush=True)
    for size in flags.batch_size:
        batch = random_batch(size, CREMAD, device)
        for setting, more in SETTINGS.items():
            torch.compiler.reset()  # else the second batch size is compiled as a variable
            show_jobs(setting, more, batch, flags)


def show_jobs(setting: str, more: list[str], batch: Batch, flags: Namespace) -> None:
    """Print a row for each of JOBS, which take turns."""
    size, device = len(batch.targets), batch.targets.device
    inputs = sum(x.nbytes for x in (*batch.inputs.values(), batch.targets))
    jobs: dict[str, Callable] = {}
    memory, shares = {}, []
    for name, words in JOBS.items():
        before = allocated(device) - inputs
        stepper = Stepper(words, random_data(CREMAD), device, *more)
        if name == "released, fp32":
            jobs[name] = partial(stepper, batch)
        elif name == "two traversals":
            jobs[name] = partial(traverse_twice, stepper, batch)
        else:
            kept = shares if name == "mmpareto adaptive" else []
            jobs[name] = partial(log_step, stepper, batch, kept)
        jobs[name]()  # compiles, and makes the optimizer's state
        memory[name] = peak(jobs[name], device) - before
    seconds = compare(jobs, flags.seconds / len(SETTINGS), flags.steps)
    print(f"batch of {size}, {setting}, {len(seconds['mmpareto'])} rounds")
    print(f"{'':18}" + "".join(f"{column:>14}" for column in COLUMNS))
    for name, job in jobs.items():
        low, middle, high = size / np.quantile(seconds[name], (0.75, 0.5, 0.25))
        faster, share = (
            median(a / b for a, b in zip(seconds[other], seconds[name], strict=True))
            for other in ("released, fp32", "two traversals")
        )
        cells = [f"{middle:.1f}", f"{low:.1f}-{high:.1f}", f"{faster:.2f}x", f"{share:.0%}"]
        if device.type == "cuda":
            cells += [f"{host_waits(job, flags.steps):.1f}", f"{memory[name] / 2**30:.1f} GiB"]
        print(f"{name:18}" + "".join(f"{cell:>14}" for cell in cells), flush=True)
    later = np.mean(shares[len(shares) // 2 :])
    print(f"adaptive took both traversals for {later:.0%} of encoders and steps\n", flush=True)


def log_step(stepper: Stepper, batch: Batch, shares: list[float]) -> None:
    """Take a step and read what a log keeps of it, as train.py does."""
    shares.append(numbers([stepper(batch)]).get("measures", {}).get("both", 1.0))


def traverse_twice(stepper: Stepper, batch: Batch) -> None:
    """Take the least that an exact method needs: forward, two traversals, nothing integrated."""
    output = stepper.model(batch.inputs)
    joint, own, _ = stepper.model.objectives(output, output.losses(batch.targets))
    params = list(stepper.model.parameters())
    torch.autograd.grad(joint, params, retain_graph=True, allow_unused=True)
    torch.autograd.grad(sum(own.values()), params, allow_unused=True)


def allocated(device: torch.device) -> int:
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def peak(job: Callable, device: torch.device) -> int:
    """Return the most bytes that the GPU holds while the job runs."""
    if device.type != "cuda":
        return 0
    torch.cuda.reset_peak_memory_stats(device)
    job()
    return torch.cuda.max_memory_allocated(device)
