"""Files that torch.save wrote before 1.6: read as documented, or refused in one line and without memory."""

import pickle
import struct

import numpy as np
import pytest

from glm.weights.pytorch_files import LARGEST_INDEX, read_pytorch
from tests.weights.test_dtypes import MACHINE, old_pytorch_file, text
from tests.weights.test_pickled_arrays import BOMBS, arrays_of, reason

MAGIC = 0x1950A86A20F9469CFC6C
ARRAYS = {
    "matrix": np.arange(12, dtype="float32").reshape(3, 4),
    "none": np.zeros([0, 3], "float32"),
    "half": np.arange(5, dtype="float32"),
    "ids": np.arange(7, dtype="float32"),
}
CODES = {"matrix": "F32", "none": "F32", "half": "F16", "ids": "I64"}


@pytest.fixture
def path(tmp_path):
    old_pytorch_file(tmp_path, ARRAYS, CODES)
    return tmp_path / "pytorch_model.bin"


def test_tensors_of_all_types_are_found_behind_each_other(path):
    weights = read_pytorch(path)
    assert weights.shapes == {name: array.shape for name, array in ARRAYS.items()}
    assert weights.dtypes == {"matrix": "float32", "none": "float32", "half": "float16", "ids": "int64"}
    for name in ("matrix", "none", "half"):
        np.testing.assert_array_equal(weights.take(name), ARRAYS[name])


def test_more_than_ten_storages_lie_in_the_order_of_their_names(tmp_path):
    """torch.save sorts the keys as texts: 0, 1, 10, 11, 2."""
    arrays = {f"a{number}": np.full([number + 1], number, "float32") for number in range(25)}
    old_pytorch_file(tmp_path, arrays, dict.fromkeys(arrays, "F32"))
    found = arrays_of(read_pytorch, tmp_path / "pytorch_model.bin")
    assert {name: array.tolist() for name, array in found.items()} == {
        name: array.tolist() for name, array in arrays.items()
    }


def test_a_view_of_a_storage_is_read_where_it_lies(path):
    """A transposed tensor, as torch.save keeps one."""
    content = path.read_bytes()
    plain = b"(" + struct.pack("<ci", b"J", 3) + struct.pack("<ci", b"J", 4) + b"t"
    plain += b"(" + struct.pack("<ci", b"J", 4) + struct.pack("<ci", b"J", 1) + b"t"
    turned = b"(" + struct.pack("<ci", b"J", 4) + struct.pack("<ci", b"J", 3) + b"t"
    turned += b"(" + struct.pack("<ci", b"J", 1) + struct.pack("<ci", b"J", 4) + b"t"
    assert content.count(plain) == 1
    path.write_bytes(content.replace(plain, turned))
    np.testing.assert_array_equal(read_pytorch(path).take("matrix"), ARRAYS["matrix"].T)


def head(*contents):
    return b"".join(pickle.dumps(content, protocol=2) for content in contents)


WHOLE = (MAGIC, 1001, MACHINE)


@pytest.mark.parametrize("content", BOMBS.values(), ids=BOMBS)
def test_no_pickle_of_the_file_may_be_a_bomb(tmp_path, content):
    for number in range(4):
        path = tmp_path / "pytorch_model.bin"
        path.write_bytes(head(*WHOLE[:number]) + b"\x80\x04" + content)
        assert len(reason(read_pytorch, path).splitlines()) <= 1


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (head("text"), "neither a zip file nor pickles"),
        (b"<html>not found</html>", "neither a zip file nor pickles"),
        (head(MAGIC, 1000), "it is of version 1000"),
        (head(MAGIC, 1001, {**MACHINE, "little_endian": False}), "little-endian"),
        (head(MAGIC, 1001, [1]), "little-endian"),
        (head(*WHOLE, {}), "it ends too early"),
        (head(*WHOLE, {}, {"a": 1}), "not those that it lists"),
        (head(*WHOLE, {}, ["0"]), "not those that it lists"),
        (head(*WHOLE, {}, [["0"]]), "not those that it lists"),
        (head(*WHOLE, {"a": 1}, []), "no dict of tensors"),
        (head(*WHOLE, ["a"], []), "no dict of tensors"),
        (head(*WHOLE) + b"\x80\x02}" + text("a") + b"X" + struct.pack("<I", LARGEST_INDEX), "it ends too early"),
    ],
)
def test_what_is_no_such_file_is_told(tmp_path, start, message):
    (tmp_path / "pytorch_model.bin").write_bytes(start)
    assert message in reason(read_pytorch, tmp_path / "pytorch_model.bin")


def test_a_description_that_is_too_large_is_refused(tmp_path):
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(head(*WHOLE) + b"\x80\x02}" + text("a" * LARGEST_INDEX) + text("b") + b"s.")
    assert f"more than {LARGEST_INDEX} bytes of description" in reason(read_pytorch, path)


def test_storages_that_are_not_as_described_are_told(path):
    whole = path.read_bytes()
    counts = [struct.pack("<q", array.size) for array in ARRAYS.values()]
    for wrong in (0, 11, 13, 2**40, 2**62, -1):
        path.write_bytes(whole.replace(counts[0] + bytes(4), struct.pack("<q", wrong) + bytes(4), 1))
        assert "storage 0 is not there whole" in reason(read_pytorch, path)
    path.write_bytes(whole[:-1])
    assert "storage 3 is not there whole" in reason(read_pytorch, path)
    # Two tensors that say different things of one storage, and one that lies in a part of another.
    path.write_bytes(whole.replace(text("2") + text("cpu"), text("0") + text("cpu")))
    assert "a storage 0 of two kinds" in reason(read_pytorch, path)
    path.write_bytes(whole.replace(b"NtQ", b"(K\x00K\x00K\x01ttQ", 1))
    assert "part of another one" in reason(read_pytorch, path)
    # A tensor that reaches beyond its storage.
    path.write_bytes(whole.replace(struct.pack("<ci", b"J", 3) + struct.pack("<ci", b"J", 4), b"J\4\0\0\0J\4\0\0\0", 1))
    assert "matrix reaches beyond" in reason(read_pytorch, path)
