"""Every page is true: its commands run as written, its links work, its lists of flags are whole.

A page's `sh` blocks are run in order, in one folder, with this process's modules. DIR stands for
small raw files of the set, and long work is cut short by flags that follow the page's own.
"""

import importlib
import re
import shlex
import subprocess
import sys
from contextlib import redirect_stdout
from glob import glob
from itertools import chain
from pathlib import Path

import field
import flags_page
import pytest
from sets import SMALL, write_films, write_folder, write_food101, write_recordings
from test_data import write_mnist
from toys import TOYS

import analyze
import compare
import evaluate
import prepare
from mmpareto.benchmarks import synthetic
from mmpareto.datasets import DATASETS
from mmpareto.datasets.kinetics_sounds import CLASSES as SOUNDS
from mmpareto.datasets.modelnet40 import CLASSES as OBJECTS
from mmpareto.run import options, parsers

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md",
         ROOT / "data/README.md",
         *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("data/*/README.md"))]  # fmt: skip
# What other tests run whole, with more asserted.
ELSEWHERE = (
    "script/setup.sh", "script/test.sh", "script/figure1.sh", "script/distributed.sh",
    "script/field.sh", "benchmark.py training", "benchmark.py step", "benchmark.py methods",
    "analyze.py runs/look runs/sum", "--method half",
)  # fmt: skip
QUICK = {
    "train": "--limit_batches 2 --workers 0",
    "compare": "--limit_batches 2 --seeds 0",
    "analyze": "--limit_batches 2",
    "evaluate": "--limit_batches 2",
    "benchmark": "--seconds 0.01 --steps 1",
    "claim.run": "--parts tasks --print_commands",
    "agreement": "-- --limit_batches 2 --encoder cnn --epochs 1",
}  # fmt: skip
# What the names of sets begin with whose raw files are made small here.
PREPARED = "cremad|kinetics|ave|vggsound|food101|modelnet|mosi|mosei|ucf101|mine|folder"


def text_of(page):
    return page.read_text(encoding="utf-8")


def without_blocks(page):
    return re.sub(r"^```.*?^```$", "", text_of(page), flags=re.MULTILINE | re.DOTALL)


def anchors(page):
    """Return the anchors of the page's headings, by GitHub's rule."""
    headings = re.findall(r"^#+ (.*)$", without_blocks(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(page):
    """Return the commands of the page's sh blocks, one a line, without comments."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", text_of(page), re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", "").splitlines()
    return [command for line in lines if (command := line.split(" #")[0].strip())]


def name_of(page):
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links(page):
    """Links lead to files that exist, and to headings that they have."""
    for target in re.findall(r"\]\(([^)]+)\)", without_blocks(page)):
        if not target.startswith("https://"):
            path, _, anchor = target.partition("#")
            file = (page.parent / path) if path else page
            assert file.exists(), target
            assert not anchor or anchor in anchors(file), target


def test_the_index_has_every_page():
    links = set(re.findall(r"\]\(([^)#]+)\)", text_of(ROOT / "docs/README.md")))
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert {*pages, "results/README.md"} == links


def test_no_page_is_long():
    """The changelog grows; flags.md is generated."""
    lines = {name_of(page): len(text_of(page).splitlines()) for page in PAGES}
    assert lines.pop("README.md") <= 200
    assert {name for name, n in lines.items() if n > 150} <= {"CHANGELOG.md", "docs/flags.md"}


def test_no_paragraph_stands_twice():
    """No paragraph of 12 words or more stands twice, on one page or on two."""
    seen = {}
    for page in PAGES:
        text = re.sub(r"^\|.*$", "", without_blocks(page), flags=re.MULTILINE)
        for paragraph in re.split(r"\n\s*\n|\n- ", text):
            words = " ".join(paragraph.split())
            if len(words.split()) >= 12:
                assert words not in seen, (words, name_of(page), seen[words])
                seen[words] = name_of(page)


@pytest.mark.parametrize(
    ("page", "heading", "command"),
    [
        ("comparing", "# Comparing methods", compare),
        ("evaluating", "## Flags of code/evaluate.py", evaluate),
        ("analyzing", "## Flags of code/analyze.py", analyze),
    ],
)
def test_every_flag_is_listed(page, heading, command):
    """Every listed flag exists, too."""
    section = text_of(ROOT / f"docs/{page}.md").split(heading)[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `--")]
    known = set(re.findall(r"--\w+", command.parser().format_help())) - {"--help", "--ckpt_path"}
    assert {flag for row in rows for flag in re.findall(r"--\w+", row)} == known


def test_every_dataset_has_its_row():
    rows = re.findall(r"^\| \[(\w+)\]\(\1/README.md\) ", text_of(ROOT / "data/README.md"), re.M)
    assert sorted(rows) == sorted(DATASETS.parts.keys() - TOYS.keys())


def test_flags_of_train(monkeypatch):
    """docs/flags.md is what its generator writes today."""
    shipped = {name: part for name, part in DATASETS.parts.items() if name not in TOYS}
    monkeypatch.setattr(DATASETS, "parts", shipped)
    assert text_of(flags_page.PAGE) == flags_page.page(parsers)


def raw_files(dataset, root):
    """Make the raw files that DIR stands for, and the lists that LISTS stands for."""
    raw = root / f"raw-{dataset}"
    if raw.exists():
        return raw
    if dataset == "cremad":
        synthetic.write_cremad(raw, 60, size=SMALL)
    elif dataset == "folder":
        write_folder(raw, 12)
    elif dataset in ("ave", "vggsound"):
        write_films(raw, dataset)
    elif dataset in ("mosi", "mosei"):
        field.write_sentiment(raw / "it.pkl", field.sentiment()[0])
    elif dataset == "ucf101":
        field.write_ucf(raw)
    elif dataset == "food101":
        write_food101(raw, 48)
    elif dataset == "modelnet40":
        synthetic.write_modelnet(raw, OBJECTS[::20], {"train": 12, "test": 4})
    elif dataset == "kinetics_sounds":
        ids = synthetic.kinetics_ids(24)
        synthetic.write_kinetics(raw, ids, seconds=2.0)
        lists = root / "lists"
        lists.mkdir()
        lines = [f"{id},10,{SOUNDS.index(label)}\r\n" for id, label in ids.items()]
        (lists / "my_train.txt").write_text("".join(lines[:16]))
        (lists / "my_test.txt").write_text("".join(lines[16:]))
    else:
        write_mnist(raw)
    if dataset == "avmnist_clean":
        write_recordings(raw)
    return raw


def programs(command, root):
    """Return (module, arguments) of a command; a script is run with a PYTHON that prints them."""
    words = [word for word in shlex.split(command) if not re.match(r"[A-Z_]+=", word)]
    if words[0] == "sh":
        teller = root / "teller"
        teller.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
        teller.chmod(0o755)
        words = ["sh", str(ROOT / words[1]), *words[2:]]
        told = subprocess.run(words, capture_output=True, text=True, check=True, cwd=root,
                              env={"PYTHON": str(teller), "PATH": "/usr/bin:/bin"})  # fmt: skip
        words = ["python", *told.stdout.splitlines()]
    assert words[0] == "python", command
    parts = Path(words[1]).with_suffix("").parts
    top = max(i for i, part in enumerate(parts) if part in ("code", "studies"))
    arguments = [sorted(glob(word)) if "?" in word else [word] for word in words[2:]]
    return ".".join(parts[top + 1 :]), list(chain(*arguments))


def quick(module, arguments):
    """Add flags that make the work short and do not change what the page says."""
    more = QUICK.get(module, "").split()
    if arguments[:1] == ["scaling"]:
        more += ["--modalities", "1", "--millions", "1"]
    if module in ("train", "compare"):
        has = " ".join(arguments)
        more += [] if "--epochs" in has and module == "train" else ["--epochs", "1"]
        if re.search(rf"--dataset (\S*/)?({PREPARED})", has):
            more += ["--batch_size", "4", "--image_size", "32"]
        elif not re.search(r"--encoder|bottleneck|multi|--resume", has):
            more += ["--encoder", "cnn"]
    return [*arguments, *more]


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if commands(p)], ids=name_of)
def test_commands_run_as_written(page, tmp_path, monkeypatch, calls):
    monkeypatch.chdir(tmp_path)
    for module in (prepare, options):  # sets that a page puts into data/
        monkeypatch.setattr(module, "REPOSITORY", tmp_path)
    for command in commands(page):
        if any(word in command for word in ELSEWHERE):
            continue
        if "DIR" in command.split():
            found = re.search(r"prepare_(\w+)\.sh|--dataset (\w+)", command)
            raw = raw_files(found.group(found.lastindex) if found else "cgmnist", tmp_path)
            command = command.replace("DIR", str(raw)).replace("LISTS", str(tmp_path / "lists"))
        if command.startswith("xargs") or "torch.distributed.run" in command:
            command = command.replace("python", sys.executable).replace("code/", f"{ROOT}/code/")
            command += "" if "xargs" in command else f" {QUICK['benchmark']} --modalities 1"
            subprocess.run(command, shell=True, check=True, capture_output=True)
            continue
        command, _, file = command.partition(" > ")
        module, arguments = programs(command, tmp_path)
        run = importlib.import_module(module).main
        with open(file or "/dev/null", "a") as output, redirect_stdout(output):
            run(quick(module, arguments))
