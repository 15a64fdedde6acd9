"""How a command of ours asks the system for memory."""

import ctypes
import os

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_memory() -> None:
    """Keep what tensors on a CPU have left for the next ones, in huge pages where they are large.

    Every step frees and takes again as much as all gradients and activations hold. Given back each
    time, the system has to clear it anew, page by page: 10 to 20 % of a small step. The peak stays
    what it was. Who sets GLIBC_TUNABLES, if only to nothing, decides alone.
    """
    if "GLIBC_TUNABLES" in os.environ:
        return
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch reads it at its first allocation
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc has it
    if mallopt:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
