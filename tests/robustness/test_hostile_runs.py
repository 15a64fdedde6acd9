"""Run folders and checkpoints of an enemy: one clear error, or a result; and no order to a terminal
or a spreadsheet."""

from mmpareto.system import allocation, entry

import csv
import json
import shutil

import pytest
import torch

import analyze
import evaluate
import train
from claim import rows as claim_runs
from mmpareto.data.samples import Modality
from mmpareto.models.encoders import ENCODERS
from mmpareto.models.fusions import FUSIONS
from mmpareto.run import checkpoint, options, setup
from mmpareto.system.errors import UserError

ESCAPE = "\x1b]0;owned\x07"


WORDS = ["--dataset", "cgdigits", "--encoder", "cnn", "--epochs", "1", "--limit_batches", "2",
         "--batch_size", "16", "--out"]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run's folder; mmpareto, so that encoders are recorded."""
    folder = tmp_path_factory.mktemp("hostile") / "run"
    train.main([*WORDS, str(folder)])
    return folder


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def changed(run, change):
    """The run's last.pt with something in it changed."""
    state = torch.load(run / "last.pt", weights_only=True)
    change(state)
    torch.save(state, run / "last.pt")
    return [str(run / "last.pt"), "--limit_batches", "1"]


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


ODD = [
    pytest.param(lambda x: x.to("meta"), id="meta"),
    pytest.param(lambda x: x.to_sparse(), id="sparse"),
    pytest.param(lambda x: x.cfloat(), id="complex"),
]


class TestCheckpoints:
    def test_a_config_that_asks_for_help(self, run, capsys):
        """It is no way to end the process with exit code 0 and no score."""
        evaluate.main(changed(run, lambda state: state["config"].update(help=True)))
        assert "joint" in capsys.readouterr().out
        arguments = changed(run, lambda state: state["config"].update(encoder=["cnn", "--help"]))
        with pytest.raises(UserError, match="its config is damaged"):
            evaluate.main(arguments)

    def test_a_config_nested_deeply(self, run):
        with pytest.raises(UserError, match="nested too deeply"):
            options.from_config({"dataset": "cgdigits", "fusion": nested(20_000)}, run)

    @pytest.mark.parametrize("change", ODD)
    @pytest.mark.filterwarnings("ignore:(Validating sparse|Sparse invariant):UserWarning")
    def test_weights_that_are_no_plain_numbers(self, run, change):
        def put(state):
            name = next(iter(state["model"]))
            state["model"][name] = change(state["model"][name])

        with pytest.raises(UserError, match="another architecture"):
            evaluate.main(changed(run, put))

    @pytest.mark.parametrize("value", [1e-9, 1e-30])
    def test_sizes_that_no_memory_holds(self, run, value):
        """A mmtm of 10^9 neurons: refused before memory is taken for it."""

        def put(state):
            state["config"] |= {"fusion": "mmtm", "ratio": value, "method": "uniform"}

        arguments = changed(run, put)
        with pytest.raises(UserError, match=r"another architecture|damaged"):
            evaluate.main(arguments)

    @pytest.mark.filterwarnings("ignore:(Validating sparse|Sparse invariant):UserWarning")
    @pytest.mark.parametrize("change", ODD)
    def test_pretrained(self, tmp_path, change):
        from torchvision.models import resnet18

        state = resnet18().state_dict()
        state["conv1.weight"] = change(state["conv1.weight"])
        torch.save(state, tmp_path / "weights.pt")
        with pytest.raises(UserError, match=r"1 of \d+ tensors missing .*conv1.weight"):
            ENCODERS["resnet18"](Modality("image", (1, 8, 8)), str(tmp_path / "weights.pt"))


@pytest.mark.parametrize("fusion", list(FUSIONS))
def test_models_without_memory_are_the_same(fusion):
    """What a checkpoint is held against before its model is built."""
    words = ["--dataset", "cgdigits", "--method", "uniform", "--fusion", fusion]
    if FUSIONS[fusion].multitask:
        words[1] = "multidigits"
    flags = options.parse(words)
    data = setup.load_data(flags)
    checkpoint.check_sizes(flags, data, setup.build_model(flags, data).state_dict(), flags.out)
    assert not any(p.is_meta for p in setup.build_model(flags, data).state_dict().values())


class TestRunFolders:
    def edit(self, run, name, change):
        """Change what a JSON file holds, or each line of one of many."""
        text = (run / name).read_text()
        contents = list(map(json.loads, text.splitlines() if name.endswith("jsonl") else [text]))
        for content in contents:
            change(content)
        (run / name).write_text("\n".join(map(json.dumps, contents)) + "\n")

    def test_scores_with_names_that_a_terminal_obeys(self, run):
        def change(result):
            for scores in result["results"].values():
                scores |= {f"Acc_{ESCAPE}": 0.5, f"F1_{ESCAPE}": 0.5}

        self.edit(run, "result.json", change)
        for main in (
            lambda: train.main([*WORDS, str(run), "--resume"]),
            lambda: analyze.main([str(run), "--logs_only"]),
        ):
            with pytest.raises(UserError, match=r"result.json: .*results"):
                main()

    def test_what_the_console_shows_of_a_run(self, run, capsys):
        self.edit(run, "config.json", lambda c: c["flags"].update(dataset=f"toy{ESCAPE}"))
        self.edit(run, "steps.jsonl", lambda step: step["encoders"].update(
            {ESCAPE: step["encoders"]["gray"]}))  # fmt: skip
        analyze.main([str(run), "--logs_only"])
        shown = capsys.readouterr().out
        assert "\x1b" not in shown and "\\x1b]0;owned" in shown

    def test_what_a_spreadsheet_would_compute(self, run, tmp_path):
        formula = "=HYPERLINK(1)"
        self.edit(run, "steps.jsonl", lambda step: step["encoders"].update(
            {formula: step["encoders"]["gray"]}))  # fmt: skip
        analyze.main([str(run), "--logs_only"])
        with open(run / "analysis/conflicts.csv", newline="") as file:
            cells = {cell for row in csv.reader(file) for cell in row}
        assert f"'{formula}" in cells and formula not in cells
        self.edit(run, "config.json", lambda c: c["versions"].update({formula: "1"}))
        with pytest.raises(UserError, match=r"config.json: .*versions"):
            analyze.main([str(run), "--logs_only"])

    def test_claim(self, tmp_path):
        row = claim_runs.Epoch(*("=1+1" if f in ("part", "arm", "encoder", "commit") else None
                                 for f in claim_runs.Epoch._fields))  # fmt: skip
        assert claim_runs.kept(tmp_path / "epochs.csv", [row]) == [row]
        assert not any(
            cell.startswith("=") for cell in (tmp_path / "epochs.csv").read_text().split(",")
        )


def test_folders_whose_name_is_no_text(tmp_path, monkeypatch, capsys):
    """Linux takes any bytes for a name; they are shown escaped, and found again."""
    monkeypatch.setattr(allocation, "keep_memory", lambda: None)
    folder = str(tmp_path / "caf\udce9")

    def run(main, *words):
        monkeypatch.setattr("sys.argv", ["command", *words])
        entry.run(main)
        return capsys.readouterr().out

    assert "caf\\udce9" in run(train.main, *WORDS, folder)
    assert "caf\\udce9" in (tmp_path / "caf\udce9/train.log").read_text()
    assert "is finished" in run(train.main, *WORDS, folder, "--resume")
    assert "joint" in run(evaluate.main, f"{folder}/last.pt")
    assert "report.html" in run(analyze.main, folder, "--logs_only")


def test_gblend_is_not_prolonged(tmp_path):
    """Its weights are estimated by training as long as the run will: more epochs, other weights."""
    words = ["--dataset", "toy", "--encoder", "cnn", "--method", "gblend", "--limit_batches", "1"]
    words += ["--out", str(tmp_path / "run")]
    train.main([*words, "--epochs", "1"])
    with pytest.raises(UserError, match=r"other flags \(epochs was 1, is 2\)"):
        train.main([*words, "--epochs", "2", "--resume"])
