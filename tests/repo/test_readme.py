"""The README and the pages beside it, where running their commands is not enough."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import ranks
from run_files import assert_same_run, read

import train
from mmpareto.methods import METHODS

ROOT = Path(__file__).resolve().parents[2]
README, METHOD, PARTS, EVALUATING = (
    (ROOT / name).read_text(encoding="utf-8")
    for name in (
        "README.md", "docs/extending.md", "docs/extending_parts.md", "docs/evaluating.md"
    )
)  # fmt: skip
RECIPES = README + METHOD + PARTS


def blocks(language, text):
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def run(*words, cwd, **environment):
    done = subprocess.run(
        list(map(str, words)), cwd=cwd, capture_output=True, text=True,
        env={**os.environ, "PYTHON": sys.executable, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_words_of_the_rows_are_explained():
    glossary = README.split("## What it prints")[1].split("\n## ")[0]
    sample, table = glossary.split("| word | meaning |")
    printed = "\n".join(line for line in sample.splitlines() if line.startswith(("Epoch", "Res")))
    words = set(re.findall(r"  ([A-Za-z_]+(?: Acc)?) [\d(]", printed))
    assert {"Loss", "Best Acc", "conflict", "Acc_gray"} <= words
    for word in words - {"val Acc"}:
        assert re.search(rf"^\| .*\b{word}", table, re.MULTILINE), word


def example():
    return next(block for block in blocks("python", README) if "MMPareto(" in block)


def test_library_example(capsys):
    exec(example(), {})
    said = capsys.readouterr().out
    assert float(re.search(r"accuracy (\S+)", said)[1]) > 0.7  # chance is 0.25
    assert said.count("conflict") == 3


def test_a_method_with_state(tmp_path, monkeypatch):
    """The page's method keeps the means that it speaks of, and a resumed run has the same bits."""
    monkeypatch.setattr(METHODS, "parts", METHODS.parts | ranks.recipes())

    def balanced(name, epochs, *more):
        flags = "--method balanced --dataset toy --accumulate 2 --limit_batches 4"
        words = [*flags.split(), "--encoder", "cnn", "--epochs", str(epochs), *more]
        train.main([*words, "--out", str(tmp_path / name)])
        return tmp_path / name

    whole = balanced("whole", 2)
    balanced("broken", 1)
    assert_same_run(whole, balanced("broken", 2, "--resume"))
    means = dict.fromkeys(["joint", "a", "b"], 1.0)
    for step in read(whole / "steps.jsonl"):
        losses = step["losses"]
        means = {name: mean + 0.1 * (losses[name] - mean) for name, mean in means.items()}
        assert step["measures"] == pytest.approx({f"mean_{k}": m for k, m in means.items()})


@pytest.mark.slow
def test_library_example_after_pip_install(tmp_path):
    """It runs in another folder; dependencies come from this environment, without a network."""
    source, site = tmp_path / "source", tmp_path / "site"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".venv", ".git", "runs"))
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index",
        "--target", site, source, cwd=tmp_path)  # fmt: skip
    run(sys.executable, "-W", "error", "-c", example(), cwd=tmp_path, PYTHONPATH=site)


@pytest.mark.slow
def test_the_main_command(tmp_path):
    said = run("sh", ROOT / "script/mmpareto.sh", "--epochs", 2, cwd=tmp_path)
    assert float(re.search(r"Result \(best-val, .*\): test Acc (\S+)", said)[1]) > 0.3


@pytest.mark.slow
def test_distributed(tmp_path):
    quick = ["--limit_batches", "2", "--encoder", "cnn"]
    assert "test Acc" in run("sh", ROOT / "script/distributed.sh", *quick, cwd=tmp_path,
                             PROCESSES="2")  # fmt: skip


@pytest.mark.slow
def test_evaluating(tmp_path):
    """The page shows what the commands print, apart from the numbers."""
    for command in blocks("sh", EVALUATING)[0].splitlines():
        said = run(sys.executable, ROOT / command.split()[1], *command.split()[2:], cwd=tmp_path)
    without_numbers = [
        re.sub(r"epoch \d|identity \w+|\b[01]\.\d{4}", "", text).splitlines()
        for text in (blocks("text", EVALUATING)[0], said)
    ]
    assert without_numbers[0] == without_numbers[1]


@pytest.mark.slow
def test_adding_your_own(tmp_path):
    """The test puts all five recipes into a copy, then runs the command that uses four of them."""
    shutil.copytree(ROOT / "code", tmp_path / "code")
    for block in blocks("python", RECIPES):
        if match := re.match(r"# (code/\S+)\n", block):
            (tmp_path / match[1]).write_text(block)
    line = r"`(code/mmpareto/[\w/]+/__init__\.py)`:\s*`(\"\w+\": \"\w+:\w+\",)`"
    lines = re.findall(line, RECIPES)
    assert len(lines) == 5
    for path, line in lines:
        text = (tmp_path / path).read_text()
        start = "    __name__,\n    {\n"
        assert text.count(start) == 1
        (tmp_path / path).write_text(text.replace(start, f"{start}        {line}\n"))
    command = blocks("sh", PARTS)[0].split()[1:]
    said = run(sys.executable, *command, "--unimodal_weight", "0.3", cwd=tmp_path)
    assert float(re.search(r"Result \(last\): test Acc (\S+)", said)[1]) > 0.5
