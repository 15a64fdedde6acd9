"""analyze.py: what it counts, what it leaves alone, its pictures, and a page of plain text."""

import csv
import json
import re
import shutil
import statistics
import subprocess
import tempfile
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import toys
from test_compare import compared

import analyze
import train
from mmpareto.datasets import DATASETS
from mmpareto.results.analysis import logs, page, panels, sections
from mmpareto.results.analysis.logs import Step
from mmpareto.system.errors import UserError

HOSTILE = ["<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "&lt;b&gt;", "$\\frac{"]


def analyzed(*words):
    analyze.main([str(word) for word in words])


def rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def run(tmp_path, once):
    def main(*flags, name="run", dataset="toy", method="uniform"):
        train.main(["--dataset", dataset, "--encoder", "cnn", "--method", method,
                    "--out", str(tmp_path / name), *flags])  # fmt: skip
        return tmp_path / name

    return main


class TestLogs:
    def steps(self, *conflicts, per_epoch=2):
        stats = [SimpleNamespace(conflict=c, cos=-0.5 if c else 0.5) for c in conflicts]
        return [Step(i + 1, i // per_epoch + 1, s) for i, s in enumerate(stats)]

    def test_windows(self):
        first, second = logs.windows(self.steps(True, False, False, False, True), 4)
        assert first == {"first": 1, "last": 4, "steps": 4, "conflict": 0.25, "cos": 0.25}
        assert second == {"first": 5, "last": 5, "steps": 1, "conflict": 1, "cos": -0.5}

    def test_epochs_and_groups_of_them(self):
        steps = self.steps(True, True, False, False, True)
        assert [row["conflict"] for row in logs.by_epoch(steps, 3)] == [1, 0, 1]
        pairs = [(row["first"], row["last"], row["conflict"]) for row in logs.by_epoch(steps, 2)]
        assert pairs == [(1, 2, 0.5), (3, 3, 1)]

    def test_steps_of_an_epoch_that_did_not_end_do_not_count(self, run):
        folder = run("--observe")
        whole = logs.read(folder)
        lines = (folder / "epochs.jsonl").read_text().splitlines()
        (folder / "epochs.jsonl").write_text(lines[0] + "\n")
        (folder / "result.json").unlink()
        assert len(logs.read(folder).steps) == len(whole.steps) / 2
        assert logs.read(folder).checkpoint.name == "last.pt"

    def test_every_window_is_drawn_at_its_height(self, run):
        """On one scale for all encoders, whichever has the most conflicts."""
        read = logs.read(run("--observe"))
        for number, step in enumerate(read.steps, start=1):
            for name, until in (("a", 1), ("b", 5)):
                step.encoders[name] = replace(step.encoders[name], conflict=number <= until)
        figure = panels.cosines(read, 6)
        for panel, share in zip(figure.axes[2:], (100 / 6, 500 / 6), strict=True):
            assert [bar.get_height() for bar in panel.patches] == pytest.approx([share, 0])
            low, high = panel.get_ylim()
            assert low == 0 and high > 500 / 6
        for panel, count in zip(figure.axes[:2], (1, 5), strict=True):
            plain, conflicts = panel.collections
            assert len(conflicts.get_offsets()) == count
            assert len(plain.get_offsets()) == 12 - count

    def test_skipped_steps_are_no_points(self, run):
        read = logs.read(run("--observe"))
        read.steps[1] = replace(read.steps[1], skipped=True)
        assert [step.number for step in logs.trace(read, "a")][:3] == [1, 3, 4]

    def test_damaged(self, run, tmp_path):
        folder = run("--observe")
        (folder / "steps.jsonl").write_text("{")
        with pytest.raises(UserError, match=r"steps\.jsonl: is damaged"):
            analyzed(folder)
        (folder / "epochs.jsonl").write_text("")
        (folder / "steps.jsonl").write_text("")
        with pytest.raises(UserError, match="no epoch is finished yet"):
            analyzed(folder)
        with pytest.raises(UserError, match=r"neither a run's folder .* nor a comparison's"):
            analyzed(tmp_path)


class TestRun:
    def test_everything(self, run, capsys):
        folder = run("--observe")
        before = {p.name: p.read_bytes() for p in folder.iterdir()}
        capsys.readouterr()
        analyzed(folder, "--window", "4")
        out = folder / "analysis"
        assert {p.name: p.read_bytes() for p in folder.iterdir() if p != out} == before
        assert {p.stem for p in out.glob("*.png")} == {"cosines", "curves", "gradients"}
        for picture in out.glob("*.png"):
            assert picture.read_bytes()[:4] == b"\x89PNG"
            assert "<svg" in picture.with_suffix(".svg").read_text()
        found = rows(out / "conflicts.csv")
        places = [(row["encoder"], row["first"], row["last"]) for row in found]
        assert places[:3] == [("a", "1", "4"), ("a", "5", "8"), ("a", "9", "12")]
        steps = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
        share = sum(step["encoders"]["a"]["conflict"] for step in steps[:4]) / 4
        assert float(found[0]["conflict"]) == share
        numbers = rows(out / "gradients.csv")
        assert [(row["encoder"], row["loss"], row["batches"]) for row in numbers] == [
            (encoder, loss, "6") for encoder in "ab" for loss in ("joint", "unimodal")
        ]
        norms = [float(r["joint_norm"]) for r in rows(out / "gradients_batches.csv")[:6]]
        assert float(numbers[0]["mean"]) == pytest.approx(sum(norms) / 6)
        shown = capsys.readouterr().out
        assert all(len(line) <= 80 for line in shown.splitlines() if "report.html" not in line)
        for row in numbers:
            assert f"{float(row['mean']):.4g}" in shown and f"{float(row['trace']):.4g}" in shown
        assert (out / "report.html").read_text().count("<img ") == 3

    def test_confusion_counts_are_the_accuracies(self, run, quick):
        folder = run(dataset="toy3", method="mmpareto")
        analyzed(folder, "--out", folder.parent / "elsewhere")
        text = (folder.parent / "elsewhere/report.html").read_text()
        results = json.loads((folder / "result.json").read_text())
        scores = results["results"][results["selected"]]
        assert text.count("<details open>") == 1 and text.count("<details>") == 3
        assert text.count(">predicted class<") == text.count(">true class<") == 4
        matrices = re.findall(r'<table class="matrix.*?</table>', text, re.DOTALL)
        for matrix, name in zip(matrices, ("Acc", "Acc_a", "Acc_b", "Acc_c"), strict=True):
            lines = re.findall(r'<tr><th scope="row".*?</tr>', matrix, re.DOTALL)
            counts = [re.findall(r"<td.*?>(\d*)</td>", line) for line in lines]
            right = sum(int(counts[i][i] or 0) for i in range(4))
            assert sum(int(n or 0) for row in counts for n in row) == 48
            assert right / 48 == pytest.approx(scores[name])

    def test_tasks(self, run, quick, capsys):
        """What cannot be looked at is an error if it is asked for; else the page has the rest."""
        folder = run(dataset="toy_tasks")
        analyzed(folder)
        shown = capsys.readouterr().out
        assert re.search(r"shared +easy", shown) and re.search(r"shared +hard", shown)
        assert "uniform with --observe" in (folder / "analysis/report.html").read_text()
        folder = run(dataset="toy_tasks", method="unimodal", name="apart")
        analyzed(folder)
        text = (folder / "analysis/report.html").read_text()
        assert "no encoder has two losses" in text and "Acc_easy" in text
        with pytest.raises(UserError, match="no encoder has two losses"):
            analyzed(folder, "--checkpoints", folder / "last.pt")

    def test_settings_are_those_of_the_run(self, run):
        """Zeros among them, and what was not given left out."""
        found = analyze.find(run("--weight_decay", "0")).settings()
        assert (found["random_seed"], found["weight_decay"]) == ("0", "0.0")
        assert not found.keys() & {"pretrained", "observe", "clip_grad"}

    def test_logs_only(self, run, quick, monkeypatch):
        """Neither data nor checkpoints need to be there."""
        folder = run("--observe")
        (folder / "last.pt").unlink()
        (folder / "best.pt").unlink()
        monkeypatch.delitem(DATASETS.parts, "toy")
        analyzed(folder, "--logs_only")
        assert not (folder / "analysis/gradients.csv").exists()
        with pytest.raises(UserError, match=r"checkpoint .*last\.pt: no such file"):
            analyzed(folder)
        with pytest.raises(UserError, match="--checkpoints acts only without --logs_only"):
            analyzed(folder, "--logs_only", "--checkpoints", "last.pt")

    def test_flags(self, run, quick):
        folder, three = run("--observe"), run(name="three", dataset="toy3", method="mmpareto")
        (folder / "last.pt").rename(folder / "moved.pt")
        checkpoints = ["--checkpoints", folder / "moved.pt", folder / "best.pt"]
        with pytest.raises(
            UserError, match="--part valid: toy has no such split: choose train, val, test"
        ):
            analyzed(folder, "--part", "valid", *checkpoints)
        analyzed(folder, "--part", "val", "--limit_batches", "2", "--workers", "1", *checkpoints)
        found = rows(folder / "analysis/gradients.csv")
        assert len({row["checkpoint"] for row in found}) == 2
        assert {row["batches"] for row in found} == {"2"}
        assert "Split val" in (folder / "analysis/report.html").read_text()
        with pytest.raises(UserError, match="encoders a, b, c, the first has a, b"):
            analyzed(folder, "--checkpoints", folder / "best.pt", three / "best.pt")


@pytest.mark.slow
def test_comparison(tmp_path, once, calls, capsys, monkeypatch):
    """The plane has means and deviations over seeds, and lines of the single losses."""
    monkeypatch.setattr(sections, "FORMS", ("svg",))
    methods = "joint,unimodal,uniform:observe,pareto:scale=2"
    flags = ["--methods", methods, "--seeds", "0,1", "--baseline", "uniform:observe"]
    found = compared(tmp_path / "all", *flags)
    assert (tmp_path / "all/table.png").read_bytes().startswith(b"\x89PNG")
    capsys.readouterr()
    late = tmp_path / "all/uniform-observe-s1/last.pt"
    analyzed(tmp_path / "all", "--checkpoints", late)
    out = tmp_path / "all/analysis"
    assert {p.stem for p in out.glob("*.svg")} == {
        "plane", "curves", "gradients", "cosines-uniform-observe-s0",
        "cosines-pareto-scale=2-s0", "weights-pareto-scale=2-s0",
    }  # fmt: skip
    assert "weight of the unimodal gradient" in (out / "weights-pareto-scale=2-s0.svg").read_text()
    for picture in map(Path.read_text, out.glob("*.svg")):  # at most 10 inches, letters of 8 pt
        assert float(re.search(r'width="([\d.]+)pt"', picture)[1]) <= 720
        assert min(map(float, re.findall(r"font(?:-size)?: ([\d.]+)px", picture))) >= 8
    text = (out / "report.html").read_text()
    assert "that of the joint prediction alone" in text
    assert "Acc vs uniform:observe [95% CI]" in text
    assert "not trained by joint or unimodal itself are probes" in text
    assert text.count('<table class="matrix') == 4 * 3
    subject = analyze.find(tmp_path / "all")
    assert "resume" not in subject.settings() and subject.settings()["encoder"]
    loss = panels.curves(subject.runs).axes[0]
    assert loss.get_title() == "joint training loss"
    for line, runs in zip(loss.lines, subject.runs.values(), strict=True):
        losses = [step.losses["joint"] for run in runs for step in run.steps if step.epoch == 1]
        assert line.get_ydata()[0] == pytest.approx(statistics.mean(losses))
    alone = panels.curves({"uniform": subject.runs["uniform:observe"]}).axes[0]
    assert alone.get_title() == "training loss"
    one = subject.runs["unimodal"][0]
    mla = one._replace(epochs=[epoch | {"joint_loss": None} for epoch in one.epochs])
    loss = panels.curves({"mla": [mla], **subject.runs}).axes[0]
    assert loss.get_title() == "joint training loss\nnone in mla"
    figure = panels.plane(subject.percents, subject.single_losses, "best-val")

    def percents(method, name):
        mine = (r for r in found if (r["rule"], r["method"]) == ("best-val", method))
        return torch.tensor([100 * float(row[name]) for row in mine])

    for panel, name in zip(figure.axes, ("Acc_a", "Acc_b"), strict=True):
        middle = {}
        for bar, method in zip(panel.containers, subject.runs, strict=True):
            middle[method] = x, y = bar.lines[0].get_xydata()[0]
            assert x == pytest.approx(percents(method, "Acc").mean().item(), abs=1e-3)
            assert y == pytest.approx(percents(method, name).mean().item(), abs=1e-3)
            low, high = bar.lines[2][1].get_segments()[0][:, 1]
            assert (high - low) / 2 == pytest.approx(percents(method, name).std().item(), abs=1e-3)
        lines = [line for line in panel.lines if line.get_linestyle() == "--"]
        assert lines[0].get_xdata()[0] == middle["joint"][0]
        assert lines[1].get_ydata()[0] == middle["unimodal"][1]


class Strict(HTMLParser):
    """Collects the text; an element or attribute that could act is an error."""

    def __init__(self):
        super().__init__()
        self.text = ""
        self.addresses = []

    def handle_starttag(self, tag, attributes):
        assert tag not in ("script", "iframe", "object", "embed", "form", "svg", "b"), tag
        for name, value in attributes:
            assert not name.startswith("on"), name
            if name in ("src", "href"):
                self.addresses.append(value)

    def handle_data(self, data):
        self.text += data


class Hostile(toys.Toy):
    @classmethod
    def load(cls, flags):
        return super().load(flags)._replace(classes=HOSTILE)


@pytest.fixture
def hostile(run, monkeypatch):
    """A page whose classes, folder and command would act if they could."""
    monkeypatch.setitem(DATASETS.parts, "hostile", Hostile)
    monkeypatch.setattr("sys.argv", ["train.py", *HOSTILE])
    folder = run("--observe", name=HOSTILE[1] + HOSTILE[3], dataset="hostile")
    analyzed(folder)
    return folder / "analysis/report.html"


def test_text_is_only_text(quick, hostile):
    parser = Strict()
    parser.feed(hostile.read_text())
    for name in HOSTILE:
        assert parser.text.count(name) >= 2 * 3  # in every matrix, as a row and as a column
    assert HOSTILE[1] + HOSTILE[3] in parser.text  # in --out
    outside = {a for a in parser.addresses if not a.startswith(("data:", "#"))}
    assert outside == {"https://arxiv.org/abs/2405.17730"}
    assert len(re.findall("https?:", hostile.read_text())) == 1
    assert "default-src 'none'" in hostile.read_text()


def test_names_of_classes_stay_with_their_counts(tmp_path):
    matrix = page.Confusion("joint", ["a", "a much longer name"], [[3, 1], [0, 0]])
    assert [matrix.shade(0, k) for k in (0, 1)] == [8, 2] and matrix.shade(1, 0) == 0
    page.write(tmp_path / "x.html", "x", [page.Section("y", confusions=[matrix])])
    text = (tmp_path / "x.html").read_text()
    assert 'class="matrix long"' in text and '<td class="s8">3</td><td class="s2">1</td>' in text


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")


@pytest.mark.slow
@pytest.mark.skipif(not BROWSER, reason="needs chromium, to open the page in")
def test_in_a_browser(hostile):
    """Shown without a word on its console; asked for something from elsewhere, it would say so."""
    leaky = hostile.with_name("leaky.html")
    leaky.write_text(hostile.read_text() + '<img src="https://nowhere.invalid/x.png">')
    said = []
    for path in (hostile, leaky):
        with tempfile.TemporaryDirectory() as folder:
            picture = Path(folder, "page.png")
            done = subprocess.run(
                [BROWSER, "--no-sandbox", "--headless", "--disable-gpu", "--no-first-run",
                 "--disable-background-networking", f"--user-data-dir={folder}/profile",
                 "--enable-logging=stderr", "--window-size=1000,3000", f"--screenshot={picture}",
                 path.as_uri()],
                capture_output=True, text=True, timeout=120,
            )  # fmt: skip
            assert picture.stat().st_size > 20_000, done.stderr
            said.append([line for line in done.stderr.splitlines() if "CONSOLE" in line])
    assert said[0] == []
    assert "Content Security Policy" in said[1][0]
