"""Matrices as whole numbers of 8 or 4 bits with scales, in NumPy.

8 bits: a scale for each column.
4 bits: a scale and a zero point for each BLOCK numbers of a column, as onnxruntime's MatMulNBits reads them.
"""

import numpy as np

# Numbers of 8 bits are from -LARGEST to LARGEST.
LARGEST = 127
# Of 4 bits: numbers of a column that share a scale, and how far they reach.
BLOCK, LEVELS = 32, 15
# Of a block's range, shares that are tried: what is cut off at its ends costs less, now and then, than coarser steps.
SHARES = (1.0, 0.95, 0.9, 0.85, 0.8)
# An ONNX graph's input of embeddings, and its metadata that say where the file of weights has those.
WORDS, ROWS, SCALES = "words", "rows_at", "scales_at"


def quantized(matrix):
    """(int8 [n, m], float32 [m]) of a matrix [n, m], which is nearly the first * the second: whole numbers from
    -LARGEST to LARGEST and a scale for each column, its largest number over LARGEST."""
    scales = np.abs(matrix).max(axis=0) / np.float32(LARGEST)
    return np.rint(matrix / np.where(scales > 0, scales, np.float32(1))).astype("int8"), scales


def blocks_of(matrix):
    """[m, blocks, BLOCK] of a matrix [n, m]: the columns in blocks, the last one filled up with zeros."""
    columns = np.ascontiguousarray(matrix.T)
    rest = -columns.shape[1] % BLOCK
    return np.pad(columns, [(0, 0), (0, rest)]).reshape([len(columns), -1, BLOCK])


def quantized_blocks(blocks):
    """(uint8, from 0 to LEVELS, of the same shape; scales float32 [m, n, 1]; zero points, likewise) of blocks [m, n,
    BLOCK], which are nearly (the first - zero points) * scales. Of SHARES, each block has the one that its squared
    errors are smallest with."""
    best = None
    # 0 is always among what can be told.
    lowest, highest = np.minimum(blocks.min(axis=2, keepdims=True), 0), np.maximum(blocks.max(axis=2, keepdims=True), 0)
    for share in SHARES:
        scales = np.maximum((highest - lowest) * np.float32(share / LEVELS), np.float32(1e-12))
        zeros = np.clip(np.rint(-lowest * np.float32(share) / scales), 0, LEVELS)
        numbers = np.clip(np.rint(blocks / scales) + zeros, 0, LEVELS)
        errors = np.square((numbers - zeros) * scales - blocks).sum(axis=2, keepdims=True)
        found = errors, numbers.astype("uint8"), scales, zeros
        if best is None:
            best = found
        else:
            better = errors < best[0]
            best = tuple(np.where(better, new, old) for new, old in zip(found, best, strict=True))
    return best[1:]


def packed(numbers):
    """uint8 [..., ceil(n / 2)]: numbers of 4 bits [..., n], two in a byte, the first one in its lower half."""
    numbers = np.pad(numbers, [(0, 0)] * (numbers.ndim - 1) + [(0, numbers.shape[-1] % 2)])
    return numbers[..., ::2] | numbers[..., 1::2] << 4


def four_bits(matrix):
    """(numbers uint8 [m, blocks, BLOCK / 2], scales float32 [m * blocks], zero points uint8 [m * ceil(blocks / 2)]) of
    a matrix [n, m], as MatMulNBits takes them."""
    numbers, scales, zeros = quantized_blocks(blocks_of(matrix))
    return packed(numbers), scales.reshape(-1), packed(zeros[:, :, 0].astype("uint8")).reshape(-1)
