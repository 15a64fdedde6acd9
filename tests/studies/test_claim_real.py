"""The study on real recordings: its sets, its plans, and the way from raw files to tables."""

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile
from scipy.stats import norm

from claim.design import ARMS
from claim.rows import Epoch, Run, read_rows, scored
from claim_real import design, looks, planning, run, sets, tables
from claim_real.tables import Found, Own
from mmpareto.run import options
from mmpareto.system.errors import UserError

DOCS = Path(__file__).resolve().parents[2] / "docs"


def write_raw(folder, count=90, parts=("train", "test")):
    """Two views of three classes; a group is three samples that stand together."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    labels = np.arange(count) % 3
    for name, noise in (("view1", 0.5), ("view2", 2.0)):
        values = random.normal(0, noise, (count, 4))
        values[np.arange(count), labels] += 2
        np.save(folder / f"{name}.npy", values.astype(np.float32))
    with open(folder / "clips.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "label", "split", "group", "view1:array", "view2:array"])
        for i in range(count):
            part = parts[i * len(parts) // count]
            rows.writerow([f"s{i}", f"c{i % 3}", part, i // 3, f"view1.npy#{i}", f"view2.npy#{i}"])
    return folder


class TestSets:
    def test_divide(self, tmp_path):
        """A third of the test part's groups validate, whole; no training sample moves."""
        table = write_raw(tmp_path / "raw") / "clips.csv"
        before = table.read_text().splitlines()
        sets.divide(table)
        before, after = map(list, map(csv.DictReader, (before, table.read_text().splitlines())))
        assert [{**row, "split": ""} for row in after] == [{**row, "split": ""} for row in before]
        parts = {}
        for old, new in zip(before, after, strict=True):
            assert new["split"] == "train" if old["split"] == "train" else new["split"] != "train"
            parts.setdefault(new["group"], set()).add(new["split"])
        assert all(len(found) == 1 for found in parts.values())
        assert sum(found == {"val"} for found in parts.values()) == 5  # of 15

    def test_noise_on_arrays(self, tmp_path):
        """Each column's own deviation; the other modality stays."""
        raw = write_raw(tmp_path / "raw", 900)
        values, other = np.load(raw / "view1.npy") * [1, 10, 100, 1000], np.load(raw / "view2.npy")
        np.save(raw / "view1.npy", values.astype(np.float32))
        sets.to_arrays(raw, "view1", np.random.default_rng(0))
        added = np.load(raw / "view1.npy") - values
        assert added.std(0) / values.std(0) == pytest.approx([sets.SEVERITY] * 4, rel=0.1)
        assert np.array_equal(np.load(raw / "view2.npy"), other)

    def test_noise_on_recordings(self, tmp_path):
        (tmp_path / "recordings").mkdir()
        path = tmp_path / "recordings" / "0_anna_0.wav"
        tone = 0.1 * np.sin(np.arange(8000) / 10)
        soundfile.write(path, tone, 8000)
        sets.to_recordings(tmp_path, "audio", np.random.default_rng(0))
        noisy, rate = soundfile.read(path)
        assert rate == 8000
        assert (noisy - tone).std() / tone.std() == pytest.approx(sets.SEVERITY, rel=0.05)

    def test_a_missing_folder(self, tmp_path):
        raw, out = tmp_path / "raw", tmp_path / "out"
        for missing in ("fsdd", "MNIST"):
            with pytest.raises(UserError, match=rf"folder {missing} is missing: .*; --sets leaves"):
                sets.make("digits", "", raw, out)
            (raw / missing).mkdir(parents=True)
        assert not out.exists()


class TestPlanning:
    def test_seeds(self):
        """The paired t test's textbook numbers for effects of 0.5, 0.8 and 1."""
        found = [planning.seeds_needed(effect, 1.0) for effect in (0.5, 0.8, 1.0)]
        assert found == [34, 15, 10]
        assert planning.seeds_needed(0.01, 0.0) == 3

    @pytest.mark.parametrize(("gain", "parted"), [(0.02, 0.1), (0.05, 0.12)])
    def test_samples(self, gain, parted):
        """McNemar's test finds the gain in four of five drawn test splits of that size."""
        random = np.random.default_rng(0)
        samples = planning.samples_needed(gain, parted)
        chances = [(parted + gain) / 2, (parted - gain) / 2, 1 - parted]
        more, less, _ = random.multinomial(samples, chances, 20_000).T
        z = (more - less) / np.sqrt(more + less)
        assert (z > norm.ppf(0.975)).mean() == pytest.approx(0.8, abs=0.02)

    def test_samples_of_one_side(self):
        """If only one model is ever right where the other is wrong, that share decides."""
        assert planning.samples_needed(0.05, 0.01) == planning.samples_needed(0.05, 0.05)


def run_of(name, arm, seed, acc):
    return Run(name, arm, 0.01, seed, False, 3, acc, acc, None, "abc")


class TestTables:
    def found(self, runs=(), own=()):
        compared = tables.differences(tables.Found([*runs], [], [*own], [], []))
        return compared, {(row.part, row.modality, row.one.arms): row for row in compared}

    def test_main(self):
        """Two sets: differences seed by seed, corrected over both, and the sets' mean."""
        runs = []
        for name, gains in (("mfeat", (0.02, 0.03, 0.04)), ("mosi", (-0.01, 0.0, 0.01))):
            for seed, gain in enumerate(gains):
                for arm, acc in (("A", 0.5), ("B", 0.5), ("E", 0.5 + gain)):
                    runs.append(run_of(name, arm, seed, acc))
        compared, by_key = self.found(runs)
        first, second = tables.main(runs, by_key)[:2]
        assert first["E-A [95 %]"] == "+3.0 [+0.5, +5.5]"
        # p 0.0351 and 1, two of four: 0.0351 * 4
        assert first["p (Holm), E-A"] == "0.140" and second["p (Holm), E-A"] == "1.000"
        assert first["A, at rate"] == "50.0, 0.01"
        row = compared[0].flat()
        assert (row["family"], row["part"], row["arms"]) == ("main", "mfeat", "E-A")
        assert row["p"] == pytest.approx(0.0351, abs=1e-4) and row["p_holm"] == 4 * row["p"]

    def test_families(self):
        """B-A is corrected within its set, and what is changed over both differences."""
        gains = (0.02, 0.03, 0.04)
        runs = [
            run_of(part, arm, seed, 0.5 + gain * (arm in arms))
            for part, arms in (("mfeat", "BE"), ("mosi", "B"), ("mfeat/adam", "E"))
            for seed, gain in enumerate(gains)
            for arm in "ABE"
        ]
        _, by_key = self.found(runs)
        corrected = {key: row.p_holm / row.one.p for key, row in by_key.items()}
        # of each set's others only B-A is known
        assert corrected["mfeat", "", "B-A"] == corrected["mosi", "", "B-A"] == 1
        assert corrected["mfeat/adam", "", "E-A"] == corrected["mfeat/adam", "", "E-B"] == 2
        assert by_key["mosi", "", "B-A"].family == "others, mosi"
        assert tables.others(by_key)[0] == {
            "difference": "B-A", "mfeat": "**+3.0 [+0.5, +5.5]**", "mosi": "**+3.0 [+0.5, +5.5]**"
        }  # fmt: skip

    def test_weak_modalities_alone_are_corrected(self):
        own = [
            Own("mfeat", arm, modality, seed, 0.5 + gain * (arm == "E"))
            for modality in ("mor", "pix")
            for arm in "ABE"
            for seed, gain in enumerate((0.02, 0.03, 0.04))
        ]
        weak, strong = tables.own_accuracy(own, self.found(own=own)[1])
        assert weak["modality"] == "mor (weak)" and weak["p (Holm), E-A"] == "0.070"
        assert strong["E-A [95 %]"] == "+3.0 [+0.5, +5.5]" and strong["p (Holm), E-A"] == "-"
        assert strong["U"] == "-"

    def test_gradients(self):
        rows = [
            looks.Gradient("mosi", "text", 1, seed, loss, size, size**2)
            for seed, sizes in enumerate([(1.0, 2.0), (3.0, 2.0)])
            for loss, size in zip(("joint", "unimodal"), sizes, strict=True)
        ]
        (row,) = tables.gradients(rows)
        assert row["magnitude"] == "2 / 2" and row["joint smaller, magnitude"] == "1 of 2"
        assert row["trace of covariance"] == "5 / 4" and row["joint smaller, trace"] == "1 of 2"


@pytest.fixture
def small(monkeypatch):
    """Fewer arms, seeds and rates, and one epoch or two."""
    arms = {"U": "unimodal", **{arm: ARMS[arm] for arm in "ABDE"}}
    for name, value in (("CHOOSING", "300"), ("SCORED", "40-42"), ("FEWER", "40-42")):
        monkeypatch.setattr(design, name, value)
    monkeypatch.setattr(design, "ARMS", arms)
    monkeypatch.setitem(design.RATES, "", ("0.001,0.01", "0.001,0.01,0.1,1"))
    mine = design.Set("view2", "view1", "mlp_wide", 3, epochs=2)
    monkeypatch.setitem(design.SETS, "mosi", mine)


@pytest.mark.slow
def test_from_raw_files_to_tables(tmp_path, small, calls, capsys, request):
    """A main part, then those that follow from its choice; a second call trains nothing."""
    write_raw(tmp_path / "raw" / "mosi", 300)
    words = ["--raw", str(tmp_path / "raw"), "--out", str(tmp_path / "out"), "--sets", "mosi"]
    run.main([*words, "--settings", "same-rate,early,noise"])
    out = tmp_path / "out"
    text = (out / "tables.md").read_text(encoding="utf-8")
    headings = ("E against A and B", "Each modality's own accuracy", "At the same learning rate",
                "One thing changed (bold: corrected p < 0.05)", "Both gradients",
                "What a comparison needs", "Where conflict is", "mosi: all arms")  # fmt: skip
    assert [f"## {heading}\n" in text for heading in headings] == [True] * len(headings)
    own = read_rows(out / "own.csv", Own)
    assert len(own) == 2 * 5 * 3
    trained = read_rows(out / "runs.csv", Run)
    assert {row.part for row in trained} == {"mosi", "mosi/same-rate", "mosi/early", "mosi/noise"}
    for part in ("mosi", "mosi/noise"):  # the list of rates grows as long as one chooses its end
        tried = {row.learning_rate for row in trained if row.part == part and row.is_choosing}
        chosen = {r.learning_rate for a in "ABE" for r in scored(trained, part, a)}
        assert tried >= {0.001, 0.01} and (max(chosen) < max(tried) or max(tried) == 1)
    assert max(tried) > 0.01
    of_main = {r.learning_rate for r in trained if r.part == "mosi" and r.is_choosing}
    assert len(scored(trained, "mosi", "D")) == 3
    assert len([r for r in trained if r.part == "mosi"]) == 5 * (len(of_main) + 3)
    parted = read_rows(out / "parted.csv", looks.Parted)
    of_seed = {(r.arm, r.seed): r.Acc for r in trained if r.part == "mosi" and not r.is_choosing}
    for row in parted:  # what one gets right and the other does not is the gain
        gain = of_seed["E", row.seed] - of_seed["A", row.seed]
        assert (row.first - row.second) / row.samples == pytest.approx(gain, abs=1e-5)
    epochs = {row.epoch for row in read_rows(out / "gradients.csv", looks.Gradient)}
    assert epochs == {1, 2}
    made = len(calls)
    request.getfixturevalue("quick")
    run.main([*words, "--settings", "early", "--collect"])  # of all that is there
    assert len(calls) == made and (out / "tables.md").read_text(encoding="utf-8") == text
    assert "1 of 6 sets" in capsys.readouterr().out

    mine = next(r for r in scored(trained, "mosi", "B") if r.seed == 41)
    (folder,) = (out / "mosi").glob(f"uniform-gamma=1.5-learning_rate={mine.learning_rate:g}-s41")
    (folder / "result.json").unlink()
    (folder / "diverged.json").write_text('{"reason": "no number"}')
    run.main([*words, "--collect"])
    (again,) = (r for r in read_rows(out / "runs.csv", Run) if r[:4] == mine[:4])
    assert again.Acc == pytest.approx(1 / 3, abs=1e-5)  # of three classes
    with pytest.raises(UserError, match=r"parts that failed: [12]:"):  # B may have A's rate
        run.main([*words, "--settings", "same-rate,early,noise"])
    assert len(calls) == made


def test_parts():
    """Each trains as its name says; a part's number of samples does not depend on the batch."""
    flags = {name: design.part_of("digits", name, 0.02).flags for name in design.parts("digits")}
    sgd = "--weight_decay 0.0001 --momentum 0.9 --limit_batches"
    assert flags[""].endswith(f"--epochs 10 --batch_size 64 {sgd} 32")
    assert flags["batch16"].endswith(f"--batch_size 16 {sgd} 128")
    assert flags["batch256"].endswith(f"--batch_size 256 {sgd} 8")
    assert flags["adam"] == flags[""].replace("--momentum 0.9", "--optimizer adam")
    assert flags["early"] == flags[""] + " --epochs 1"
    assert design.part_of("digits", "same-rate", 0.02).rates == "0.01,0.02,0.04"
    assert design.part_of("digits", "long").flags.endswith(" --epochs 50")
    assert not {"long", "wide"} & flags.keys()
    for name in ("digits", "mfeat"):
        for part in design.parts(name):
            words = design.part_of(name, part, 0.02).flags.replace("--split group", "").split()
            parsed = options.parse(["--dataset", "toy", *words])
            assert parsed.weight_decay == 1e-4
            assert (parsed.momentum, parsed.optimizer)[part == "adam"] in (0.9, "adam")


def test_rates_grow():
    """By one at an end that was chosen, until there is none left."""
    first, every = design.RATES["adam"]
    assert design.wider(first, {"0.001", "0.01"}, "adam") == first
    assert design.wider(first, {"0.03", "0.01"}, "adam") == f"{first},0.1"
    both = design.wider(first, {"0.03", "0.0003"}, "adam")
    assert both == f"0.0001,{first},0.1"
    assert design.wider(every, {"0.3", "0.00003"}, "adam") == every
    assert design.wider(design.RATES[""][0], {"0.16"}, "noise").endswith("0.16,0.32")


def test_names(tmp_path, capsys):
    for flag in ("--sets", "--settings"):
        with pytest.raises(UserError, match="there is no 'all': choose"):
            run.main(["--raw", str(tmp_path), flag, "all"])


def test_the_pages_are_what_their_files_say():
    """All but the table of every rate: claim_real_runs.csv has its rows."""
    kinds = {"runs": Run, "epochs": Epoch, "own": Own,
             "gradients": looks.Gradient, "parted": looks.Parted}  # fmt: skip
    files = {name: DOCS / f"results/claim_real_{name}.csv" for name in kinds}
    found = Found(**{name: read_rows(path, kinds[name]) for name, path in files.items()})
    pages = [path.read_text(encoding="utf-8") for path in DOCS.rglob("claim_real*.md")]
    made = tables.tables(found, tables.differences(found))
    left = {heading for heading, table in made.items() if not any(table in p for p in pages)}
    assert left == {"Validation accuracy by learning rate (bold: the choice)"}
