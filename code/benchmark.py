"""Speed as ratios within one run: every job in turns, medians of several rounds.

python code/benchmark.py step        a training step: ours, uniform, the released procedure, torchjd
python code/benchmark.py throughput  samples a second at CREMA-D's size, by precision and compiler
python code/benchmark.py scaling     a step by number of modalities, and of processes
python code/benchmark.py loader      ours against a plain reader: PIL, torchvision, torch.load
python code/benchmark.py prepare     prepare.py with 2 workers against 1, seconds for each stage
"""

from mmpareto.system import entry

import os

import torch

from mmpareto.benchmarks import clips, step
from mmpareto.system.flags import Parser, positive
from mmpareto.system.processes import keep_memory

COMMANDS = {
    "step": (step.measure, step.add_flags),
    "throughput": (step.measure_throughput, step.add_throughput_flags),
    "scaling": (step.measure_scaling, step.add_scaling_flags),
    "loader": (clips.measure_loader, clips.add_loader_flags),
    "prepare": (clips.measure_prepare, clips.add_flags),
}


def main(arguments: list[str]) -> None:
    parser = Parser(prog="benchmark.py", description=__doc__.splitlines()[0], allow_abbrev=False)
    commands = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    for name, (measure, add_flags) in COMMANDS.items():
        command = commands.add_parser(
            name, allow_abbrev=False, description=measure.__doc__, help=measure.__doc__
        )
        command.add_argument(
            "--repeats", type=positive(int), default=3, help="rounds, >= 1 (default: %(default)s)"
        )
        add_flags(command)
    flags = parser.parse_args(arguments)
    if os.environ.get("RANK", "0") == "0":
        threads, cores = torch.get_num_threads(), os.cpu_count()
        print(f"torch {torch.__version__}, {threads} threads, {cores} cores")
    COMMANDS[flags.what][0](flags)


if __name__ == "__main__":
    keep_memory()
    entry.run(main)
