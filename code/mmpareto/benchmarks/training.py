"""A step in whole trainings: what adaptive costs depends on how often it takes both gradients."""

from argparse import Namespace
from copy import deepcopy

from tqdm import tqdm

from ..data.batches import ShuffledBatches, loader
from ..run import devices, options, setup
from ..run.environment import commit
from .step import OURS, Stepper
from .timing import now, show_ratio

TRAINED = {name: OURS[name] for name in ("uniform", "mmpareto", "mmpareto features")}
TRAINED |= {"mmpareto adaptive": "--method mmpareto --gramian adaptive"}


def measure_training(flags: Namespace) -> None:
    """A step of uniform and of MMPareto's variants in whole trainings; every epoch takes turns."""
    device = devices.pick_device(flags.device, flags.gpu_ids)
    seconds: dict[str, list[float]] = {name: [] for name in TRAINED}
    for seed in map(str, range(flags.seeds)):
        words = [*flags.train_flags, "--random_seed", seed]
        settings = options.parse(words)
        data = setup.load_data(settings)
        order = ShuffledBatches(len(data.splits["train"]), settings.batch_size, int(seed))
        steppers = {n: Stepper(w, data, device, *words) for n, w in TRAINED.items()}
        for epoch in tqdm(range(settings.epochs), f"seed {seed}", leave=False, disable=None):
            order.epoch = epoch + 1
            batches = [batch.to(device) for batch in loader(data.splits["train"], order)]
            for name, stepper in steppers.items():
                if not epoch:
                    deepcopy(stepper)(batches[0])  # warms up
                began = now()
                for batch in batches:
                    stepper(batch)
                seconds[name].append((now() - began) / len(batches))
    print(f"commit {commit()}, {device}, trained with {' '.join(flags.train_flags)}")
    for name in TRAINED:
        if name != "uniform":
            show_ratio(seconds, name, "uniform")
