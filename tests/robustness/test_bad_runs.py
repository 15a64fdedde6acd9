"""An enemy's run folders and checkpoints end in one clear error, or in a result.

Nothing in them commands a terminal or a spreadsheet.
"""

from mmpareto.system import entry, tensors

import csv
import json
import pickle
import re
import zipfile
from copy import deepcopy

import pytest
import torch
from bombs import ENDLESS, ESCAPE, Trap, put
from damage import FLAGS, told
from run_files import read

import analyze
import evaluate
import train
from claim import rows as claim_runs
from mmpareto.data.samples import Modality
from mmpareto.models.encoders import ENCODERS
from mmpareto.models.fusions import FUSIONS
from mmpareto.run import checkpoint, options, setup
from mmpareto.run.optimizing import build_optimizer
from mmpareto.system.errors import UserError

pytestmark = [
    pytest.mark.usefixtures("guarded", "quick_figures"),
    pytest.mark.filterwarnings("ignore:(Validating sparse|Sparse invariant):UserWarning"),
]
FORMULA = "=HYPERLINK(1)"
ODD = [lambda x: x.to("meta"), lambda x: x.to_sparse(), torch.Tensor.cfloat]
WEIGHT = "encoders.gray.stages.0.0.weight"
HUGE = {"fusion": "mmtm", "method": "uniform"}  # of 10^9 neurons, and more


def evaluated(run):
    evaluate.main([str(run / "last.pt"), "--limit_batches", "1"])


def resumed(run):
    train.main([*FLAGS, "--out", str(run), "--resume"])


def analyzed(run):
    analyze.main([str(run), "--logs_only"])


def edit(run, name, part, fields):
    """Change fields in one part of a run's file; in a file of lines, in each line."""
    path = run / name
    is_state = path.suffix == ".pt"
    contents = [torch.load(path, weights_only=True)] if is_state else read(path)
    for content in contents:
        for field, value in fields.items():
            content[part][field] = value(content[part][field]) if callable(value) else value
    if is_state:
        torch.save(contents[0], path)
    else:
        path.write_text("\n".join(map(json.dumps, contents)) + "\n")


def scores(known):
    return known | {f"Acc_{ESCAPE}": 0.5, f"F1_{ESCAPE}": 0.5}


@pytest.mark.parametrize(
    ("damage", "given", "use", "why"),
    [
        # which is no way to end with exit code 0 and no score
        *((edit, ("last.pt", "config", asking), evaluated, "its config is damaged")
          for asking in ({"encoder": ["cnn", "--help"]}, {"help": True})),
        *((edit, ("last.pt", "model", {WEIGHT: odd}), evaluated, "another architecture")
          for odd in ODD),
        *((edit, ("last.pt", "config", {**HUGE, "ratio": ratio}), evaluated,
           "another architecture|damaged") for ratio in (1e-9, 1e-30)),
        *((edit, ("result.json", "results", {"last": scores, "best-val": scores}), use,
           "result.json: .*results") for use in (resumed, analyzed)),
        (edit, ("config.json", "versions", {FORMULA: "1"}), analyzed, "config.json: .*versions"),
        *((put, ("config.json", make), analyzed, "no regular file") for make in ENDLESS),
    ],
)  # fmt: skip
def test_refused(run, damage, given, use, why):
    damage(run, *given)
    assert re.search(why, told(use, run))


def test_a_config_nested_deeply(run):
    nested = []
    for _ in range(20_000):
        nested = [nested]
    config = {"dataset": "cgdigits", "fusion": nested}
    assert "nested too deeply" in told(options.from_config, config, run)


def test_names_that_are_shown(run, capsys):
    """Names of encoders and datasets command no terminal, and no spreadsheet computes them."""
    edit(run, "config.json", "data", {"name": f"toy{ESCAPE}"})
    numbers = read(run / "steps.jsonl")[0]["encoders"]["gray"]
    edit(run, "steps.jsonl", "encoders", {ESCAPE: numbers, FORMULA: numbers})
    analyzed(run)
    shown = capsys.readouterr().out
    assert "\x1b" not in shown and "\\x1b]0;owned" in shown
    with open(run / "analysis/conflicts.csv", newline="") as file:
        cells = {cell for row in csv.reader(file) for cell in row}
    assert f"'{FORMULA}" in cells and FORMULA not in cells


def test_claim(tmp_path):
    row = claim_runs.Epoch("=1+1", "=1+1", "=1+1", epoch=1, steps=2, conflicts=1, turn=0.5)
    assert claim_runs.kept(tmp_path / "epochs.csv", [row]) == [row]
    cells = (tmp_path / "epochs.csv").read_text().split(",")
    assert not any(cell.startswith("=") for cell in cells)


@pytest.mark.parametrize("legacy", [False, True])
def test_pickled_checkpoints(tmp_path, legacy):
    path, trap = tmp_path / "best.pt", Trap(tmp_path / "sprung")
    state = {"model": {}, "config": {}, "epoch": 1, "data": trap}
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    for reader in (checkpoint.read_state, tensors.read):
        assert "only pickle can load" in told(reader, path)
    path.write_bytes(pickle.dumps(trap))
    told(tensors.read, path)


def test_packed_checkpoint(tmp_path):
    """A compressed checkpoint is refused: torch never compresses, and zeros grow a thousandfold."""
    whole, packed = tmp_path / "whole.pt", tmp_path / "packed.pt"
    torch.save({"model": torch.zeros(2**18)}, whole)
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name) * (100 if "data/" in name else 1))
    assert "its parts claim" in told(tensors.read, packed)
    tensors.read(whole)


def test_expanded_tensor(tmp_path):
    """A file of one number that claims a terabyte is refused."""
    state = {"model": {"w": torch.zeros(1).expand(10**12)}, "config": {}, "epoch": 1}
    state["data"] = {"recipe": "", "identity": "", "classes": []}
    torch.save(state, tmp_path / "best.pt")
    config = checkpoint.read_state(tmp_path / "best.pt").config
    assert "config is damaged" in told(options.from_config, config, tmp_path)


@pytest.mark.parametrize("change", ODD)
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
    """Models on the meta device, against which checkpoints are checked, have the right sizes."""
    dataset = "toy_tasks" if FUSIONS[fusion].multitask else "toy"
    encoder = "transformer" if fusion == "bottleneck" else "cnn"
    words = ["--dataset", dataset, "--encoder", encoder, "--fusion", fusion]
    flags = options.parse([*words, "--method", "uniform"])
    data = setup.load_data(flags)
    checkpoint.check_sizes(flags, data, setup.build_model(flags, data).state_dict(), flags.out)
    assert not any(p.is_meta for p in setup.build_model(flags, data).state_dict().values())


@pytest.fixture
def started(monkeypatch, capsys):
    """Return a function that starts a command as its file does, and returns what it prints."""

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
    """Linux takes any bytes as a name: they are shown escaped, and the folder is found again."""
    folder = str(tmp_path / "caf\udce9")
    assert "caf\\udce9" in started(train.main, *FLAGS, "--out", folder)
    assert "caf\\udce9" in (tmp_path / "caf\udce9/train.log").read_text()
    assert "is finished" in started(train.main, *FLAGS, "--out", folder, "--resume")
    assert "joint" in started(evaluate.main, f"{folder}/last.pt")
    assert "report.html" in started(analyze.main, folder, "--logs_only")


def test_gblend_is_not_prolonged(tmp_path):
    """Its weights depend on the number of epochs, so that more epochs would need other weights."""
    words = ["--dataset", "toy", "--encoder", "cnn", "--method", "gblend", "--limit_batches", "1"]
    words += ["--out", str(tmp_path / "run")]
    train.main([*words, "--epochs", "1"])
    line = told(train.main, [*words, "--epochs", "2", "--resume"])
    assert "other flags (epochs was 1, is 2)" in line


@pytest.mark.parametrize(("optimizer", "name"), [("sgd", "momentum_buffer"), ("adam", "exp_avg")])
def test_an_optimizer_s_buffer_of_one_number(optimizer, name):
    """Such a buffer is refused: a fused step would write past its end."""
    model = torch.nn.Linear(3, 2)
    flags = options.parse(["--optimizer", optimizer])
    made, _ = build_optimizer(flags, model, list(model.parameters()), torch.device("cpu"))
    model(torch.ones(1, 3)).sum().backward()
    made.step()
    state = made.state_dict()
    checkpoint.load_optimizer(made, state)  # as it was
    state["state"][0][name] = torch.zeros(())
    with pytest.raises(ValueError, match=f"{name} does not fit its parameter"):
        checkpoint.load_optimizer(made, state)
    del state["state"][0][name]
    with pytest.raises(ValueError, match=f"lacks its {name}"):
        checkpoint.load_optimizer(made, state)


def test_a_momentum_that_is_missing():
    """Fused SGD needs all momenta or none: every parameter has one from the start."""
    model = torch.nn.Linear(3, 2)
    params = list(model.parameters())
    flags, plain = options.parse(["--learning_rate", "0.1"]), deepcopy(model)
    made, _ = build_optimizer(flags, model, params, torch.device("cpu"))
    theirs = torch.optim.SGD(plain.parameters(), 0.1, 0.9, weight_decay=1e-4)
    for name in ("bias", "weight", "bias"):  # each parameter gets its first gradient alone
        for one, optimizer in ((model, made), (plain, theirs)):
            optimizer.zero_grad()
            getattr(one, name).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(model.state_dict(), plain.state_dict())
    state = made.state_dict()
    del state["state"][1]
    with pytest.raises(ValueError, match="a parameter lacks its momentum_buffer"):
        checkpoint.load_optimizer(made, state)
