"""A program that this machine has not made or run yet is run in a process of its own first.

Paddle's C++ library believes what a graph says. One that was altered within what inspection.py sees can make it read
where nothing is, and that ends the process: then one that has nothing to lose.
"""

import hashlib
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np

from glm import texts
from glm.cache import ROOT, cache_directory, own_cache_directory
from glm.decoding.generation_config import feeds
from glm.export.program import ProgramError, config_path

FOLDER = "programs"
# Of a program's first two prompts: pieces.
LENGTH = 4


def digest(program):
    """What a program.Program is known by: a hash of its graph, its description and the size of its weights."""
    known = hashlib.sha256(str(program.params_file.stat().st_size).encode())
    for path in (program.model_file, config_path(program.directory, program.prefix)):
        known.update(path.read_bytes())
    return known.hexdigest()


def remember(program):
    """Take a program as one that runs: it was made or tried here."""
    try:
        folder = own_cache_directory() / FOLDER
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / digest(program)).touch()
    except OSError:
        # Where nothing can be kept, it is tried again.
        return


def check(program, runtime, device, backend):
    """Raise ProgramError unless a program runs, in another process, as runners.open_program() is asked to run it. One
    that is known to is not run again."""
    if (cache_directory() / FOLDER / digest(program)).is_file():
        return
    command = [sys.executable, "-m", "glm.export", str(program.directory.absolute()), program.prefix]
    # What it says becomes part of a message here.
    english = {**os.environ, texts.VARIABLE: "en"}
    tried = subprocess.run([*command, runtime, device, backend], cwd=ROOT, capture_output=True, text=True, env=english)
    if tried.returncode:
        lines = tried.stderr.strip().splitlines()
        told = next((line for line in lines if line.startswith("error: ")), None)
        reason = told or (f"signal {-tried.returncode}" if tried.returncode < 0 else lines[-1] if lines else "no word")
        raise ProgramError(f"{program.model_file}: does not run ({reason.removeprefix('error: ')}); export it again")
    remember(program)


def run(program, opened):
    """Run a program, opened as one of runners.RUNNERS, on two short prompts. Raises ProgramError if it gives anything
    but ids of them."""
    config = replace(program.config, max_new_tokens=2, min_new_tokens=0)
    prompts = {
        "input_ids": np.zeros([2, LENGTH], "int64"),
        "source_mask": np.ones([2, LENGTH], "float32"),
        "mask_index": np.full([2], LENGTH - 1, "int64"),
    }
    ids = opened.run(feeds(prompts, config))[0]
    if ids.dtype != np.int64 or ids.ndim != 3 or len(ids) != 2:
        raise ProgramError(
            f"{program.model_file}: gives {ids.dtype} {list(ids.shape)} instead of token ids; export it again"
        )
