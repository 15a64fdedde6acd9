"""One training step calls few files, and changes between them only a few times."""

import sys
from argparse import Namespace
from itertools import groupby
from pathlib import Path

from mmpareto.run import options
from train import Trainer

CODE = Path(__file__).resolve().parents[2] / "code"


def test_a_step_stays_in_few_files(tmp_path):
    """The step is MMPareto's on cgdigits; comprehensions do not count as calls."""
    words = ["--encoder", "cnn", "--limit_batches", "2", "--out", str(tmp_path / "run")]
    flags = options.parse(words)
    trainer = Trainer(flags, Namespace(state=None))
    trainer.train_epoch()  # the first step of all verifies what it is given
    calls = []

    def note(frame, event, _):
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(CODE) and frame.f_code.co_name[0] != "<":
            calls.append((path.relative_to(CODE).as_posix(), frame.f_code.co_name))

    sys.setprofile(note)
    trainer.train_epoch()
    sys.setprofile(None)
    arrivals = [place for place, (_, name) in enumerate(calls) if name == "to"]
    assert len(arrivals) == 2
    step = calls[arrivals[0] : arrivals[1]]
    step = step[: [name for _, name in step].index("__iter__")]  # the loader is asked for another
    visits = [file for file, _ in groupby(file for file, _ in step)]
    assert visits[0] == "mmpareto/data/samples.py" and "mmpareto/core/integrate.py" in visits
    assert len(set(visits)) <= 8, sorted(set(visits))
    assert len(visits) - 1 <= 15, visits
