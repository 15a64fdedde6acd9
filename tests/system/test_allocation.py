"""Memory that one step has freed serves the next, without the system's help."""

import os
import platform
import subprocess
import sys

import pytest

STEPS = """
import resource, torch
from mmpareto.system.allocation import keep_memory
keep_memory()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for step in range(16):
    if step == 12:
        before = faults()
    a, b = torch.ones(10_000_000), torch.ones(10_000_000)
    del a, b
print(faults() - before)
"""


def page_faults(**environment):
    environment = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"} | environment
    command = [sys.executable, "-c", STEPS]
    return int(subprocess.check_output(command, env=environment, cwd="code", text=True))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="keeps memory with glibc only")
def test_kept_memory_causes_no_page_faults():
    assert page_faults() < 100
    assert page_faults(GLIBC_TUNABLES="", THP_MEM_ALLOC_ENABLE="0") > 10_000
