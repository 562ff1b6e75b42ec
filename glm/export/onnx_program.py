"""GLM's forward pass with a key/value cache as an ONNX graph: one graph reads sources and, step by step, targets.

    PREFIX.onnx, PREFIX.onnx.data

Inputs:
    input_ids [batch, length] int64; position_ids [batch or 1, 2, length] int64, source positions and block positions.
    visible [batch, length or 1, entries] float32, 1 where a token sees an entry of the cache, 0 elsewhere; entries are
        the settled ones, the recent ones, and the tokens' own.
    answer_from [1] int64: the first token whose logits are wanted; the length, if those of none are.
    settled.N, recent.N [batch, heads, entries, head_dim] float32: what came before, keys of layer 0, 1 …, then values.
Outputs:
    logits [batch, length - answer_from, vocab] float32.
    grown.N [batch, heads, recent entries + length, head_dim]: recent.N and the tokens' own.

Weights are float32; or, of matrices, whole numbers of 8 bits, of which each BLOCK along the summed axis share a scale,
and products are of whole numbers, too (onnxruntime's operator MatMulNBits).
"""

import math

import numpy as np
import onnx
from onnx import TensorProto, helper

from glm.model.attention import MASKED_SCORE

# Numbers of a matrix that share a scale; and what stands for 0 among them.
BLOCK, ZERO = 32, 128
OPSETS = {"": 20, "com.microsoft": 1}
# External weights begin at multiples of a page, so that they can be mapped.
PAGE = 4096
WORDS = "glm.word_embeddings.weight"


def write(model, path, dtype="float32"):
    """Write a model as an ONNX graph, PREFIX.onnx, and its weights beside it.

    model: modeling.GLMForConditionalGeneration, float32. dtype: "float32" or "int8".
    """
    with open(f"{path}.data", "wb") as file:
        graph = Graph(Weights(file, path.name + ".data"), dtype == "int8")
        GLM(graph, model).build()
    opsets = [helper.make_opsetid(domain, version) for domain, version in OPSETS.items()]
    onnx.save(helper.make_model(graph.finished(), opset_imports=opsets, ir_version=10), path)


class Weights:
    """Arrays in a file beside the graph, written one at a time."""

    def __init__(self, file, location):
        self.file = file
        self.location = location

    def add(self, name, array):
        """The TensorProto of an array that has been written."""
        array = np.ascontiguousarray(array)
        self.file.write(bytes(-self.file.tell() % PAGE))
        tensor = TensorProto(name=name, dims=array.shape, data_type=helper.np_dtype_to_tensor_dtype(array.dtype))
        tensor.data_location = TensorProto.EXTERNAL
        where = {"location": self.location, "offset": self.file.tell(), "length": array.nbytes}
        for key, value in where.items():
            tensor.external_data.add(key=key, value=str(value))
        self.file.write(array.data)
        return tensor


class Graph:
    """Nodes and weights of a graph in the making. Values are known by their names."""

    def __init__(self, weights, whole_numbers):
        self.weights = weights
        self.whole_numbers = whole_numbers
        self.nodes, self.inputs, self.outputs, self.initializers = [], [], [], {}

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
        """An operator's result, or list of several. named: what a single one is called."""
        names = [named or f"{kind}.{len(self.nodes)}.{i}" for i in range(results)]
        self.nodes.append(helper.make_node(kind, values, names, domain=domain, **attributes))
        return names[0] if results == 1 else names

    def product(self, tokens, name, matrix, named=None):
        """tokens [..., n] @ matrix [n, m]."""
        if not self.whole_numbers:
            return self.apply("MatMul", tokens, self.weight(name, matrix), named=named)
        numbers, scales = self.quantized(name, matrix.T)
        sizes = {"K": matrix.shape[0], "N": matrix.shape[1], "bits": 8, "block_size": BLOCK}
        # 4: activations become whole numbers of 8 bits, too, each block of a token by itself.
        return self.apply(
            "MatMulNBits", tokens, numbers, scales, named=named, domain="com.microsoft", accuracy_level=4, **sizes
        )

    def quantized(self, name, rows):
        """The weights that quantized() makes of a matrix."""
        if f"{name}.scales" not in self.initializers:
            numbers, scales = quantized(rows)
            self.weight(name, numbers)
            self.weight(f"{name}.scales", scales)
        return name, f"{name}.scales"

    def rows(self, name, matrix, ids):
        """Rows [..., m] of a matrix [n, m] at ids [...], of the same weight that product() of its transpose has."""
        if not self.whole_numbers:
            columns = self.apply("Gather", self.weight(name, matrix.T), ids, axis=1)
            return self.apply("Transpose", columns, perm=[1, 2, 0])
        numbers, scales = (self.apply("Gather", weight, ids, axis=0) for weight in self.quantized(name, matrix))
        centred = self.apply("Sub", self.apply("Cast", numbers, to=TensorProto.FLOAT), self.constant(ZERO))
        scaled = self.apply("Mul", centred, self.apply("Unsqueeze", scales, self.shape(-1)))
        filled = self.apply("Reshape", scaled, self.shape(0, 0, -1))
        return self.apply("Slice", filled, self.shape(0), self.shape(matrix.shape[1]), self.shape(2))

    def finished(self):
        """The GraphProto."""
        initializers = list(self.initializers.values())
        return helper.make_graph(self.nodes, "glm", self.inputs, self.outputs, initializers)


class GLM:
    """The graph of a model."""

    def __init__(self, graph, model):
        config = model.config
        self.graph = graph
        self.heads, self.layers = config.num_attention_heads, config.num_layers
        self.hidden_size, self.vocab_size = config.hidden_size, config.vocab_size
        self.epsilon = config.layernorm_epsilon
        self.parameters = dict(model.named_parameters())

    def array(self, name):
        """A parameter as an array."""
        return self.parameters[name].numpy()

    def build(self):
        """Put the whole model into the graph."""
        graph = self.graph
        graph.input("input_ids", ["batch", "length"], TensorProto.INT64)
        graph.input("position_ids", ["positions", 2, "length"], TensorProto.INT64)
        graph.input("visible", ["batch", "queries", "entries"])
        graph.input("answer_from", [1], TensorProto.INT64)
        for part in ("settled", "recent"):
            for number in range(2 * self.layers):
                graph.input(f"{part}.{number}", self.shape_of_entries(part))
        bias = self.bias()
        hidden = self.embedded()
        for layer in range(self.layers):
            hidden = self.block(layer, hidden, bias)
        hidden = self.normal(hidden, "glm.transformer.final_layernorm")
        logits = graph.product(hidden, WORDS, self.array(WORDS).T, named="logits")
        graph.output(logits, ["batch", "answers", self.vocab_size])

    def bias(self):
        """What is added to scores, [batch, 1, length or 1, entries]."""
        graph = self.graph
        hidden = graph.apply("Sub", graph.constant(1.0), graph.apply("Unsqueeze", "visible", graph.shape(1)))
        return graph.apply("Mul", hidden, graph.constant(MASKED_SCORE))

    def embedded(self):
        """The sum of the embeddings, [batch, length, hidden]."""
        graph, places = self.graph, []
        kinds = graph.apply("Split", "position_ids", results=2, axis=1, num_outputs=2)
        for kind, name in zip(kinds, ("position_embeddings", "block_position_embeddings"), strict=True):
            name = f"glm.transformer.{name}.weight"
            ids = graph.apply("Squeeze", kind, graph.shape(1))
            places.append(graph.apply("Gather", self.parameter(name), ids, axis=0))
        words = graph.rows(WORDS, self.array(WORDS), "input_ids")
        return graph.apply("Add", words, graph.apply("Add", *places))

    def block(self, layer, hidden, bias):
        """A transformer layer over [batch, length, hidden]; the last one gives those tokens alone whose logits are
        wanted."""
        graph, name = self.graph, f"glm.transformer.layers.{layer}"
        query, key, value = self.projected(hidden, name)
        keys, values = self.entries(layer, key), self.entries(layer + self.layers, value)
        if layer + 1 == self.layers:
            query, hidden = self.wanted(query, 2), self.wanted(hidden, 1)
        context = self.attended(query, keys, values, bias)
        hidden = graph.apply("Add", hidden, self.linear(context, f"{name}.attention.dense"))
        normal = self.normal(hidden, f"{name}.post_attention_layernorm")
        inner = graph.apply("Gelu", self.linear(normal, f"{name}.mlp.dense_h_to_4h"), approximate="tanh")
        return graph.apply("Add", hidden, self.linear(inner, f"{name}.mlp.dense_4h_to_h"))

    def projected(self, hidden, name):
        """Query (scaled), key and value of [batch, length, hidden], each [batch, heads, length, head_dim]."""
        graph, head_dim = self.graph, self.hidden_size // self.heads
        normal = self.normal(hidden, f"{name}.input_layernorm")
        mixed = self.linear(normal, f"{name}.attention.query_key_value")
        by_heads = graph.apply("Reshape", mixed, graph.shape(0, 0, 3 * self.heads, head_dim))
        by_heads = graph.apply("Transpose", by_heads, perm=[0, 2, 1, 3])
        query, key, value = graph.apply("Split", by_heads, results=3, axis=1, num_outputs=3)
        return graph.apply("Mul", query, graph.constant(1 / math.sqrt(head_dim))), key, value

    def entries(self, number, new):
        """(settled, recent) entries of the cache, the latter with new ones, which are an output as well."""
        grown = self.graph.apply("Concat", f"recent.{number}", new, axis=2, named=f"grown.{number}")
        return f"settled.{number}", self.graph.output(grown, self.shape_of_entries("grown"))

    def shape_of_entries(self, length):
        """Shape of keys or values; length: what their number is called."""
        return ["batch", self.heads, length, self.hidden_size // self.heads]

    def wanted(self, value, axis):
        """What a value has along an axis of tokens from answer_from on."""
        graph = self.graph
        return graph.apply("Slice", value, "answer_from", graph.constant([2**62], "int64"), graph.shape(axis))

    def attended(self, query, keys, values, bias):
        """Context [batch, length, hidden] of a query and two parts of keys and values."""
        graph = self.graph
        scores = [graph.apply("MatMul", query, graph.apply("Transpose", part, perm=[0, 1, 3, 2])) for part in keys]
        lengths = [graph.apply("Shape", part, start=2, end=3) for part in keys]
        probabilities = graph.apply("Softmax", graph.apply("Add", graph.apply("Concat", *scores, axis=3), bias))
        parts = graph.apply("Split", probabilities, graph.apply("Concat", *lengths, axis=0), results=2, axis=3)
        contexts = [graph.apply("MatMul", *pair) for pair in zip(parts, values, strict=True)]
        context = graph.apply("Transpose", graph.apply("Add", *contexts), perm=[0, 2, 1, 3])
        return graph.apply("Reshape", context, graph.shape(0, 0, self.hidden_size))

    def linear(self, tokens, name):
        """A linear layer."""
        product = self.graph.product(tokens, f"{name}.weight", self.array(f"{name}.weight"))
        return self.graph.apply("Add", product, self.parameter(f"{name}.bias"))

    def normal(self, tokens, name):
        """Layer normalization."""
        weights = self.parameter(f"{name}.weight"), self.parameter(f"{name}.bias")
        return self.graph.apply("LayerNormalization", tokens, *weights, axis=-1, epsilon=self.epsilon)

    def parameter(self, name):
        """A parameter that is computed with as it is."""
        return self.graph.weight(name, self.array(name))


def quantized(rows):
    """(uint8 [n, blocks, BLOCK], float32 [n, blocks]) of a matrix [n, m], which is nearly (the first - ZERO) * the
    second: whole numbers from -127 to 127 and, for each block of a row, a scale, its largest number over 127. A row
    that is no multiple of BLOCK is filled up with zeros."""
    blocks = -(-rows.shape[1] // BLOCK)
    filled = np.zeros([rows.shape[0], blocks * BLOCK], "float32")
    filled[:, : rows.shape[1]] = rows
    filled = filled.reshape([rows.shape[0], blocks, BLOCK])
    scales = np.abs(filled).max(axis=2) / np.float32(127)
    divisors = np.where(scales > 0, scales, np.float32(1))[..., None]
    return (np.rint(filled / divisors) + ZERO).astype("uint8"), scales
