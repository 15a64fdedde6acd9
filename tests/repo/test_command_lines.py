"""A stranger's wrong command ends in one line that says what to do next."""

import pytest

import analyze
import benchmark
import compare
import evaluate
import prepare
import train
import verify
from mmpareto.run import parsers
from mmpareto.system.errors import UserError
from mmpareto.system.flags import ELSEWHERE, explain_unknown

WRONG = [
    (train, "--methd mmpareto", "did you mean --method?"),
    (train, "--method mmparetto", "did you mean mmpareto?"),
    (train, "mmpareto", "'mmpareto' belongs to no flag: give --FLAG before it"),
    (train, "--method", "--method: expected one argument"),
    (train, "--dataset {here}/nowhere", "no such folder: give a prepared set"),
    (train, "--dataset {file}", "file: a file: give a prepared set's folder"),
    (train, "--out {here}", "the folder is not empty: give another --out"),
    (train, "--out {file}/run", "file is a file: give a folder"),
    (train, "--out {here} --resume", "give the folder of a run, or drop --resume"),
    (train, "--dataset {here}", "make one with code/prepare.py"),
    (train, "--dataset cremad --data_root {here}", "make one with code/prepare.py"),
    (train, "--data_root {here}", "cgdigits is built in"),
    (train, "--epochs 0", "'0' is not a positive whole number"),
    (train, "--learning_rate fast", "'fast' is not a positive number"),
    (train, "--batch_size 100000", "the training split has 1077: lower --batch_size"),
    (train, "--encoder video=resnet18", "choose one of gray, color"),
    (train, "--encoder resnet51", "did you mean resnet50?"),
    (
        train,
        "--method joint --gamma 2",
        "with --method uniform or --method mmpareto: choose that, or drop --gamma",
    ),
    (train, "--pretrained {here}/no.pt", "no such file"),
    (train, "--method joint uniform", "'uniform' belongs to no flag"),
    (train, "--resume", "give its folder with --out DIR"),
    (train, "--random_seed -1", "a whole number from 0 to"),
    (train, "--n_classes 6", "comes from the dataset"),
    (train, "--split a", "--split acts only with --dataset"),
    *(
        (train, f"{word} 1", f"unknown flag {word}: did you mean --{flag}?")
        for word, flag in {
            "--lr": "learning_rate",
            "-lr": "learning_rate",
            "--learning-rate": "learning_rate",
            "--lr_decay": "lr_decay_ratio",
            "--seed": "random_seed",
            "--bs": "batch_size",
            "--batch": "batch_size",
            "--wd": "weight_decay",
            "--epoch": "epochs",
            "--early_stopping": "patience",
            "--folds": "split",
            "--gpu": "gpu_ids",
            "--data": "dataset",
            "--save_dir": "out",
            "--output_dir": "out",
            "--num_workers": "workers",
        }.items()
    ),
    (train, "--dropout 1", "unknown flag --dropout (--help"),  # nothing comes near
    (train, "--model resnet18", "choose --method, --fusion and --encoder"),
    (train, "--fusion mmtm --gramian features", "use --gramian parameters"),
    (evaluate, "", "checkpoint is missing: give a run's best.pt or last.pt"),
    (evaluate, "--checkpoint best.pt", "give the value without --checkpoint"),
    (evaluate, "best.pt --data {here}", "did you mean --data_root?"),
    (evaluate, "best.pt --csv p.csv", "did you mean --predictions?"),
    (evaluate, "best.pt last.pt", "'last.pt' belongs to no flag"),
    (evaluate, "{here}/best.pt", "no such file"),
    (
        evaluate,
        "{here}/best.pt --split val",
        "--split: this command calls it --part: give --part val",
    ),
    (analyze, "{here} --split val", "--split: this command calls it --part: give --part val"),
    (evaluate, "{file}", "damaged, cut off or no checkpoint"),
    (evaluate, "{here}", "is a folder: give a file that is there, such as a run's best.pt"),
    (compare, "--methods uniform nonsense", "choose one of joint, unimodal"),
    (compare, "--seeds a", "a whole number from 0 to"),
    (compare, "--tune lr=1", "unknown flag --lr: did you mean --learning_rate?"),
    (compare, "--method uniform", "give --methods"),
    (compare, "--seed 1", "give --seeds"),
    (prepare, "", "give the dataset first"),
    (prepare, "crema --raw {here}", "did you mean cremad?"),
    (prepare, "imagenet --raw {here}", "choose one of cremad, "),
    (prepare, "cremad", "--raw is missing: give the raw files"),
    (prepare, "--raw {here} cremad", "give the dataset first"),
    (prepare, "cremad --raw {here} --output_dir x", "did you mean --out?"),
    (benchmark, "", "WHAT is missing: give one of step,"),
    (analyze, "", "DIR is missing: give a run's folder"),
    (prepare, "{here}", "for your own files, give folder --raw /"),
    (prepare, "cremad --raw {here}/nowhere", "no such folder"),
    (prepare, "cremad --raw {here}", "AudioWAV and VideoFlash not found"),
    (prepare, "folder --raw {here} --out {here}/x", "data/folder/README.md describes"),
    (prepare, "folder --raw {here}", "--out is missing: give a folder for this set"),
    (prepare, "cremad --raw {here} --max_bad 5", "a number in [0, 1)"),
    (prepare, "cgdigits --raw {here}", "needs no preparation"),
    (verify, "", "folder is missing: give the prepared set"),
    (verify, "{here}/nowhere", "make one with code/prepare.py"),
    (verify, "{file}", "make one with code/prepare.py"),
]


@pytest.mark.parametrize(("command", "words", "told"), WRONG)
def test_one_line(command, words, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("some text")
    arguments = [w.format(here=tmp_path, file=tmp_path / "file") for w in words.split()]
    with pytest.raises(UserError) as caught:
        command.main(arguments)
    assert told in str(caught.value) and "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_relative_csv_below_raw_is_found(tmp_path):
    (tmp_path / "clips.csv").write_text("id,label,film")
    with pytest.raises(UserError, match=rf"no such file here: did you mean {tmp_path}/clips.csv"):
        prepare.main(["folder", "--raw", str(tmp_path), "--csv", "clips.csv", "--out", "x"])


def test_a_run_s_folder_where_another_is_wanted(tmp_path, monkeypatch):
    """The message names what is there."""
    monkeypatch.chdir(tmp_path)
    for name in ("config.json", "last.pt"):
        (tmp_path / "run" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "run" / name).write_text("{}")
    for command, words, told in [
        (train, "--out run", "holds a run: add --resume to go on with it, or give another --out"),
        (compare, "--out run", "holds one run: give another --out"),
        (evaluate, "run", "is a folder: give a file that is there, such as run/last.pt"),
        (evaluate, "run/best", "no such file: give a file that is there, such as run/last.pt"),
        (evaluate, ".", "is a folder: give a file that is there, such as run/last.pt"),
        (evaluate, "run/config.json", "give a file of tensors, such as a run's best.pt"),
    ]:
        with pytest.raises(UserError, match=told):
            command.main(words.split())


def test_every_word_of_elsewhere_leads_to_a_flag(capsys):
    with pytest.raises(SystemExit):
        prepare.main(["folder", "--help"])
    shown = [parsers.help_text(), evaluate.parser().format_help(), capsys.readouterr().out]
    for word, own in ELSEWHERE.items():
        assert any(f"--{word}: did you mean --" in explain_unknown(f"--{word}", text)
                   for text in shown), word  # fmt: skip
        assert all(any(f"--{flag} " in text for text in shown) for flag in own.split()), own


def test_help_says_each_default_once_and_as_it_is_typed():
    """A default in words is not followed by None, and a range is not followed by a list."""
    text = " ".join(parsers.help_text().split())
    assert "one estimate) " in text and "(default: 1-51, the release's)" in text
    assert "default: None" not in text and "default: [" not in text
    assert "with --method mmpareto:" in text and "(default: 1.5)" in text


def test_help_of_benchmark_lists_what_it_measures(capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    for name, measure in benchmark.COMMANDS.items():
        line = max(i for i, line in enumerate(lines) if line.strip().split(" ")[0] == name)
        assert measure.__doc__.split()[0] in " ".join(lines[line : line + 2])
