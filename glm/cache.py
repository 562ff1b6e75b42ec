"""Where what is made once is kept: the built-in model, token ids, jieba's dictionary. Only the standard library."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def cache_directory(cache_dir=None):
    """cache_dir; by default the environment's GLM_CACHE_DIR, or .cache at the root of the project."""
    return Path(cache_dir or os.environ.get("GLM_CACHE_DIR") or ROOT / ".cache").expanduser()


def own_cache_directory(cache_dir=None):
    """cache_directory(), which is there when this returns; made here, nobody else may read it."""
    directory = cache_directory(cache_dir)
    directory.parent.mkdir(parents=True, exist_ok=True)
    directory.mkdir(mode=0o700, exist_ok=True)
    return directory
