"""Pickles of arrays: what NumPy and PyTorch write is read as it is, whatever else is refused, and few bytes take
little memory."""

import contextlib
import pickle
import struct
import tempfile
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glm.weights.pytorch_files import LARGEST_INDEX, read_pytorch
from glm.weights.weight_files import read_pdparams
from glm.weights.weight_writers import integer, text

MAKE = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
ARRAYS = {
    "plain": np.arange(12, dtype="float32").reshape(3, 4),
    "of columns": np.asfortranarray(np.arange(6, dtype="float64").reshape(2, 3)),
    "half": np.arange(5, dtype="float16"),
    "big-endian": np.arange(4, dtype=">f4"),
    "a number": np.array(3.5, "float32"),
    "none": np.zeros([0, 4], "float32"),
    "large": np.arange(70_000, dtype="float32"),
}


def dtype(kind, order="<", parts=b"N", sizes=(-1, -1), flags=0):
    """What builds a dtype and sets its state."""
    numbers = b"".join(map(integer, (*sizes, flags)))
    return b"cnumpy\ndtype\n" + text(kind) + b"\x89\x88\x87R(K\x03" + text(order) + parts + b"NN" + numbers + b"tb"


def pdparams(described, content, shape=(4,)):
    """A .pdparams file of one array."""
    sizes = b"(" + b"".join(map(integer, shape)) + b"t"
    stored = b"\x8e" + struct.pack("<Q", len(content)) + content
    return b"\x80\x04}" + text("a") + MAKE + b"(K\x01" + sizes + described + b"\x89" + stored + b"tbs."


def arrays_of(read, path):
    """All arrays of a file by name."""
    weights = read(path)
    return {name: weights.take(name) for name in weights.shapes}


def reason(read, path):
    """Why a reader refuses a file, which takes next to no memory to find out."""
    tracemalloc.start()
    try:
        with pytest.raises(Exception) as told:  # noqa: PT011 (whatever it is, its message becomes the line)
            arrays_of(read, path)
        assert not isinstance(told.value, MemoryError)
        assert tracemalloc.get_traced_memory()[1] < 2**26
    finally:
        tracemalloc.stop()
    return str(told.value)


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("wrapped", [False, True], ids=["arrays", "named as paddle.save names them"])
def test_arrays_are_read_as_numpy_pickles_them(tmp_path, protocol, wrapped):
    path = tmp_path / "model_state.pdparams"

    class Named:
        """Pickled as paddle.save pickles a tensor."""

        def __init__(self, array):
            self.array = array

        def __reduce__(self):
            return tuple, (("linear_0.w_0", self.array),)

    content = {name: Named(array) if wrapped else array for name, array in ARRAYS.items()}
    path.write_bytes(pickle.dumps({**content, "StructuredToParameterName@@": {"a": "b"}}, protocol))
    weights = read_pdparams(path)
    assert weights.shapes == {name: array.shape for name, array in ARRAYS.items()}
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(weights.take(name), array, err_msg=name)


@pytest.mark.parametrize(
    ("described", "content", "message"),
    [
        (dtype("O8", "|"), bytes(32), "'O8' is nothing"),
        (dtype("f4", flags=63), bytes(16), "structured dtype or of objects"),
        (dtype("f4", parts=b"(" + dtype("f4") + b"(" + integer(100) + b"tt"), bytes(16), "structured dtype"),
        (dtype("f4", sizes=(400, 1)), bytes(16), "structured dtype"),
        (dtype("V8"), bytes(32), "'V8' is nothing"),
        (dtype("S4"), bytes(16), "'S4' is nothing"),
        (dtype("m8"), bytes(32), "'m8' is nothing"),
        (dtype("f4", order="?"), bytes(16), "structured dtype"),
        (dtype("f4"), bytes(12), "shape [4] with 12 bytes of float32"),
        (dtype("f4"), bytes(20), "shape [4] with 20 bytes of float32"),
        (b"N", bytes(16), "an array of Python objects"),
        (text("f4"), bytes(16), "an array of Python objects"),
    ],
)
def test_a_dtype_is_what_its_name_says_and_its_bytes_are_all_there(tmp_path, described, content, message):
    path = tmp_path / "model_state.pdparams"
    path.write_bytes(pdparams(described, content))
    assert message in reason(read_pdparams, path)


@pytest.mark.parametrize("shape", [(2**31 - 1, 2**31 - 1, 4), (-4,), (0, -1), (1,) * 9])
def test_a_shape_that_its_bytes_do_not_fill_is_refused(tmp_path, shape):
    path = tmp_path / "model_state.pdparams"
    path.write_bytes(pdparams(dtype("f4"), bytes(16), shape))
    assert "an array of" in reason(read_pdparams, path)


BOMBS = {
    "a memo of 2**28 places": b"]r" + struct.pack("<I", 2**28) + b".",
    "a text of 2**40 bytes": b"\x8d" + struct.pack("<Q", 2**40) + b"a.",
    "bytes of 2**60 bytes": b"\x8e" + struct.pack("<Q", 2**60) + b"a.",
    "a bytearray of 2**33 bytes": b"\x96" + struct.pack("<Q", 2**33) + b"a.",
    "a frame of 2**40 bytes": b"\x95" + struct.pack("<Q", 2**40) + b"}.",
    "a whole number of 2**31 bytes": b"\x8b" + struct.pack("<i", 2**31 - 1) + b"a.",
    "keys that could collide": b"}" + integer(1) + b"Ns.",
    "a set": b"\x8f(K\x01\x90.",
    "an object of its class": b"cnumpy\ndtype\n(X\x02\x00\x00\x00f4t\x81.",
    "a call of what is no function": b"cnumpy\nndarray\n)R.",
    "a call of a text": text("a") + b")R.",
    "an import": b"cposix\nsystem\n.",
    "an instruction of an extension": b"\x82\x01.",
    "an item of what is no dict": text("a") + text("b") + b"Ns.",
    "a list in place of a dict": b"].",
    "nothing": b"",
    "no end": b"}" * 9,
}


@pytest.mark.parametrize("content", BOMBS.values(), ids=BOMBS)
def test_what_is_no_dict_of_arrays_is_refused_and_takes_no_memory(tmp_path, content):
    reason(read_pdparams, write(tmp_path / "model_state.pdparams", b"\x80\x04" + content))
    with zipfile.ZipFile(tmp_path / "pytorch_model.bin", "w") as file:
        file.writestr("a/data.pkl", b"\x80\x02" + content)
    reason(read_pytorch, tmp_path / "pytorch_model.bin")


def write(path, content):
    path.write_bytes(content)
    return path


def test_bytes_that_are_made_again_and_again_are_refused(tmp_path):
    call = b"c_codecs\nencode\n" + b"h\x00" + text("latin1") + b"\x86R0"
    content = b"\x80\x02X" + struct.pack("<I", 10**5) + b"a" * 10**5 + b"q\x000" + call * 1000 + b"}."
    assert "more bytes of arrays than the file has" in reason(read_pdparams, write(tmp_path / "a.pdparams", content))


def test_more_instructions_than_a_model_takes_are_refused(tmp_path):
    content = b"\x80\x02" + b"N0" * 500_001 + b"}."
    assert "instructions" in reason(read_pdparams, write(tmp_path / "a.pdparams", content))


def pytorch(path, pickled, numbers, compression=zipfile.ZIP_STORED):
    """A pytorch_model.bin whose description is given, with one member of numbers."""
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("archive/data.pkl", pickled)
        file.writestr("archive/data/0", numbers.tobytes())
    return path


def tensor(offset, shape, stride, member="0"):
    """The pickle of {"a": a tensor}."""
    sizes = [b"(" + b"".join(map(integer, some)) + b"t" for some in (shape, stride)]
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(member) + text("cpu") + integer(12) + b"tQ"
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + integer(offset) + b"".join(sizes)
    return b"\x80\x02}" + text("a") + call + b"\x89ccollections\nOrderedDict\n)RtRs."


NUMBERS = np.arange(12, dtype="float32")


@pytest.mark.parametrize(
    ("offset", "shape", "stride", "expected"),
    [
        (0, (3, 4), (4, 1), NUMBERS.reshape(3, 4)),
        (0, (4, 3), (1, 4), NUMBERS.reshape(3, 4).T),
        (2, (5,), (2,), NUMBERS[2:12:2]),
        (11, (), (), NUMBERS[11]),
    ],
)
def test_tensors_are_read_where_they_lie(tmp_path, offset, shape, stride, expected):
    path = pytorch(tmp_path / "pytorch_model.bin", tensor(offset, shape, stride), NUMBERS)
    weights = read_pytorch(path)
    assert weights.shapes == {"a": expected.shape}
    np.testing.assert_array_equal(weights.take("a"), expected)


@pytest.mark.parametrize(
    ("offset", "shape", "stride"),
    [
        (0, (13,), (1,)),
        (9, (4,), (1,)),
        (-1, (4,), (1,)),
        (0, (2, 2), (-1, 1)),
        (0, (2**30,), (0,)),
        (0, (2, 2), (1,)),
        (2**62, (4,), (1,)),
        (0, (4,), (2**62,)),
    ],
)
def test_tensors_that_lie_elsewhere_are_refused(tmp_path, offset, shape, stride):
    def big(value):
        return integer(value) if abs(value) < 2**31 else b"\x8a\x08" + struct.pack("<q", value)

    pickled = tensor(0, (4,), (1,))
    pickled = pickled.replace(b"tQ" + integer(0), b"tQ" + big(offset))
    for old, new in (((4,), shape), ((1,), stride)):
        pickled = pickled.replace(b"(" + integer(old[0]) + b"t", b"(" + b"".join(map(big, new)) + b"t", 1)
    assert "a " in reason(read_pytorch, pytorch(tmp_path / "pytorch_model.bin", pickled, NUMBERS))


def test_a_compressed_member_is_refused_unread(tmp_path):
    path = pytorch(tmp_path / "pytorch_model.bin", tensor(0, (4,), (1,)), NUMBERS, zipfile.ZIP_DEFLATED)
    assert "archive/data.pkl is compressed" in reason(read_pytorch, path)


def test_a_description_that_is_too_large_is_refused_unread(tmp_path):
    path = pytorch(tmp_path / "pytorch_model.bin", bytes(LARGEST_INDEX + 1), NUMBERS)
    assert f"at most {LARGEST_INDEX} are read" in reason(read_pytorch, path)


@pytest.mark.parametrize("size", [100, 2**40, 2**63, 2**64 - 1])
@pytest.mark.parametrize("framed", [False, True])
def test_bytes_that_are_not_there_are_refused_whatever_their_number(tmp_path, size, framed):
    content = b"}" + text("a") + b"\x8e" + struct.pack("<Q", size) + b"x" * 40 + b"s."
    frame = b"\x95" + struct.pack("<Q", len(content)) if framed else b""
    (tmp_path / "a.pdparams").write_bytes(b"\x80\x04" + frame + content)
    with pytest.raises((EOFError, pickle.UnpicklingError)):
        read_pdparams(tmp_path / "a.pdparams")


@given(st.data())
def test_a_changed_pickle_gives_whole_arrays_or_is_refused(data):
    """Some bytes of a real file, anywhere: what is read then is of numbers, and no larger than the file."""
    content = bytearray(pickle.dumps({name: ARRAYS[name] for name in ("plain", "of columns", "half")}, 4))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with tempfile.NamedTemporaryFile(suffix=".pdparams") as file:
        file.write(content)
        file.flush()
        arrays = {}
        with contextlib.suppress(ValueError, TypeError, LookupError, AttributeError, EOFError, pickle.PickleError):
            arrays = arrays_of(read_pdparams, file.name)
    assert all(array.dtype.kind in "fiub" and array.nbytes <= len(content) for array in arrays.values())
