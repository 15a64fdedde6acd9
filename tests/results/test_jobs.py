"""Commands side by side: what they print, what they end with, and that none is left."""

import os
import signal
import sys
import time

import pytest

from mmpareto.results import jobs


class TestJobs:
    def child(self, code, log=None, environment=None):
        return jobs.Child([sys.executable, "-c", code], environment or dict(os.environ), log)

    def ended(self, child):
        end = time.monotonic() + 60
        while child.poll() is None:
            assert time.monotonic() < end, "waited too long"
            time.sleep(0.01)
        return child

    def test_output_to_a_file(self, tmp_path, capfd):
        environment = jobs.share_of_cores(2)
        child = self.child(
            "import sys; print('rows'); print('error: all wrong', file=sys.stderr); exit(3)",
            tmp_path / "log", environment,
        )  # fmt: skip
        assert self.ended(child).poll() == 3 and child.last_line() == "all wrong"
        assert (tmp_path / "log").read_text() == "rows\nerror: all wrong\n"
        assert capfd.readouterr() == ("", "")

    def test_output_to_the_console(self, capfd):
        """The console is the child's own; how it ended is told apart."""
        start = "from mmpareto.system import entry\nfrom mmpareto.system.errors import *\n"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        memory = "not enough memory (16 TB): give a smaller --batch_size"
        for ends, told, shown in (
            ("UserError('all wrong')", "all wrong", "error: all wrong\n"),
            ("MemoryError('16 TB')", memory, None),
            ("LookupError('x')", "LookupError: x", None),
            ("KeyboardInterrupt", "", ""),
        ):
            code = f"{start}def main(words):\n  print('rows')\n  raise {ends}\nentry.run(main)"
            child = self.ended(self.child(code, environment=environment))
            out, error = capfd.readouterr()
            assert (child.last_line(), out) == (told, "rows\n")
            assert told in error and shown in (None, error)

    def test_share_of_cores_and_words_for_codes(self, monkeypatch):
        monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(8), raising=False)
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        threads = [jobs.share_of_cores(n).get("OMP_NUM_THREADS") for n in (1, 2, 3, 9)]
        assert threads == [None, "4", "2", "1"]
        monkeypatch.setenv("OMP_NUM_THREADS", "7")
        assert jobs.share_of_cores(2)["OMP_NUM_THREADS"] == "7"
        assert (jobs.how(2), jobs.how(-9)) == ("exit 2", "killed by SIGKILL")

    def test_as_many_as_slots(self):
        """Never more at once, and no slot twice at a time."""
        now, most, used = set(), [], []

        class Counted:
            polls = 0

            def __init__(self, slot):
                assert slot not in now
                now.add(slot)
                most.append(len(now))
                self.slot = slot

            def poll(self):
                self.polls += 1
                return 0 if self.polls > 1 else None

        def ended(task, child):
            now.remove(child.slot)
            used.append(task)

        jobs.run(range(5), ["a", "b"], lambda task, slot: Counted(slot), ended)
        assert sorted(used) == [0, 1, 2, 3, 4] and max(most) == 2

    @pytest.mark.parametrize("deaf", [False, True])
    def test_nothing_is_left_running(self, tmp_path, monkeypatch, deaf):
        """Neither of those that end when they are interrupted, nor of those that do not."""
        monkeypatch.setattr(jobs, "GRACE", 0.2)
        ignore = "signal.signal(signal.SIGINT, signal.SIG_IGN);" if deaf else ""
        code = f"import signal, time; {ignore} print('ready', flush=True); time.sleep(60)"
        children = []

        def start(task, slot):
            children.append(self.child(code if task else "pass", tmp_path / f"{task}"))
            return children[-1]

        def interrupted(task, child):
            while any((tmp_path / name).read_text() != "ready\n" for name in "12"):
                time.sleep(0.01)
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            jobs.run([1, 2, 0], [None] * 3, start, interrupted)
        codes = {child.process.returncode for child in children[:2]}
        assert codes == {-signal.SIGKILL if deaf else -signal.SIGINT}

    def test_sigterm_stops_all(self, tmp_path):
        """As a scheduler sends it: like Ctrl-C."""
        code = f"import os, signal, time; os.kill({os.getpid()}, signal.SIGTERM); time.sleep(60)"
        started = []

        def start(task, slot):
            started.append(self.child(code, tmp_path / "log"))
            return started[0]

        with pytest.raises(KeyboardInterrupt):
            jobs.run([0], [None], start, lambda task, child: None)
        assert started[0].poll() == -signal.SIGINT
