"""Damaged logs, results and comparisons: --resume, compare.py, analyze.py and the claim read them.

Each ends in one clear line, or in what can still be said.
"""

import shutil

import matplotlib
import pytest
from hypothesis import strategies as st
from mutations import bytes_of, json_of, lines_of, table_of
from test_bad_data import attack, attack_files, refused, sizes
from test_claim import toy_part  # noqa: F401 - a fixture
from test_compare import calls  # noqa: F401 - a fixture

import analyze
import compare
import train
from claim import run as claim
from mmpareto.results import figures
from mmpareto.results.analysis import sections

FLAGS = ["--dataset", "cgdigits", "--encoder", "cnn", "--batch_size", "16", "--limit_batches", "2",
         "--epochs", "2", "--train_size", "40"]  # fmt: skip
METHODS = ["--methods", "mmpareto,uniform", "--seeds", "0,1"]


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """Four runs of three epochs, as small as it gets, and their table."""
    folder = tmp_path_factory.mktemp("logs") / "compared"
    for method in ("mmpareto", "uniform"):
        for seed in "01":
            train.main(["--method", method, *FLAGS, "--random_seed", seed,
                        "--out", str(folder / f"{method}-s{seed}")])  # fmt: skip
    return folder


@pytest.fixture
def copy(compared, tmp_path, monkeypatch, capsys):
    """Figures are drawn, but not written: that takes the time."""

    def write_quickly(paths, draw, *arguments):
        with matplotlib.rc_context(figures.STYLE):
            draw(*arguments)
        for path in paths:
            path.write_text("<svg/>")

    monkeypatch.setattr(figures, "write", write_quickly)
    monkeypatch.setattr(sections, "FORMS", ("svg",))
    shutil.copytree(compared, tmp_path / "compared")
    return tmp_path / "compared"


def damaged(draw, path):
    content = path.read_bytes()
    whole = {".jsonl": lines_of, ".json": json_of, ".csv": table_of}[path.suffix]
    damage = draw(st.sampled_from([whole, whole, whole, None]))
    return damage(draw, content.decode()) if damage else bytes_of(draw, content)


def attacked(examples, paths, *use):
    """Damage one of the files, use all of them, and put it back; so many times."""
    use[0](*use[1:])
    attack_files(examples, paths, damaged, lambda path: refused(*use))


@sizes(8, 300)
def test_page_of_a_run(copy, examples):
    run = copy / "mmpareto-s0"
    names = ["steps.jsonl", "steps.jsonl", "epochs.jsonl", "config.json", "result.json"]
    attacked(examples, [run / name for name in names], analyze.main, [str(run), "--logs_only"])


@sizes(8, 300)
def test_page_of_a_comparison(copy, examples):
    """compare.py writes comparison.json and runs.csv anew, analyze.py believes them."""
    collect = [*METHODS, "--collect", "--out", str(copy), *FLAGS]
    compare.main(collect)
    names = ["comparison.json", "comparison.json", "runs.csv", "mmpareto-s0/steps.jsonl",
             "uniform-s1/epochs.jsonl", "uniform-s0/config.json"]  # fmt: skip
    attacked(
        examples, [copy / name for name in names], analyze.main, [str(copy), "--logs_only"],
    )  # fmt: skip


@sizes(8, 300)
def test_table(copy, examples):
    """As test_bad_data.py has it for one run; here a table of several, with --tune."""
    (copy / "mmpareto-s0").rename(copy / "mmpareto-learning_rate=0.01-s0")
    tune = ["--methods", "mmpareto", "--seeds", "0", "--tune", "learning_rate=0.01"]
    collect = [*tune, "--collect", "--out", str(copy), *FLAGS]
    compare.main(collect)
    run = copy / "mmpareto-learning_rate=0.01-s0"
    names = ["epochs.jsonl", "epochs.jsonl", "config.json", "result.json"]
    attacked(examples, [run / name for name in names], compare.main, collect)


@sizes(10, 200)
def test_resuming(copy, examples):
    run = copy / "mmpareto-s0"
    (run / "result.json").unlink()
    whole = {path.name: path.read_bytes() for path in run.iterdir()}
    again = ["--method", "mmpareto", *FLAGS, "--epochs", "3", "--out", str(run), "--resume"]

    def check(draw):
        path = run / draw(
            st.sampled_from(["steps.jsonl", "epochs.jsonl", "config.json", "train.log"])
        )
        damage = (
            damaged if path.suffix != ".log" else lambda draw, p: bytes_of(draw, p.read_bytes())
        )
        path.write_bytes(damage(draw, path))
        try:
            if refused(train.main, again) is None:
                refused(analyze.main, [str(run), "--logs_only"])
        finally:
            shutil.rmtree(run / "analysis", ignore_errors=True)
            (run / "result.json").unlink(missing_ok=True)
            for name, content in whole.items():
                (run / name).write_bytes(content)

    attack(examples, check)


@sizes(6, 300)
def test_claim(tmp_path, calls, toy_part, examples, monkeypatch, capsys):  # noqa: F811
    monkeypatch.setattr(figures, "write", lambda *arguments: None)
    claim.main(["--out", str(tmp_path)])
    names = ["steps.jsonl", "steps.jsonl", "epochs.jsonl", "config.json", "result.json"]
    runs = sorted((tmp_path / "base").glob("mmpareto*-s0"))
    assert runs
    collect = ["--out", str(tmp_path), "--collect"]
    attacked(examples, [runs[0] / name for name in names], claim.main, collect)
