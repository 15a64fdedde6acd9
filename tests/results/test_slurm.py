"""compare.py --print_commands --sbatch: the job array, tried with a stand-in for sbatch."""

import re
import shlex
import subprocess
import sys

import pytest
from test_compare import FLAGS

import compare
from mmpareto.results import slurm
from mmpareto.system.errors import UserError

pytestmark = pytest.mark.usefixtures("once", "quick")

# Runs the tasks of an array one by one, as SLURM would on one machine.
SBATCH = """\
last=$(sed -n 's/^#SBATCH --array=1-//p' "$1")
for task in $(seq "$last"); do
  log=$(sed -n 's/^#SBATCH --output="\\(.*\\)"$/\\1/p' "$1" | sed "s/%A/7/; s/%a/$task/; s/%%/%/g")
  SLURM_ARRAY_TASK_ID=$task bash "$1" > "$log" 2>&1 || echo "task $task failed"
done
"""


def submitted(path):
    """What the stand-in says of a script."""
    command = ["bash", "-c", SBATCH, "sbatch", str(path)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_every_command_runs_once(tmp_path, monkeypatch):
    """Whatever is in its words; a task of several goes on after one that failed."""
    monkeypatch.setattr(slurm, "MOST", 2)
    out = tmp_path / "50% off"
    words = ["a b", "it's", "$HOME", "line\nbreak", "fail"]
    code = "import sys; print(sys.argv[1:]); sys.exit(sys.argv[1] == 'fail')"
    commands = [[sys.executable, "-c", code, word, str(n)] for n, word in enumerate(words)]
    header = tmp_path / "header"
    header.write_text("#SBATCH --time=2:00:00\nexport SET_UP=1\necho begun $SET_UP\n")
    path = tmp_path / "runs.sbatch"
    assert slurm.write_array(path, [commands[-1], *commands[:-1]], out, header) == 2
    assert submitted(path) == "task 1 failed\n"
    logs = [(out / f"slurm-7_{task}.log").read_text().splitlines() for task in (1, 2)]
    assert logs[0] == ["begun 1", "['fail', '4']", "[\"it's\", '1']", "['line\\nbreak', '3']"]
    assert logs[1] == ["begun 1", "['a b', '0']", "['$HOME', '2']"]
    lines = path.read_text().splitlines()
    last = max(i for i, line in enumerate(lines) if line.startswith("#SBATCH"))
    assert all(line.startswith("#") for line in lines[: last + 1])  # later ones would not count
    alone = subprocess.run(["bash", path], capture_output=True, text=True)
    assert alone.returncode and "submit this file with sbatch" in alone.stderr
    slurm.write_array(path, commands[:1], out, None)  # its own file may be written anew


def test_bad_files(tmp_path):
    header, path = tmp_path / "header", tmp_path / "runs.sbatch"
    with pytest.raises(UserError, match=r"--sbatch_header .*header: cannot be used"):
        slurm.write_array(path, [["x"]], tmp_path, header)
    header.write_text("#SBATCH --array=1-9\n")
    with pytest.raises(UserError, match="sets the array itself: drop #SBATCH --array=1-9"):
        slurm.write_array(path, [["x"]], tmp_path, header)
    with pytest.raises(UserError, match="there is a file that is no job array"):
        slurm.write_array(header, [["x"]], tmp_path, None)
    slurm.write_array(path, [["x"]], tmp_path / "one", None)
    with pytest.raises(UserError, match=r"that is no job array of .*two: give another"):
        slurm.write_array(path, [["x"]], tmp_path / "two", None)
    assert not (tmp_path / "two").exists() and header.read_text() == "#SBATCH --array=1-9\n"


def test_what_to_do_next(tmp_path, calls, capsys):
    """Printed with --sbatch; only runs that are left are in the file."""
    path, out = tmp_path / "runs.sbatch", tmp_path / "out"
    words = [*FLAGS, "--out", str(out), "--methods", "joint,uniform", "--seeds", "0,1"]
    asked = ["--jobs", "2", "--print_commands", "--sbatch", str(path)]
    compare.main([*words, *asked])
    first, submit, _, collect = capsys.readouterr().out.splitlines()
    assert first.startswith(f"4 runs in 4 tasks; their logs go to {out}.")
    assert shlex.split(submit) == ["sbatch", str(path)]
    assert shlex.split(collect)[2:] == [*words, "--collect"]
    compare.main([*words, "--seeds", "0"])
    compare.main([*words, "--print_commands", f"--sbatch={path}"])
    assert len(re.findall(r"--random_seed 1", path.read_text())) == 2
    assert "--random_seed 0" not in path.read_text() and not (out / "x").exists()
    compare.main(words)
    before, _ = path.read_text(), capsys.readouterr()
    tuned = ["--tune", "learning_rate=0.05,0.01", "--tune_seeds", "5"]
    compare.main([*words, *asked])
    assert capsys.readouterr().out.startswith("No run is left, nothing is written.\nWhen all")
    assert path.read_text() == before
    compare.main([*words, *tuned, *asked])
    assert "Then repeat this command: it writes the runs" in capsys.readouterr().out


@pytest.mark.slow  # every task is a process of its own
def test_an_array_trains_a_comparison(tmp_path, capsys):
    """And the table is made of it; submitted again, finished runs end at once."""
    path, out = tmp_path / "runs.sbatch", tmp_path / "out"
    words = ["--encoder", "cnn", "--epochs", "1", "--limit_batches", "2", "--device", "cpu"]
    words += ["--methods", "joint", "--seeds", "0", "--out", str(out)]
    compare.main([*words, "--print_commands", "--sbatch", str(path)])
    assert submitted(path) == ""
    assert "Result (best-val" in (out / "slurm-7_1.log").read_text()
    assert submitted(path) == ""
    assert "is finished" in (out / "slurm-7_1.log").read_text()
    compare.main([*words, "--collect"])
    assert re.search(r"^joint +1 ", capsys.readouterr().out, re.MULTILINE)
