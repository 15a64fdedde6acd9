"""docs/claim.md: its arms are what their formulas say, its numbers what its CSV files say."""

import statistics
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_models
import torch
import torch.nn.functional as F
from scipy.stats import nct, t, ttest_rel
from test_methods import trainer_of
from test_multitask import batch as batch_of_tasks
from test_multitask import model_of as tasks_of

from claim import contrasts
from claim import rows as runs
from claim import run as claim
from claim.design import ARMS, THREE, Part
from claim.rows import Epoch, Run
from claim.tables import same_rate, tables
from mmpareto.methods import METHODS
from mmpareto.models.fusions.base import own_targets
from mmpareto.models.fusions.multitask import Separate, Shared
from mmpareto.run import options
from mmpareto.system.errors import UserError

DOCS = Path(__file__).resolve().parents[2] / "docs"


def formula(arm, j, g):
    """h of one encoder from its gradients, lists of numpy arrays."""
    J, G = (np.concatenate([x.ravel() for x in part]) for part in (j, g))
    s = [x + y for x, y in zip(j, g, strict=True)]
    alpha = np.clip(G @ (G - J) / ((J - G) @ (J - G)), 0, 1)
    shortest = [alpha * x + (1 - alpha) * y for x, y in zip(j, g, strict=True)]
    conflict = J @ G <= 0 and J.any() and G.any()
    d = [2 * x for x in shortest] if conflict else s

    def norm(parts):
        return np.sqrt(sum((x**2).sum() for x in parts))

    if arm == "R":
        return [1.5 * max(1, norm([y]) / norm([x])) * x for x, y in zip(d, s, strict=True)]
    restored = norm(s) / norm(d)
    factor, direction = {
        "A": (1, s), "B": (1.5, s), "C": (1, d), "D": (restored, d), "E": (1.5 * restored, d),
        "F": (1, shortest), "G": (2, shortest),
    }[arm]  # fmt: skip
    return [factor * x for x in direction]


def words(arm):
    method, *own = ARMS[arm].split(":")
    return ["--method", method, *(f"--{word}" for word in own)]


def method_of(arm, model):
    return METHODS[ARMS[arm].split(":")[0]](model, options.parse(words(arm)))


def gradients(loss, params):
    found = torch.autograd.grad(loss, params, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(p) if x is None else x for p, x in zip(params, found, strict=True)]


def expected(arm, model, output, targets):
    """{parameter: gradient} of the literal formula; j and g by one traversal for each loss."""
    own = own_targets(targets, output.unimodal)
    losses = {name: F.cross_entropy(logits, own[name]) for name, logits in output.unimodal.items()}
    if output.joint is not None:
        losses["joint"] = F.cross_entropy(output.joint, targets)
    everything = list(model.parameters())
    found = dict(zip(everything, gradients(sum(losses.values()), everything), strict=True))
    conflicts = []
    for name, encoder in model.encoders.items():
        params = list(encoder.parameters())
        first, second = ("joint", name) if "joint" in losses else ("left", "right")
        j, g = ([x.numpy() for x in gradients(losses[k], params)] for k in (first, second))
        conflicts.append(sum((x * y).sum() for x, y in zip(j, g, strict=True)) <= 0)
        found |= dict(zip(params, map(torch.from_numpy, formula(arm, j, g)), strict=True))
    return found, conflicts


@pytest.mark.parametrize(
    ("arm", "tasks", "parts"),
    [*((arm, None, parts) for parts in (1, 3) for arm in ARMS), *((arm, Shared, 1) for arm in ARMS),
     ("A", Separate, 1), ("B", Separate, 1)],
)  # fmt: skip
def test_gradients_are_the_formula(arm, tasks, parts):
    """Of encoders, of modalities or of two tasks; heads have their losses' own.

    Also from three micro-batches.
    """
    model = tasks_of(tasks) if tasks else tiny_models.build(modalities=3).eval()
    method, met = method_of(arm, model), []
    for _ in range(8):
        inputs, targets = batch_of_tasks() if tasks else tiny_models.batch(model)
        wanted, conflicts = expected(arm, model, model(inputs), targets)
        met += conflicts
        model.zero_grad()
        for chunk, truth, told in tiny_models.micro_batches(inputs, targets, parts):
            tiny_models.step(method, chunk, truth, **told)
        for param, gradient in wanted.items():
            torch.testing.assert_close(param.grad, gradient, rtol=1e-9, atol=1e-12)
    assert sum(met) > 0 and (tasks or not all(met))


@pytest.mark.parametrize("arm", ARMS)
def test_training_is_the_formula(tmp_path, arm):
    """Over whole steps of train.py: two micro-batches, clipping, weight decay and momentum."""
    trainer = trainer_of(
        tmp_path, "--dataset", "toy", *words(arm), "--accumulate", "2", "--clip_grad", "1",
        "--weight_decay", "0.01", "--batch_size", "8", "--learning_rate", "0.02",
    )  # fmt: skip
    model = deepcopy(trainer.model)
    trainer.train_epoch()

    trainer.order.epoch = 1
    batches, momentum, met = list(trainer.loaders["train"]), {}, []
    for pair in zip(batches[::2], batches[1::2], strict=False):
        outputs = [model(inputs) for inputs, *_ in pair]
        logits = [
            {k: torch.cat([o.unimodal[k] for o in outputs]) for k in outputs[0].unimodal},
            torch.cat([o.joint for o in outputs]),
        ]
        whole = outputs[0]._replace(unimodal=logits[0], joint=logits[1])
        found, conflicts = expected(arm, model, whole, torch.cat([part.targets for part in pair]))
        met += conflicts
        size = np.sqrt(sum(float((x.double() ** 2).sum()) for x in found.values()))
        with torch.no_grad():
            for param, gradient in found.items():
                step = gradient.float() * min(1, 1 / size) + 0.01 * param
                momentum[param] = 0.9 * momentum.get(param, 0) + step
                param -= 0.02 * momentum[param]
    assert len(met) == 12
    for mine, other in zip(trainer.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_uniform_by_default_is_bit_for_bit_what_it_was():
    """gamma 1 touches nothing."""
    model = tiny_models.build()
    inputs, targets = tiny_models.batch(model)
    joint, unimodal = tiny_models.losses(model(inputs), targets)
    plain = torch.autograd.grad(joint + sum(unimodal.values()), list(model.parameters()))
    model.eval().train()
    tiny_models.step(method_of("A", model), inputs, targets)
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), plain, strict=True))


def run_of(arm, seed, acc, part="base", chooses=False):
    return Run(part, arm, 0.5, seed, chooses, 3, acc - 0.1, acc, None, "abc")


class TestStatistics:
    def test_contrast(self):
        """Over common seeds, of scored runs alone; p as scipy's paired test has it."""
        one, other = [0.5, 0.7, 0.6, 0.9], [0.4, 0.75, 0.4, 0.7]
        rows = [run_of("E", seed, acc) for seed, acc in enumerate(one)]
        rows += [run_of("B", seed, acc) for seed, acc in enumerate(other)]
        rows += [run_of("E", 7, 0.1), run_of("B", 8, 0.2), run_of("E", 0, 0.0, chooses=True)]
        rows += [run_of("E", 0, 0.3, part="sum")]
        found = contrasts.contrast(rows, "base", "E-B")
        expected = ttest_rel(one, other)
        interval = expected.confidence_interval()
        assert found[:2] == ("E-B", 4)
        assert found.mean == pytest.approx(0.1125)
        assert (found.low, found.high) == pytest.approx(interval)
        assert found.p == pytest.approx(expected.pvalue)
        assert contrasts.contrast(rows, "sum", "E-B") is None

    def test_detectable(self):
        """A true difference of that size is found with a chance of 80 %, by the noncentral t."""
        random = np.random.RandomState(0)
        rows = [run_of("E", seed, acc) for seed, acc in enumerate(random.normal(0, 1, 20))]
        rows += [run_of("B", seed, 0.0) for seed in range(20)]
        found = contrasts.contrast(rows, "base", "E-B")
        error = statistics.stdev(run.Acc for run in rows[:20]) / 20**0.5
        power = nct.sf(t.ppf(0.975, 19), 19, found.detectable / error)
        assert power == pytest.approx(0.8, abs=0.01)

    def test_same_rate(self):
        """Seeds gain 0.1 and 0.3, 0.2 and 0.4, 0.15 and 0.35: 0.25 +- 4.303 * 0.05 / sqrt(3)."""
        rows = []
        for rate, gaps in ((0.5, (0.1, 0.2, 0.15)), (1.0, (0.3, 0.4, 0.35))):
            for seed, gap in enumerate(gaps):
                for arm, acc in (("E", 0.5 + gap), ("B", 0.5)):
                    rows.append(run_of(arm, seed, acc, "fixed")._replace(learning_rate=rate))
        rows.append(run_of("E", 3, 0.9, "fixed"))  # has but one of the rates
        cells = [row["E-B [95 %]"] for row in same_rate(rows)]
        assert cells[2] == "+25.0 [+12.6, +37.4]"
        assert cells[0].startswith("+15.0 [") and cells[1].startswith("+35.0 [")

    def test_holm(self):
        for ps, corrected in (
            ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),
            ([0.2], [0.2]),
            ([0.9, 0.5, 0.01, 0.01], [1.0, 1.0, 0.04, 0.04]),
        ):
            assert contrasts.holm(ps) == pytest.approx(corrected)


def test_turn():
    """The angle between the sum and twice the shortest mean, from norms and cosine alone."""
    random = np.random.RandomState(0)
    for _ in range(100):
        j, g = random.normal(0, 1, (2, 5)) * [[1.0], [random.uniform(0.1, 10)]]
        if j @ g > 0:
            j = -j
        stats = {"joint_norm": np.linalg.norm(j), "unimodal_norm": np.linalg.norm(g)}
        stats["cos"] = j @ g / stats["joint_norm"] / stats["unimodal_norm"]
        (d,), s = formula("C", [j], [g]), j + g
        expected = np.degrees(np.arccos(d @ s / np.linalg.norm(d) / np.linalg.norm(s)))
        assert runs.turn(SimpleNamespace(**stats)) == pytest.approx(expected, abs=1e-5)


@pytest.fixture
def toy_part(monkeypatch):
    flags = "--dataset toy --encoder cnn --epochs 2"
    part = Part(THREE, flags, "0.05,0.003", "100", "0,1")
    monkeypatch.setattr(claim, "PARTS", {"base": part})


@pytest.mark.slow
def test_from_runs_to_tables(tmp_path, once, calls, toy_part, capsys, request):
    """Trained once; a later call makes the same of what is there."""
    claim.main(["--out", str(tmp_path)])
    assert len(calls) == 3 * (2 + 2)
    trained = runs.read_rows(tmp_path / "runs.csv", Run)
    epochs = runs.read_rows(tmp_path / "epochs.csv", Epoch)
    assert sorted((run.arm, run.seed, run.is_choosing) for run in trained) == sorted(
        (arm, seed, seed == 100) for arm in "ABE" for seed in (0, 1, 100, 100)
    )
    assert {(row.arm, row.encoder, row.epoch) for row in epochs} == {
        ("E", encoder, epoch) for encoder in "ab" for epoch in (1, 2)
    }
    assert all(row.steps == 12 for row in epochs)  # 6 of an epoch, of two seeds
    share = sum(row.conflicts for row in epochs) / sum(row.steps for row in epochs)
    scored = [run.conflict for run in trained if run.arm == "E" and not run.is_choosing]
    assert statistics.mean(scored) == pytest.approx(share, abs=1e-5)
    written = (tmp_path / "tables.md").read_text(encoding="utf-8")
    for heading, table in tables(trained, epochs).items():
        assert f"## {heading}\n\n{table}\n" in written
    assert written.rstrip() in capsys.readouterr().out
    for name in ("rates", "conflict", "gain"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    request.getfixturevalue("quick")
    claim.main(["--out", str(tmp_path), "--collect"])
    assert len(calls) == 12 and (tmp_path / "tables.md").read_text(encoding="utf-8") == written


def test_commands(tmp_path, calls, toy_part, capsys):
    claim.main(["--out", str(tmp_path), "--print_commands"])
    assert capsys.readouterr().out.count("train.py") == 6 and not calls
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match=r"--parts: there is no 'all': choose base$"):
        claim.main(["--parts", "base,all"])


def test_the_pages_are_what_their_files_say():
    files = ((Run, "results/claim_runs.csv"), (Epoch, "results/claim_epochs.csv"))
    pages = [path.read_text(encoding="utf-8") for path in DOCS.glob("claim*.md")]
    for heading, table in tables(*(runs.read_rows(DOCS / f, kind) for kind, f in files)).items():
        assert any(table in page for page in pages), heading
