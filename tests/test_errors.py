"""How a program ends."""

import subprocess
import sys

import pytest

from tests.helpers import ROOT

# As the destructors of paddle's connections do now and then.
SCRIPT = """
import atexit, os, sys
atexit.register(os.abort)
from glm import errors

with errors.one_line_errors():
    errors.end_without_destructors()
    print("worked", end="")
    {ending}
"""


@pytest.mark.parametrize(
    ("ending", "code", "said"),
    [
        ("pass", 0, ""),
        ("raise errors.UserError('mend it')", 2, "error: mend it"),
        ("raise errors.RunError('no more')", 1, "error: no more"),
        ("raise errors.Interrupted(15, 'saved')", 143, "SIGTERM: saved"),
        ("raise KeyError('lost')", 1, "KeyError: 'lost'"),
    ],
)
def test_a_rank_ends_with_its_own_exit_code_whatever_destructors_do(ending, code, said):
    command = [sys.executable, "-c", SCRIPT.format(ending=ending)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == code
    assert done.stdout == "worked"
    assert said in done.stderr
