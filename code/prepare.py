"""Make a prepared set from raw files, and check it.

python code/prepare.py cremad --raw DIR --out DIR
python code/prepare.py folder --raw DIR --csv clips.csv --out DIR --workers 8

Repeat a command that was interrupted: it goes on where it stopped. data/DATASET/README.md says
where to get the raw files.
"""

from mmpareto.system import entry

import os
from argparse import Namespace
from pathlib import Path
from shlex import quote

import verify
from mmpareto.data.layout import sets_below
from mmpareto.data.recipes import RECIPE_OF
from mmpareto.datasets import DATASETS
from mmpareto.datasets.shared.prepared import Prepared
from mmpareto.system.errors import UserError
from mmpareto.system.flags import Parser
from mmpareto.system.paths import REPOSITORY


def main(arguments: list[str]) -> None:
    prepared = {name: part for name, part in DATASETS.items() if issubclass(part, Prepared)}
    names = ", ".join(prepared)
    if arguments and arguments[0].startswith("-"):
        parser = Parser(prog="prepare.py", description=__doc__.splitlines()[0])
        parser.add_argument("dataset", help=f"{names}; DATASET --help lists its flags")
        parser.parse_known_args(arguments)  # --help ends here
    if not arguments or arguments[0].startswith("-"):
        raise UserError(f"give the dataset first, one of {names}")
    if arguments[0] not in DATASETS and Path(arguments[0]).exists():
        given = quote(arguments[0])
        raise UserError(
            f"{given} is no dataset's name: for your own files, give folder --raw {given}"
        )
    name = DATASETS.find(arguments[0], prepared)
    if name not in prepared:
        raise UserError(f"{name} needs no preparation: train with --dataset {name}")

    dataset = prepared[name]
    parser = Parser(prog=f"prepare.py {name}", description=dataset.__doc__, allow_abbrev=False)
    parser.add_argument("dataset", help=name)
    # fmt: off
    add = parser.add_argument
    add("--raw", type=Path, required=True, metavar="DIR", help="the raw files; only read")
    home = REPOSITORY / "data" / name
    add("--out", type=Path, default=None if dataset.one_of_many else home, metavar="DIR",
        help=f"the prepared set ({'needed' if dataset.one_of_many else f'default: data/{name}'})")
    # fmt: on
    dataset.add_prepare_flags(parser)
    flags = parser.parse_args(arguments)
    if flags.out is None:
        sets = ", ".join(path.name for path in sets_below(home)) or "none yet"
        raise UserError(
            f"--out is missing: give a folder for this set, for example --out data/{name}/NAME "
            f"(sets in data/{name}: {sets})"
        )

    from mmpareto.preparation.engine import Preparation

    try:
        raw = dataset.collect(flags)
    except OSError as error:
        raise UserError(
            f"{error.filename}: cannot be read ({error.strerror}): let this user read it, or move "
            "it out of --raw"
        ) from None
    check_used(flags, parser, set(raw.modalities.values()))
    Preparation(raw, flags).run()
    verify.check(flags.out, workers=os.cpu_count() or 1)
    out = flags.out.absolute() if str(flags.out) in DATASETS else flags.out  # a name comes first
    print(f"Train    sh script/mmpareto.sh --dataset {name if out == home else quote(str(out))}")


def check_used(flags: Namespace, parser: Parser, kinds: set[str]) -> None:
    """Raise UserError for a flag about kinds of modality that the set does not have."""
    takers = {"tokenizer": ["text"], "text_length": ["text"]}
    for kind, family in RECIPE_OF.items():
        takers.setdefault(family, []).append(kind)
    for name, able in takers.items():
        value = getattr(flags, name, None)
        if value != parser.get_default(name) and not kinds & set(able):
            raise UserError(
                f"--{name} {value}: it acts on {able[0]}, and no modality here is of "
                f"that kind: drop --{name}, or name the kind in the table, as in NAME:{able[0]}"
            )


if __name__ == "__main__":
    entry.run(main)
