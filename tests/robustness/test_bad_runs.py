"""Run folders and checkpoints of an enemy: one clear error, or a result; and no order to a terminal
or a spreadsheet."""

from mmpareto.system import entry, tensors

import csv
import json
import pickle
import re
import zipfile

import pytest
import torch
from bombs import ENDLESS, ESCAPE, Trap
from damage import FLAGS, told

import analyze
import evaluate
import train
from claim import rows as claim_runs
from mmpareto.data.samples import Modality
from mmpareto.models.encoders import ENCODERS
from mmpareto.models.fusions import FUSIONS
from mmpareto.run import checkpoint, options, setup
from mmpareto.system.errors import UserError

FORMULA = "=HYPERLINK(1)"
ODD = {
    "meta": lambda x: x.to("meta"),
    "sparse": lambda x: x.to_sparse(),
    "complex": torch.Tensor.cfloat,
}


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


def configured(**fields):
    """Other flags in a checkpoint."""
    return lambda state: state["config"].update(fields)


def weighted(change):
    """Something else in the place of a checkpoint's first weight."""

    def put(state):
        name = next(iter(state["model"]))
        state["model"][name] = change(state["model"][name])

    return put


def evaluated(run, change):
    """What evaluate.py is called with, for the run's last.pt with something in it changed."""
    state = torch.load(run / "last.pt", weights_only=True)
    change(state)
    torch.save(state, run / "last.pt")
    return [str(run / "last.pt"), "--limit_batches", "1"]


sparse_warnings = pytest.mark.filterwarnings(
    "ignore:(Validating sparse|Sparse invariant):UserWarning"
)
HUGE = {"fusion": "mmtm", "method": "uniform"}  # of 10^9 neurons, and more


@sparse_warnings
@pytest.mark.parametrize(
    ("change", "why"),
    [
        (configured(encoder=["cnn", "--help"]), "its config is damaged"),
        *((weighted(odd), "another architecture") for odd in ODD.values()),
        *((configured(**HUGE, ratio=x), "another architecture|damaged") for x in (1e-9, 1e-30)),
    ],
)
def test_checkpoints(run, change, why):
    assert re.search(why, told(evaluate.main, evaluated(run, change)))


def test_a_config_that_asks_for_help(run, capsys):
    """It is no way to end the process with exit code 0 and no score."""
    evaluate.main(evaluated(run, configured(help=True)))
    assert "joint" in capsys.readouterr().out


def test_a_config_nested_deeply(run):
    config = {"dataset": "cgdigits", "fusion": nested(20_000)}
    assert "nested too deeply" in told(options.from_config, config, run)


@pytest.mark.parametrize("legacy", [False, True])
def test_pickled_checkpoints(tmp_path, legacy):
    path, trap = tmp_path / "best.pt", Trap(tmp_path / "sprung")
    state = {"model": {}, "config": {}, "epoch": 1, "data": trap}
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    for read in (checkpoint.read_state, tensors.read):
        assert "only pickle can load" in told(read, path)
    path.write_bytes(pickle.dumps(trap))
    told(tensors.read, path)
    assert not trap.path.exists()


def test_packed_checkpoint(tmp_path, memory):
    """torch never packs; a packed zero would be unpacked a thousandfold."""
    whole, packed = tmp_path / "whole.pt", tmp_path / "packed.pt"
    torch.save({"model": torch.zeros(2**18)}, whole)
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name) * (100 if "data/" in name else 1))
    assert "its parts claim" in told(tensors.read, packed)
    tensors.read(whole)


def test_expanded_tensor(tmp_path, memory):
    """A terabyte of one number, in a file of one."""
    state = {"model": {"w": torch.zeros(1).expand(10**12)}, "config": {}, "epoch": 1}
    state["data"] = {"recipe": "", "identity": "", "classes": []}
    torch.save(state, tmp_path / "best.pt")
    config = checkpoint.read_state(tmp_path / "best.pt").config
    assert "config is damaged" in told(options.from_config, config, tmp_path)


@sparse_warnings
@pytest.mark.parametrize("change", ODD.values(), ids=ODD)
def test_pretrained(tmp_path, change):
    from torchvision.models import resnet18

    state = resnet18().state_dict()
    state["conv1.weight"] = change(state["conv1.weight"])
    torch.save(state, tmp_path / "weights.pt")
    build = ENCODERS["resnet18"]
    line = told(build, Modality("image", (1, 8, 8)), str(tmp_path / "weights.pt"))
    assert re.search(r"1 of \d+ tensors missing .*conv1.weight", line)


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


def edit(run, name, change):
    """Change what a JSON file holds, or each line of one of many."""
    text = (run / name).read_text()
    contents = list(map(json.loads, text.splitlines() if name.endswith("jsonl") else [text]))
    for content in contents:
        change(content)
    (run / name).write_text("\n".join(map(json.dumps, contents)) + "\n")


def renamed(name):
    """An encoder of another name, in a line of steps.jsonl."""
    return lambda step: step["encoders"].update({name: step["encoders"]["gray"]})


def test_scores_with_names_that_a_terminal_obeys(run):
    def change(result):
        for scores in result["results"].values():
            scores |= {f"Acc_{ESCAPE}": 0.5, f"F1_{ESCAPE}": 0.5}

    edit(run, "result.json", change)
    again = [*FLAGS, "--out", str(run), "--resume"]
    for main, words in ((train.main, again), (analyze.main, [str(run), "--logs_only"])):
        assert re.search(r"result.json: .*results", told(main, words))


def test_what_the_console_shows_of_a_run(run, capsys, quick_figures):
    edit(run, "config.json", lambda c: c["flags"].update(dataset=f"toy{ESCAPE}"))
    edit(run, "steps.jsonl", renamed(ESCAPE))
    analyze.main([str(run), "--logs_only"])
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and "\\x1b]0;owned" in shown


def test_what_a_spreadsheet_would_compute(run, quick_figures):
    edit(run, "steps.jsonl", renamed(FORMULA))
    analyze.main([str(run), "--logs_only"])
    with open(run / "analysis/conflicts.csv", newline="") as file:
        cells = {cell for row in csv.reader(file) for cell in row}
    assert f"'{FORMULA}" in cells and FORMULA not in cells
    edit(run, "config.json", lambda c: c["versions"].update({FORMULA: "1"}))
    line = told(analyze.main, [str(run), "--logs_only"])
    assert re.search(r"config.json: .*versions", line)


def test_claim(tmp_path):
    row = claim_runs.Epoch("=1+1", "=1+1", "=1+1", epoch=1, steps=2, conflicts=1, turn=0.5)
    assert claim_runs.kept(tmp_path / "epochs.csv", [row]) == [row]
    cells = (tmp_path / "epochs.csv").read_text().split(",")
    assert not any(cell.startswith("=") for cell in cells)


@pytest.mark.parametrize("make", ENDLESS)
def test_no_regular_file(tmp_path, patience, make):
    make(tmp_path / "config.json")
    assert "no regular file" in told(analyze.main, [str(tmp_path)])


@pytest.fixture
def started(monkeypatch, capsys):
    """Start a command as its file does; returns what it shows."""

    def start(main, *words):
        monkeypatch.setattr("sys.argv", ["command", *words])
        entry.run(main)
        return capsys.readouterr().out

    return start


def test_messages_are_one_line_that_no_terminal_obeys(started, capsys):
    def main(arguments):
        raise UserError(f"{ESCAPE}file\r\nOK\u2028\u202e\udc80 caf\u00e9 \u732b")

    with pytest.raises(SystemExit) as ended:
        started(main)
    assert ended.value.code == 2
    shown = "\\x1b]0;owned\\x07file\\r\\nOK\\u2028\\u202e\\udc80 caf\u00e9 \u732b"
    assert capsys.readouterr().err == f"error: {shown}\n"


def test_folders_whose_name_is_no_text(tmp_path, started):
    """Linux takes any bytes for a name; they are shown escaped, and found again."""
    folder = str(tmp_path / "caf\udce9")
    assert "caf\\udce9" in started(train.main, *FLAGS, "--out", folder)
    assert "caf\\udce9" in (tmp_path / "caf\udce9/train.log").read_text()
    assert "is finished" in started(train.main, *FLAGS, "--out", folder, "--resume")
    assert "joint" in started(evaluate.main, f"{folder}/last.pt")
    assert "report.html" in started(analyze.main, folder, "--logs_only")


def test_gblend_is_not_prolonged(tmp_path):
    """Its weights are estimated by training as long as the run will: more epochs, other weights."""
    words = ["--dataset", "toy", "--encoder", "cnn", "--method", "gblend", "--limit_batches", "1"]
    words += ["--out", str(tmp_path / "run")]
    train.main([*words, "--epochs", "1"])
    line = told(train.main, [*words, "--epochs", "2", "--resume"])
    assert "other flags (epochs was 1, is 2)" in line


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_an_optimizer_s_buffer_of_one_number(optimizer):
    """A fused step would write a whole parameter's numbers into it, past its end."""
    model = torch.nn.Linear(3, 2)
    flags = options.parse(["--optimizer", optimizer])
    made, _ = setup.build_optimizer(flags, model, torch.device("cpu"))
    model(torch.ones(1, 3)).sum().backward()
    made.step()
    state = made.state_dict()
    checkpoint.load_optimizer(made, state)  # as it was
    name = "momentum_buffer" if optimizer == "sgd" else "exp_avg"
    state["state"][0][name] = torch.zeros(())
    with pytest.raises(ValueError, match=f"{name} does not fit its parameter"):
        checkpoint.load_optimizer(made, state)
