"""What is known of a processor by what the system says of it."""

import pytest

from glm.ops.processor import multiplies_with_avx512

WHOLE = "avx512f avx512cd avx512bw avx512dq avx512vl"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (f"fpu avx2 {WHOLE} avx512_vnni", True),
        ("fpu avx2", False),
        ("", False),
        *((f"avx2 {WHOLE.replace(part, '')}", False) for part in WHOLE.split()),
    ],
)
def test_all_of_avx512_has_to_be_there(flags, expected):
    assert multiplies_with_avx512(f"processor\t: 0\nflags\t\t: {flags}\n") is expected
