"""An ONNX graph in the making: its nodes, and its weights in a file beside it.

A product by a matrix of 8 bits is of whole numbers. The matrix has a scale for each of its columns; each token becomes
whole numbers as it comes, with a scale of its own, so that an outlier in one token costs the others nothing.

What multiplies uint8 and int8 fast and exactly, newer processors have alone (ops/processor.py). For the others matrices
are uint8, and products of two uint8 are exact everywhere. Where they are int8, two inputs say how large the whole
numbers of tokens may be, for a processor that would cut off large sums:

    token_range [1] float32; token_zero [1] uint8, one more, which stands for 0.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper

from glm.export.whole_numbers import BLOCK, LARGEST, ROWS, SCALES, WORDS, four_bits, quantized

# Of what is unsigned, it stands for 0.
ZERO = 128
# A token of zeros has a scale, too.
SMALLEST_SCALE = 1e-30
OPSETS = {"": 20, "com.microsoft": 1}
# External weights begin at multiples of a page, so that they can be mapped.
PAGE = 4096
MICROSOFT = "com.microsoft"


class Weights:
    """Arrays in a file beside the graph, written one at a time."""

    def __init__(self, file, location):
        self.file = file
        self.location = location

    def place(self, array):
        """Write an array; where it begins."""
        self.file.write(bytes(-self.file.tell() % PAGE))
        offset = self.file.tell()
        self.file.write(np.ascontiguousarray(array).data)
        return offset

    def add(self, name, array):
        """The TensorProto of an array, which is written."""
        tensor = TensorProto(name=name, dims=array.shape, data_type=helper.np_dtype_to_tensor_dtype(array.dtype))
        tensor.data_location = TensorProto.EXTERNAL
        where = {"location": self.location, "offset": self.place(array), "length": array.nbytes}
        for key, value in where.items():
            tensor.external_data.add(key=key, value=str(value))
        return tensor


class Graph:
    """Nodes and weights of a graph in the making. Values are known by their names."""

    def __init__(self, weights, matrices="float32", bits=8):
        """weights: Weights. matrices: their dtype, float32, int8 or uint8. bits: of those of small_product()."""
        self.weights, self.bits = weights, bits
        self.whole_numbers, self.unsigned = matrices != "float32", matrices == "uint8"
        self.nodes, self.inputs, self.outputs, self.initializers = [], [], [], {}
        self.whole, self.metadata = {}, {}
        if self.whole_numbers and not self.unsigned:
            self.input("token_range", [1])
            self.input("token_zero", [1], TensorProto.UINT8)

    def input(self, name, shape, kind=TensorProto.FLOAT):
        """An input; names in its shape stand for lengths that are open."""
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))

    def output(self, value, shape):
        """Make a value an output; gives the value."""
        self.outputs.append(helper.make_tensor_value_info(value, TensorProto.FLOAT, shape))
        return value

    def weight(self, name, array):
        """An array of the model."""
        if name not in self.initializers:
            self.initializers[name] = self.weights.add(name, array)
        return name

    def constant(self, value, dtype="float32"):
        """A small array, in the graph itself."""
        array = np.asarray(value, dtype=dtype)
        name = f"{dtype}:{array.tolist()}"
        if name not in self.initializers:
            self.initializers[name] = onnx.numpy_helper.from_array(array, name)
        return name

    def shape(self, *sizes):
        """A constant shape; 0 is the size before, -1 what is left."""
        return self.constant(sizes, "int64")

    def apply(self, kind, *values, results=1, named=None, domain="", **attributes):
        """An operator's result, or list of several. named: what it is called, or a list of what they are."""
        names = [f"{kind}.{len(self.nodes)}.{i}" for i in range(results)]
        if named:
            names = [named] if results == 1 else named
        self.nodes.append(helper.make_node(kind, values, names, domain=domain, **attributes))
        return names[0] if results == 1 else names

    def product(self, tokens, name, matrix):
        """tokens [tokens, n] @ matrix [n, m]."""
        if not self.whole_numbers:
            return self.apply("MatMul", tokens, self.weight(name, matrix))
        numbers, of_columns = quantized(matrix)
        if self.unsigned:
            numbers = (numbers.astype("int16") + ZERO).astype("uint8")
        weights = self.weight(name, numbers), self.weight(f"{name}.scales", of_columns)
        whole, scales = self.quantized_tokens(tokens)
        sides = [whole, weights[0], self.constant([1.0]), weights[1], self.token_range()[1]]
        if self.unsigned:
            sides.append(self.constant([ZERO], "uint8"))
        return self.apply("Mul", self.apply("MatMulIntegerToFloat", *sides, domain=MICROSOFT), scales)

    def small_product(self, tokens, name, matrix):
        """product(), of a matrix of `bits` bits."""
        if self.bits == 8 or not self.whole_numbers:
            return self.product(tokens, name, matrix)
        numbers, scales, zeros = four_bits(matrix)
        kinds = {"": numbers, ".scales": scales, ".zeros": zeros}
        weights = [self.weight(f"{name}{kind}", array) for kind, array in kinds.items()]
        about = {"K": matrix.shape[0], "N": matrix.shape[1], "bits": 4, "block_size": BLOCK}
        # Level 4: tokens become whole numbers of 8 bits, in blocks as the matrix.
        return self.apply("MatMulNBits", tokens, *weights, domain=MICROSOFT, accuracy_level=4, **about)

    def token_range(self):
        """The largest whole number that tokens become, and what stands for 0."""
        if self.unsigned:
            return self.constant([float(LARGEST)]), self.constant([ZERO], "uint8")
        return "token_range", "token_zero"

    def quantized_tokens(self, tokens):
        """(whole numbers, uint8 [tokens, n]; scales [tokens, 1]) of tokens [tokens, n], which are nearly (the first -
        token_zero) * the second."""
        if tokens not in self.whole:
            token_range, token_zero = self.token_range()
            largest = self.apply("ReduceMax", self.apply("Abs", tokens), self.shape(1), keepdims=0)
            scales = self.apply("Div", self.apply("Max", largest, self.constant(SMALLEST_SCALE)), token_range)
            zeros = self.apply("Expand", token_zero, self.apply("Shape", scales))
            whole = self.apply("QuantizeLinear", tokens, scales, zeros, axis=0)
            self.whole[tokens] = whole, self.apply("Unsqueeze", scales, self.shape(1))
        return self.whole[tokens]

    def rows(self, name, matrix, ids):
        """Rows [batch, length, m] of a matrix [n, m] at ids [batch, length], of the weight that product() of its
        transpose has. With 8 bits they are an input, WORDS, and the file has their whole numbers, int8 [n, m], and
        their scales, float32 [n], where the graph's metadata says."""
        if not self.whole_numbers:
            columns = self.apply("Gather", self.weight(name, matrix.T), ids, axis=1)
            return self.apply("Transpose", columns, perm=[1, 2, 0])
        numbers, scales = quantized(matrix.T)
        self.metadata = {ROWS: self.weights.place(numbers.T), SCALES: self.weights.place(scales)}
        self.input(WORDS, ["batch", "length", matrix.shape[1]])
        return WORDS

    def finished(self):
        """The ModelProto."""
        initializers = list(self.initializers.values())
        graph = helper.make_graph(self.nodes, "glm", self.inputs, self.outputs, initializers)
        opsets = [helper.make_opsetid(domain, version) for domain, version in OPSETS.items()]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        helper.set_model_props(model, {key: str(value) for key, value in self.metadata.items()})
        return model
