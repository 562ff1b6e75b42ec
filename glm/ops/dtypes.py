"""The dtypes that weights are stored in, bfloat16 among them, which NumPy has not; and what fits into which.

Dtypes go by name. Importing this imports no paddle.
"""

import ml_dtypes
import numpy as np

from glm.errors import UserError

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
WEIGHT_DTYPES = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2"), "bfloat16": BFLOAT16}
# Those that halve a file of weights.
HALVES = ("float16", "bfloat16")


class RangeError(UserError):
    """A weight has a number that the dtype asked for cannot hold; the message says which, in one line."""


def largest(dtype):
    """The largest finite number of a dtype."""
    return float(ml_dtypes.finfo(dtype).max)


def check_range(name, least, greatest, dtype):
    """Raise RangeError if a dtype cannot hold numbers from least to greatest: they would become infinite."""
    worst = greatest if greatest >= -least else least
    if abs(worst) > largest(dtype) and np.isfinite(worst):
        raise RangeError(f"{name} has the number {worst:g}, but {dtype} ends at {largest(dtype):g}; keep it in float32")


def rounded(name, array, dtype):
    """An array in a dtype of WEIGHT_DTYPES, its memory in one piece. Raises RangeError, with the name, for what it
    cannot hold."""
    if array.size and largest(dtype) < largest(array.dtype):
        check_range(name, float(array.min()), float(array.max()), dtype)
    # What overflows none the less is infinite before, too; for that, others ask.
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array, WEIGHT_DTYPES[str(dtype)])


def of_dtype(tensor, dtype):
    """A tensor in a dtype of paddle's; itself if it has it, where astype() would copy it."""
    return tensor if tensor.dtype == dtype else tensor.astype(dtype)


def name_of(tensor):
    """Name of the dtype of a tensor or array."""
    return str(tensor.dtype).split(".")[-1]


def to_numpy(tensor):
    """A tensor as an array of its dtype; an array as it is."""
    if isinstance(tensor, np.ndarray):
        return tensor
    # paddle gives bfloat16 as its bits.
    return tensor.numpy().view(BFLOAT16) if name_of(tensor) == "bfloat16" else tensor.numpy()


def for_paddle(array):
    """An array as paddle takes it: bfloat16 as its bits."""
    return array.view(np.uint16) if array.dtype == BFLOAT16 else array
