"""A trial of a program, for glm.export.trial:

python -m glm.export DIRECTORY PREFIX RUNTIME DEVICE BACKEND
"""

import glm.runtime  # noqa: F401  sets what paddle reads when it is imported

import sys

from glm.errors import one_line_errors
from glm.export import trial
from glm.export.program import describe
from glm.export.runners import RUNNERS


def main():
    """Run a program once. Ends with an exit code, or by a signal."""
    directory, prefix, runtime, device, backend = sys.argv[1:]
    with one_line_errors():
        program = describe(directory, prefix)
        trial.run(program, RUNNERS[runtime](program, device, backend))


if __name__ == "__main__":
    main()
