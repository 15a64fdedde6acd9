"""Importing this module loads the data of the run whose flags `server.WORDS` holds.

The server imports it, so that the runs that are forked from there find data and packages loaded.
"""

import json
import os
from contextlib import suppress

import torch
import torch._dynamo  # optimizers import it, which takes seconds

from ..run import options, setup
from .server import WORDS

if words := os.environ.get(WORDS):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # OpenMP's threads do not survive a fork, and the next use would hang
    with suppress(Exception):  # the run itself will meet it, and say it
        flags = options.parse(json.loads(words))
        setup.keep_data(flags)
        setup.load_data(flags)  # for what it imports
    torch.set_num_threads(threads)
