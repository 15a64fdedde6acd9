"""Score a checkpoint: accuracy and macro-F1 of the joint prediction and of every modality's own.

python code/evaluate.py runs/RUN/best.pt
python code/evaluate.py runs/RUN/best.pt --split val --data_root DIR
"""

from pathlib import Path

from mmpareto import errors, trained
from mmpareto.data import loader
from mmpareto.errors import UserError
from mmpareto.evaluation import evaluate
from mmpareto.flags import non_negative, positive
from mmpareto.options import Parser, add_device_flags


def main(arguments: list[str]) -> None:
    parser = Parser(prog="evaluate.py", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("checkpoint", type=Path, help="a run's best.pt or last.pt")
    parser.add_argument("--split", default="test", help="train, val or test (default: test)")
    parser.add_argument("--data_root", type=Path, help="(default: where the run found its data)")
    parser.add_argument("--batch_size", type=positive(int), help="(default: the run's)")
    parser.add_argument("--workers", type=non_negative(int), default=0, help="(default: 0)")
    parser.add_argument("--limit_batches", type=positive(int), help="use only the first N batches")
    add_device_flags(parser)
    flags = parser.parse_args(arguments)

    options, epoch, data, model, forward, device = trained.load(flags.checkpoint, flags)
    if flags.split not in data.splits:
        raise UserError(f"--split {flags.split}: {data.name} has {', '.join(data.splits)}")
    batch_size = flags.batch_size or options.batch_size
    batches = loader(data.splits[flags.split], batch_size, workers=flags.workers)
    scores = evaluate(model, forward, batches, device, flags.limit_batches)

    size = len(data.splits[flags.split])
    scored = min(size, flags.limit_batches * batch_size) if flags.limit_batches else size
    print(
        f"{options.dataset} {flags.split}, {scored} of {size} samples; "
        f"{options.method}, seed {options.random_seed}, epoch {epoch}"
    )
    print(f"{'':12}{'Acc':>8}{'macro-F1':>10}")
    whole = "mean" if data.tasks else "joint"
    for suffix in (name.removeprefix("Acc") for name in scores if name.startswith("Acc")):
        name = suffix[1:] or whole
        print(f"{name:12}{scores['Acc' + suffix]:8.4f}{scores['F1' + suffix]:10.4f}")


if __name__ == "__main__":
    errors.run(main)
