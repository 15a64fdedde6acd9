"""Speed as ratios within one run: every job in turns, medians of several rounds.

python code/benchmark.py step        a training step: ours, uniform, the released procedure, torchjd
python code/benchmark.py methods     a step of every method against joint's
python code/benchmark.py training    a step in whole trainings: uniform, and MMPareto's variants
python code/benchmark.py throughput  samples a second at CREMA-D's size, memory, waits: for a GPU
python code/benchmark.py scaling     a step by number of modalities, and of processes
python code/benchmark.py loader      ours against a plain reader: PIL, torchvision, torch.load
python code/benchmark.py prepare     prepare.py with 2 workers against 1, seconds for each stage
"""

from mmpareto.system import entry

import os
from pathlib import Path

import torch

from mmpareto.benchmarks import clips, step, throughput, training
from mmpareto.run.parsers import add_device_flags
from mmpareto.system.flags import Parser, non_negative, positive
from mmpareto.system.processes import keep_memory

COMMANDS = {
    "step": step.measure,
    "methods": step.measure_methods,
    "training": training.measure_training,
    "throughput": throughput.measure_throughput,
    "scaling": step.measure_scaling,
    "loader": clips.measure_loader,
    "prepare": clips.measure_prepare,
}
STEPS = {"step": 4, "methods": 4, "throughput": 4, "scaling": 2}


def add_flags(parser, command: str) -> None:
    add = parser.add_argument
    # fmt: off
    if command == "training":
        add("--seeds", type=positive(int), default=3,
            help="trainings of each method, by seeds from 0 on (default: %(default)s)")
        add("train_flags", nargs="*", metavar="TRAIN_FLAG",
            help="flags of train.py, after --: -- --encoder cnn --epochs 20")
        add_device_flags(parser)
        return
    add("--seconds", type=positive(float), default=60,
        help="measure each size for so long, at least one round; > 0 (default: %(default)s)")
    if command == "step":
        add("--size", choices=step.SIZES, default="small",
            help="small: 64 pictures of 32x32; cremad: 8 clips of full size (default: %(default)s)")
    if command == "methods":
        add("--encoder", default="resnet18", help="of both modalities (default: %(default)s)")
    if command == "throughput":
        add("--batch_size", type=positive(int), nargs="+", default=[64, 256],
            help="samples in a batch (default: 64 256)")
    if command == "scaling":
        add("--modalities", type=positive(int), nargs="+", default=[1, 2, 4],
            help="numbers of modalities (default: 1 2 4)")
        add("--millions", type=positive(int), nargs="+", default=[1, 10, 100],
            help="millions of parameters in the encoder (default: 1 10 100)")
        add("--fusion", default="concat", help="where modalities meet (default: %(default)s)")
    if command in STEPS:
        add("--steps", type=positive(int), default=STEPS[command],
            help="steps of every job in a round (default: %(default)s)")
        add_device_flags(parser)
    else:
        add("--clips", type=positive(int), default=256,
            help="synthetic clips (default: %(default)s)")
        add("--raw", type=Path, metavar="DIR", help="raw CREMA-D clips to use instead")
    if command == "loader":
        add("--workers", type=non_negative(int), default=0,
            help="processes that each reader uses (default: %(default)s)")
    # fmt: on


def main(arguments: list[str]) -> None:
    parser = Parser(prog="benchmark.py", description=__doc__.splitlines()[0], allow_abbrev=False)
    commands = parser.add_subparsers(
        dest="what", required=True, metavar="WHAT", help=f"one of {', '.join(COMMANDS)}"
    )
    for name, measure in COMMANDS.items():
        text = measure.__doc__
        add_flags(commands.add_parser(name, allow_abbrev=False, description=text, help=text), name)
    flags = parser.parse_args(arguments)
    if os.environ.get("RANK", "0") == "0":
        threads, cores = torch.get_num_threads(), os.cpu_count()
        print(f"torch {torch.__version__}, {threads} threads, {cores} cores")
    COMMANDS[flags.what](flags)


if __name__ == "__main__":
    keep_memory()
    entry.run(main)
