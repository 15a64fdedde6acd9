"""Train a multimodal classifier and print its accuracies.

python code/train.py --method mmpareto
python code/train.py --method uniform --dataset cgmnist --data_root DIR --epochs 6
"""

from mmpareto.system import entry, tensors

import time
from argparse import Namespace
from contextlib import closing
from copy import copy, deepcopy
from functools import partial
from math import isfinite
from shlex import quote

import torch
from torch.nn.utils import clip_grad_norm_, get_total_norm
from tqdm import tqdm

from mmpareto.core import distributed
from mmpareto.data.batches import ShuffledBatches, loader, shared_out
from mmpareto.data.samples import Batch, choosing_split
from mmpareto.methods import METHODS
from mmpareto.methods.base import numbers
from mmpareto.models.fusions.base import Fusion
from mmpareto.run import checkpoint, devices, optimizing, options, report, setup, start
from mmpareto.run.folder import Run, closing_lines, finished
from mmpareto.run.records import MEASURES, Best, rule_of
from mmpareto.run.scores import Scores, columns, evaluate
from mmpareto.system.errors import Diverged, UserError
from mmpareto.system.processes import keep_memory


def main(arguments: list[str]) -> None:
    flags = options.parse(arguments)
    with devices.joined():
        run(flags)


def run(flags: Namespace) -> None:
    """Train the run that the flags describe, or continue it with --resume."""
    flags.out = distributed.same(flags.out)
    config = options.as_config(flags)
    if flags.resume and (done := finished(flags.out, config)):
        if distributed.is_first():
            result = done.result
            lines = closing_lines(flags.out, result.selected, result.results, result.stopped)
            print(f"{flags.out} is finished", *lines, sep="\n")
        return
    with closing(Run(flags.out, config, flags.resume)) as folder:
        trainer = Trainer(flags, folder)
        try:
            trainer.train()
        except KeyboardInterrupt:
            raise KeyboardInterrupt(
                f"interrupted after epoch {trainer.epoch}; go on with the same flags and "
                f"--out {quote(str(flags.out))} --resume"
            ) from None
        except Diverged as error:
            folder.note_divergence(str(error))
            raise


class Trainer:
    """One run; its parts are built, and its input checked, before anything is written."""

    def __init__(self, flags: Namespace, run: Run):
        self.flags, self.run = flags, run
        devices.seed_everything(flags.random_seed, flags.deterministic)
        self.device = devices.pick_device(flags.device, flags.gpu_ids)
        self.data = setup.load_data(flags, run.state and run.state.standard)
        model = setup.build_model(flags, self.data)
        if not run.state:  # a resumed run holds what its encoders have become
            self.data = start.load_encoders(model, flags, self.data)
        model = devices.place(model, self.device, flags.precision)
        model.criterion = setup.criterion(flags, self.data, self.device)
        distributed.copy_from_first(model.state_dict().values())
        self.equip(devices.synchronised(model, self.device) if flags.sync_bn else model)

        splits = self.data.splits
        if self.method.needs_validation and "val" not in splits:
            raise UserError(
                f"--method {flags.method} needs a validation split, and {self.data.name} has none: "
                "choose another --split or --method"
            )
        splits["train"] = setup.augmented(flags, self.data)
        self.order = ShuffledBatches(len(splits["train"]), flags.batch_size, flags.random_seed)
        load = partial(loader, workers=flags.workers, pin_memory=self.device.type == "cuda")
        self.loaders = {name: load(split, flags.batch_size) for name, split in splits.items()}
        self.loaders["train"] = load(splits["train"], self.order)
        self.shown = choosing_split(splits, flags.select)
        self.chosen_by = MEASURES[flags.select_by]
        if flags.patience and self.shown != "val":
            raise UserError(
                f"--patience stops by validation, and {self.data.name} has no such split: choose "
                "another --split, or drop --patience"
            )

        if flags.batch_size == distributed.size():
            setup.check_single_samples(self.model, splits["train"], self.device)
        self.waiting = 0.0  # share of the last epoch's training that was spent waiting for data
        self.epoch, self.best, self.skipped_in_a_row = 0, Best(), 0
        if run.state:
            self.restore(run.state)
        if self.method.needs_teachers and not self.makes_teachers:
            self.teach()

    def equip(self, model: Fusion) -> None:
        """Set the model, its method, optimizer and scheduler."""
        flags, self.model = self.flags, model
        if flags.compile:
            model.compile()
        self.method = METHODS[flags.method](model, flags)
        # Lists, since asking the modules takes a tenth of a small model's step.
        self.params, self.buffers = list(model.parameters()), list(model.buffers())
        self.statistics = [b for b in self.buffers if b.is_floating_point()]  # of BatchNorm
        trained = [p for p in self.params if p.requires_grad] + self.method.parameters()
        self.optimizer, self.scheduler = optimizing.build_optimizer(
            flags, model, trained, self.device
        )

    @property
    def steps(self) -> int:
        """The groups of --accumulate batches in an epoch; each is a step of the optimizer."""
        batches = min(len(self.order), self.flags.limit_batches or len(self.order))
        return batches // self.flags.accumulate

    @property
    def makes_teachers(self) -> bool:
        """Whether a run of their own has to train the method's teachers before the first epoch."""
        return self.method.needs_teachers and not (self.run.state or self.flags.teacher)

    @property
    def is_stopped(self) -> bool:
        """Whether --patience ends the run before --epochs; all processes have the same scores."""
        flags = self.flags
        is_due = flags.patience and self.epoch - self.best.epoch >= flags.patience
        return bool(is_due) and self.epoch < flags.epochs

    def teach(self) -> None:
        """Give the method its teachers: those of --teacher, or of a run that trains them first."""
        cuda = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(cuda):  # the run is the same, however they have come
            if self.makes_teachers:
                run(start.teacher_run(self.flags))
            self.method.teach(start.teachers(self.flags, self.data, self.model, self.device))

    def fork(self, method: str, **own) -> "Trainer":
        """Copy this trainer and continue with another method; own holds that method's flags.

        Model, optimizer and scheduler are copied: this trainer does not change.
        """
        other = copy(self)
        other.flags = Namespace(**{**vars(self.flags), "method": method, **own})
        other.equip(deepcopy(self.model))
        other.optimizer.load_state_dict(deepcopy(self.optimizer.state_dict()))
        other.scheduler.load_state_dict(self.scheduler.state_dict())
        return other

    def train(self) -> None:
        """Train the remaining epochs, then score the test split."""
        header = setup.header(self.flags, self.data, self.model, self.device, self.steps)
        if self.method.needs_teachers:
            header.append(f"Teachers {' '.join(start.teacher_files(self.flags))}")
        self.run.start(header, checkpoint.known_by(self.data))
        if self.makes_teachers:
            self.teach()
        while self.epoch < self.flags.epochs and not self.is_stopped:
            began, rates = time.perf_counter(), optimizing.rates(self.optimizer)
            steps = self.train_epoch()
            self.scheduler.step()
            scores, loss = self.scores(self.shown)
            self.epoch += 1
            self.best = self.best.after(self.epoch, *scores["joint"], loss, self.chosen_by)
            epoch = {"epoch": self.epoch, **report.summary(steps), "split": self.shown}
            epoch |= {**columns(scores), "split_loss": loss, "waiting": self.waiting, **rates}
            epoch["seconds"] = time.perf_counter() - began
            further = self.remarks(epoch)
            row = report.row(epoch, self.flags.epochs, self.best, self.chosen_by, further)
            self.run.record(steps, epoch, row)
            if self.best.epoch == self.epoch:
                self.run.save("best.pt", self.model_state())
            self.run.save("last.pt", self.state())
        self.finish()

    def remarks(self, epoch: dict) -> list[str]:
        """Return what the flags of the schedule add to an epoch's row."""
        flags = self.flags
        changes = flags.warmup or flags.lr_decay_step or flags.lr_schedule == "cosine"
        rates = [report.rates_in(epoch)] if changes else []
        return rates + [f"stopped early (--patience {flags.patience})"] * self.is_stopped

    def train_epoch(self) -> list[dict]:
        """Train one epoch; returns the record of every optimizer step."""
        self.method.start_epoch(self)
        self.model.train()
        self.order.epoch, self.order.copies = self.epoch + 1, self.method.copies()
        batches = iter(self.loaders["train"])
        steps, title = [], f"{self.flags.method}, epoch {self.epoch + 1}"
        began, waited = time.perf_counter(), 0.0
        hidden = None if distributed.is_first() else True
        lacks = self.data.splits["train"].lacks or self.order.copies is not None
        for _ in tqdm(range(self.steps), title, leave=False, disable=hidden):
            asked = time.perf_counter()
            parts = [next(batches) for _ in range(self.flags.accumulate)]
            waited += time.perf_counter() - asked
            parts = shared_out(parts) if lacks else parts
            for turn in range(self.method.turns):
                self.method.turn = turn
                found = self.step(parts)
                steps.append({"epoch": self.epoch + 1, "step": len(steps) + 1, **found})
                if found["skipped"]:
                    self.count_skipped(steps[-1])
        self.waiting = waited / (time.perf_counter() - began)
        distributed.average(self.statistics)
        return steps

    def step(self, parts: list[Batch]) -> dict:
        """Take one optimizer step on micro-batches; returns its record.

        A step in which something is not finite changes nothing.
        """
        kept = [*self.buffers, *self.method.state.values()]
        kept = [(tensor, tensor.clone()) for tensor in kept]
        decisions, share = [], 1 / len(parts)
        for number, part in enumerate(parts, start=1):
            batch = part.to(self.device)
            output = self.method.forward(batch)
            decision = self.method.decide(output, batch)
            del output  # the maps in it would outlive the backward pass
            last = number == len(parts)
            decisions.append(self.method.backward(decision, share=share, last=last))
        norm = self.clip()
        largest = get_total_norm(self.statistics, torch.inf)
        found = numbers(decisions, grad_norm=norm, largest_statistic=largest)  # sync
        decisive = found["loss"], found["grad_norm"], found.pop("largest_statistic")
        found["skipped"] = not all(map(isfinite, decisive))
        if found["skipped"]:
            for tensor, before in kept:
                tensor.copy_(before)
        else:
            self.optimizer.step()
            self.skipped_in_a_row = 0
        self.optimizer.zero_grad()
        return found

    def clip(self) -> torch.Tensor:
        """Clip gradients as --clip_grad says; returns their total norm before clipping."""
        norm = get_total_norm([p.grad for p in self.params if p.grad is not None])
        if self.flags.clip_grad:
            for group in self.method.clip_groups():
                clip_grad_norm_(group, self.flags.clip_grad)
        return norm

    def count_skipped(self, step: dict) -> None:
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row > self.flags.max_skipped:
            guilty = ", ".join(name for name, loss in step["losses"].items() if not isfinite(loss))
            raise Diverged(
                f"epoch {step['epoch']}, step {step['step']}: {self.skipped_in_a_row} steps in a "
                "row had a loss, a gradient or a running statistic that is not finite (losses: "
                f"{guilty or 'all finite'}): check that data, or lower --learning_rate, now "
                f"{self.flags.learning_rate}"
            )

    def scores(self, split: str) -> tuple[Scores, float]:
        return evaluate(self.model, self.loaders[split], self.device, self.flags.limit_batches)

    def finish(self) -> None:
        """Score the last and the best epoch on the test split."""
        last = best = {"epoch": self.epoch, **columns(self.scores("test")[0])}
        if self.best.epoch != self.epoch:
            path = self.run.folder / "best.pt"
            with checkpoint.fitting(path):
                checkpoint.load_weights(self.model, tensors.read(path)["model"], path)
            best = {"epoch": self.best.epoch, **columns(self.scores("test")[0])}
        if self.shown == "test" and self.flags.select != "best-test":
            results, selected = {"last": last}, "last"  # nothing but the test split could choose
        else:
            rule = rule_of(f"best-{self.shown}", self.flags.select_by)
            selected = "last" if self.flags.select == "last" else rule
            results = {rule: best, "last": last}
        samples = len(self.data.splits["test"])
        if limit := self.flags.limit_batches:
            samples = min(samples, limit * self.flags.batch_size)
        size, peak = setup.parameters(self.model), devices.peak_memory(self.device)
        known = {"test_samples": samples, "parameters": size, "peak_bytes": peak}
        known["stopped"] = self.epoch if self.is_stopped else None
        self.run.finish(selected, results, **known)

    def model_state(self) -> dict:
        """Return what evaluation needs."""
        known = vars(checkpoint.known_by(self.data))
        model, standard = self.model.state_dict(), self.data.standard
        return {"model": model, "epoch": self.epoch, "data": known, "standard": standard}

    def state(self) -> dict:
        is_cuda = self.device.type == "cuda"
        cuda = [torch.cuda.get_rng_state(self.device)] if is_cuda else []
        return {
            **self.model_state(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "method": self.method.state | self.method.lasting,
            "rng": [torch.get_rng_state(), *cuda],
            "best": vars(self.best),
            "skipped_in_a_row": self.skipped_in_a_row,
        }

    def restore(self, state: checkpoint.Resumable) -> None:
        """Continue after the last complete epoch."""
        path = self.run.folder / "last.pt"
        if not checkpoint.is_same_data(self.data, state, path):
            raise UserError(
                f"--resume: {self.data.name} has changed since {path} was written (its clips, "
                "their order, labels or files): restore the data, or train anew in another --out"
            )
        checkpoint.check_standard(state.standard, self.data, path)
        with checkpoint.fitting(path):
            checkpoint.load_weights(self.model, state.model, path)
            checkpoint.check_alike(state.scheduler, self.scheduler.state_dict(), "scheduler")
            method = self.method.state | self.method.lasting
            checkpoint.check_alike(state.method, method, "method")
            checkpoint.load_optimizer(self.optimizer, state.optimizer)
            self.scheduler.load_state_dict(state.scheduler)
            for name, value in state.method.items():
                method[name].copy_(value)
            torch.set_rng_state(state.rng[0])
            if self.device.type == "cuda" and len(state.rng) > 1:
                torch.cuda.set_rng_state(state.rng[1], self.device)
        self.epoch, self.skipped_in_a_row = state.epoch, state.skipped_in_a_row
        self.best = state.best


if __name__ == "__main__":
    keep_memory()
    entry.run(main)
