"""Damaged runs and comparisons, which --resume, evaluate.py, compare.py, analyze.py, claim read.

Each ends in one clear line, or in what can still be said.
"""

from mmpareto.system import tensors

import shutil
from copy import deepcopy

import torch
from damage import FLAGS, attack, damaged, fields_of, refused, tables
from hypothesis import strategies as st
from test_claim import toy_part  # noqa: F401 - a fixture

import analyze
import compare
import evaluate
import train
from claim import run as claim


def collecting(work, *words):
    return ["--collect", "--out", str(work), *FLAGS, *words]


def resuming(run, method, *words):
    return ["--method", method, *FLAGS, "--out", str(run), "--resume", *words]


def checkpoints(fixture, work):
    shutil.copytree(fixture("compared") / "uniform-s0", work)
    (work / "result.json").unlink()
    path = work / "last.pt"
    state = tensors.read(path)

    def damage(draw, path):
        """Bytes or fields changed, tensors among them."""
        changed, how = deepcopy(state), draw(st.sampled_from(["bytes"] * 3 + ["fields"] * 2 + [""]))
        if how == "bytes":
            return damaged(draw, path)
        if how == "fields":
            return torch.save(fields_of(draw, changed, changes=1), path)
        place = changed[draw(st.sampled_from(["model", "optimizer", "rng"]))]
        while isinstance(place, dict | list) and place:
            parent, keys = place, list(place) if isinstance(place, dict) else range(len(place))
            key = draw(st.sampled_from(list(keys)))
            place = place[key]
        if isinstance(place, torch.Tensor):
            parent[key] = draw(st.sampled_from([
                place.flatten()[:0], place.double(), place[None], torch.zeros(()), place.bool(),
                place.flatten()[:1], place.expand(2, *place.shape), place.to_sparse(), 3, None, "x",
            ]))  # fmt: skip
        torch.save(changed, path)

    again = resuming(work, "uniform", "--epochs", "3")
    return [path], lambda _: [
        refused(evaluate.main, [str(path), "--limit_batches", "1"]), refused(train.main, again),
    ], damage  # fmt: skip


def files_of_a_run(fixture, work):
    """compare.py makes its table of them, and --resume goes by them."""
    shutil.copytree(fixture("compared"), work)
    run = work / "uniform-s0"
    collect = collecting(work, "--methods", "uniform", "--seeds", "0")

    def use(path):
        lines = [refused(compare.main, collect)]
        if path.name != "epochs.jsonl":
            lines.append(refused(train.main, resuming(run, "uniform")))
        return lines

    return [run / name for name in ("config.json", "result.json", "epochs.jsonl")], use


def page_of_a_run(fixture, work):
    shutil.copytree(fixture("compared") / "mmpareto-s0", work)
    names = ["steps.jsonl", "steps.jsonl", "epochs.jsonl", "config.json", "result.json"]
    paths = [work / name for name in names]
    return paths, lambda _: [refused(analyze.main, [str(work), "--logs_only"])]


def page_of_a_comparison(fixture, work):
    """compare.py writes comparison.json and runs.csv anew, analyze.py believes them."""
    shutil.copytree(fixture("compared"), work)
    compare.main(collecting(work, "--methods", "mmpareto,uniform", "--seeds", "0,1"))
    names = ["comparison.json", "comparison.json", "runs.csv", "mmpareto-s0/steps.jsonl",
             "uniform-s1/epochs.jsonl", "uniform-s0/config.json"]  # fmt: skip
    paths = [work / name for name in names]
    return paths, lambda _: [refused(analyze.main, [str(work), "--logs_only"])]


def table_of_tuned_runs(fixture, work):
    shutil.copytree(fixture("compared"), work)
    run = work / "mmpareto-learning_rate=0.01-s0"
    (work / "mmpareto-s0").rename(run)
    tune = ["--methods", "mmpareto", "--seeds", "0", "--tune", "learning_rate=0.01"]
    names = ["epochs.jsonl", "epochs.jsonl", "config.json", "result.json"]
    paths = [run / name for name in names]
    return paths, lambda _: [refused(compare.main, collecting(work, *tune))]


def resumed_run(fixture, work):
    shutil.copytree(fixture("compared") / "mmpareto-s0", work)
    (work / "result.json").unlink()

    def use(_):
        lines = [refused(train.main, resuming(work, "mmpareto", "--epochs", "3"))]
        if lines == [None]:
            lines.append(refused(analyze.main, [str(work), "--logs_only"]))
        return lines

    return [work / n for n in ("steps.jsonl", "epochs.jsonl", "config.json", "train.log")], use


def tables_of_the_claim(fixture, work):
    fixture("calls"), fixture("toy_part")
    claim.main(["--out", str(work)])
    run = min((work / "base").glob("mmpareto*-s0"))
    names = ["steps.jsonl", "steps.jsonl", "epochs.jsonl", "config.json", "result.json"]
    paths = [run / name for name in names]
    return paths, lambda _: [refused(claim.main, ["--out", str(work), "--collect"])]


@tables(
    (checkpoints, 12, 200),
    (files_of_a_run, 15, 300),
    (page_of_a_run, 8, 300),
    (page_of_a_comparison, 8, 300),
    (table_of_tuned_runs, 8, 300),
    (resumed_run, 10, 200),
    (tables_of_the_claim, 6, 300),
)
def test_damaged_runs(case, examples, request, tmp_path, quick_figures, capsys):
    attack(examples, tmp_path / "work", *case(request.getfixturevalue, tmp_path / "work"))
