"""Tests import the scripts and modules of the repository's root as the scripts themselves do: runtime first."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import runtime  # noqa: F401

from hypothesis import settings

settings.register_profile("unhurried", deadline=None)  # a busy machine is no failure
settings.register_profile("faults", deadline=None, max_examples=400)
settings.load_profile("unhurried")
