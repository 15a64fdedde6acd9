"""Memory that one step has freed serves the next, without the system's help."""

import os
import platform
import subprocess
import sys

import pytest

STEPS = """
import resource
from mmpareto.system.processes import keep_memory
keep_memory()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for step in range(6):
    if step == 4:
        before = faults()
    a, b = (MAKE for _ in range(2))
    del a, b
print(faults() - before)
"""


def page_faults(make, **environment):
    environment = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"} | environment
    command = [sys.executable, "-c", STEPS.replace("MAKE", make)]
    return int(subprocess.check_output(command, env=environment, cwd="code", text=True))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="keeps memory with glibc only")
@pytest.mark.parametrize(
    "make",
    [
        "b'x' * 40_000_000",
        pytest.param("__import__('torch').ones(10_000_000)", marks=pytest.mark.slow),
    ],
)
def test_kept_memory_causes_no_page_faults(make):
    assert page_faults(make) < 100
    assert page_faults(make, GLIBC_TUNABLES="", THP_MEM_ALLOC_ENABLE="0") > 10_000
