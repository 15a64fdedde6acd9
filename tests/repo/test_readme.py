"""The README is true: its commands and code run as written, its links lead somewhere."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sets import SMALL, write_folder

import analyze
import compare
import evaluate
import train
from mmpareto.benchmarks import synthetic

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands():
    return [line for block in blocks("sh") for line in block.splitlines() if line]


PAGES = [ROOT / "README.md", *ROOT.glob("data/*/README.md"), *ROOT.glob("docs/**/*.md")]


def without_blocks(page):
    return re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page):
    """What a link to one of the page's headings ends with, by GitHub's rule."""
    headings = re.findall(r"^#+ (.*)$", without_blocks(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links(page):
    """To files that are there, and to headings that they have."""
    for target in re.findall(r"\]\(([^)]+)\)", without_blocks(page)):
        if not target.startswith("https://"):
            path, _, anchor = target.partition("#")
            file = (page.parent / path) if path else page
            assert file.exists(), target
            assert not anchor or anchor in anchors(file), target


def test_scripts_bring_the_solvers_of_their_methods():
    """requirements.txt has none."""
    texts = {path.name: path.read_text("utf-8") for path in ROOT.glob("script/*.sh")}
    needy = {
        name for name, text in texts.items() if re.search(r"--methods .*(cagrad|upgrad)", text)
    }
    assert "multitask.sh" in needy
    for name in needy:
        assert "more_requirements=script/solvers.txt" in texts[name], name


def test_nothing_is_left_to_fill_in():
    assert not re.findall(r"^[A-Z]{5,}$|: TIMING|TESTTIME|torch VERSIONS", README, re.MULTILINE)


def test_every_flag_is_listed():
    """And every flag that is listed exists."""
    table = README.split("### Flags of code/train.py")[1].split("\n##")[0]
    rows = [line for line in table.splitlines() if line.startswith("| `--")]
    listed = {flag for row in rows for flag in re.findall(r"--\w+", row.split("|")[1])}
    help = train.options._parser().format_help()
    known = set(re.findall(r"^  .*?(--\w+)", help, re.MULTILINE)) | {"--ckpt_path"}
    assert listed == known - {"--help"}


def test_flags_of_compare_are_listed():
    table = README.split("### Comparing")[1].split("\n##")[0]
    listed = set(re.findall(r"--\w+", table))
    known = set(re.findall(r"--\w+", compare.parser().format_help()))
    assert known - {"--help", "--methods", "--seeds", "--ckpt_path"} <= listed <= known


def test_flags_of_evaluate_are_listed():
    table = README.split("| flags of `code/evaluate.py`")[1].split("\n\n")[0]
    listed = set(re.findall(r"--\w+", table))
    assert listed == set(re.findall(r"--\w+", evaluate.parser().format_help())) - {"--help"}


@pytest.mark.slow
def test_evaluating(tmp_path):
    """The section's commands as written; all but the numbers of what it shows."""
    commands, shown = re.findall(
        r"^```text\n(.*?)^```$", README.split("### Evaluating")[1], re.MULTILINE | re.DOTALL
    )[:2]
    for command in commands.splitlines():
        words = [sys.executable, ROOT / command.split()[1], *command.split()[2:]]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    without_numbers = [
        re.sub(r"epoch \d|\b[01]\.\d{4}", "", text).splitlines() for text in (shown, done.stdout)
    ]
    assert without_numbers[0] == without_numbers[1]


def test_flags_of_analyze_are_listed():
    table = README.split("### Looking into runs")[1].split("\n##")[0].split("| flags of")[1]
    known = set(re.findall(r"--\w+", analyze.parser().format_help())) - {"--help"}
    assert set(re.findall(r"--\w+", table)) == known


def test_words_of_the_rows_are_explained():
    glossary = README.split("## What it prints")[1].split("\n## ")[0]
    sample, table = glossary.split("| word | meaning |")
    printed = "\n".join(line for line in sample.splitlines() if line.startswith(("Epoch", "Res")))
    words = set(re.findall(r"  ([A-Za-z_]+(?: Acc)?) [\d(]", printed))
    assert {"Loss", "Best Acc", "conflict", "Acc_gray"} <= words
    for word in words - {"val Acc"}:
        assert re.search(rf"^\| .*\b{word}", table, re.MULTILINE), word


def example():
    return next(block for block in blocks("python") if "class Model" in block)


def test_library_example():
    done = run_python(example(), PYTHONPATH=str(ROOT / "code"))
    accuracy = float(re.search(r"accuracy (\S+)", done.stdout)[1])
    assert accuracy > 0.7  # chance is 0.25
    assert done.stdout.count("conflict") == 3


def run_python(code, cwd="/", **environment):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=cwd, capture_output=True, text=True,
        env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
def test_library_example_after_pip_install(tmp_path):
    """In another folder; dependencies come from this environment, so no network is needed."""
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".venv", ".git", "runs"))
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index",
         "--target", str(tmp_path / "site"), str(source)],
        check=True, capture_output=True,
    )  # fmt: skip
    run_python(example(), cwd=tmp_path, PYTHONPATH=str(tmp_path / "site"))


@pytest.mark.slow
def test_adding_your_own(tmp_path):
    """All four recipes in a copy, then the command that uses them."""
    shutil.copytree(ROOT / "code", tmp_path / "code", ignore=shutil.ignore_patterns("script"))
    for block in blocks("python"):
        if match := re.match(r"# (code/\S+)\n", block):
            (tmp_path / match[1]).write_text(block)
    lines = re.findall(
        r"`(code/mmpareto/[\w/]+/__init__\.py)`:\s*`(\"\w+\": \"\w+:\w+\",)`", README
    )
    assert len(lines) == 4
    for path, line in lines:
        text = (tmp_path / path).read_text()
        start = "    __name__,\n    {\n"
        assert text.count(start) == 1
        (tmp_path / path).write_text(text.replace(start, f"{start}        {line}\n"))
    command = re.search(r"Then `python (code/train\.py [^`]*)`", README)[1].split()
    done = subprocess.run(
        [sys.executable, *command, "--unimodal_weight", "0.3"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    accuracy = float(re.search(r"Result \(last\): test Acc (\S+)", done.stdout)[1])
    assert accuracy > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("command", [c for c in commands() if "test.sh" not in c])
def test_commands_run_as_written(command, tmp_path):
    """In a copy, with this environment; all but the first with fewer batches and seeds."""
    clone = tmp_path / "clone"
    shutil.copytree(ROOT, clone, symlinks=True,
                    ignore=shutil.ignore_patterns(".venv", ".git", "runs"))  # fmt: skip
    quick = "" if command == "sh script/mmpareto.sh" else " --limit_batches 2 --encoder cnn"
    compares = any(name in command for name in ("compare", "multitask", "figure1"))
    quick += " --seeds 0" if compares else ""
    done = subprocess.run(
        command + quick, shell=True, cwd=clone, capture_output=True, text=True,
        env={**os.environ, "PYTHON": sys.executable},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "est Acc" in done.stdout or "Test accuracy" in done.stdout


@pytest.mark.slow
def test_from_raw_files_in_two_commands(tmp_path):
    """The lines that prepare a set and train on it, in a copy, with raw files in place of DIR."""
    clone = tmp_path / "clone"
    shutil.copytree(ROOT, clone, symlinks=True,
                    ignore=shutil.ignore_patterns(".venv", ".git", "runs"))  # fmt: skip
    synthetic.write_cremad(tmp_path / "cremad", 60, size=SMALL)
    write_folder(tmp_path / "folder", 12)
    block = next(block for block in blocks("text") if "sh script/prepare_cremad.sh" in block)
    lines = [line.split("#")[0].strip() for line in block.splitlines() if line]
    assert [line.split()[1] for line in lines] == [
        "script/prepare_cremad.sh", "script/mmpareto.sh",
        "script/prepare_folder.sh", "script/mmpareto.sh",
    ]  # fmt: skip
    quick = " --encoder cnn --epochs 1 --limit_batches 1 --batch_size 4"
    for line in lines:
        dataset = "cremad" if "cremad" in line else "folder"
        command = line.replace("DIR", str(tmp_path / dataset)) if "DIR" in line else line + quick
        command = (
            command.replace("--encoder cnn", "--encoder film=cnn voice=cnn")
            if (dataset == "folder")
            else command
        )
        done = subprocess.run(
            command, shell=True, cwd=clone, capture_output=True, text=True,
            env={**os.environ, "PYTHON": sys.executable},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "OK       tables" in done.stdout or "Result (last): test Acc" in done.stdout
