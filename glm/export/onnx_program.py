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

Weights are float32; or, of matrices, whole numbers of 8 bits, see onnx_graph.py.
"""

import math

import numpy as np
import onnx
from onnx import TensorProto

from glm.export import smoothing
from glm.export.onnx_graph import Graph, Weights
from glm.model.attention import MASKED_SCORE
from glm.ops.processor import sums_in_32_bits

WORDS = "glm.word_embeddings.weight"


def write(model, path, dtype="float32"):
    """Write a model as an ONNX graph, PREFIX.onnx, and its weights beside it.

    model: modeling.GLMForConditionalGeneration, float32. dtype: "float32" or "int8"; with that, the graph suits this
    processor best, and gives the same numbers, within their precision, on any.
    """
    with open(f"{path}.data", "wb") as file:
        matrices = dtype if dtype == "float32" or sums_in_32_bits() else "uint8"
        graph = Graph(Weights(file, path.name + ".data"), matrices)
        GLM(graph, model, smoothing.largest_inputs(model) if dtype == "int8" else {}).build()
    onnx.save(graph.finished(), path)


class GLM:
    """The graph of a model. largest: what smoothing.largest_inputs() gives; empty where nothing is to be smoothed."""

    def __init__(self, graph, model, largest):
        config = model.config
        self.graph = graph
        self.heads, self.layers = config.num_attention_heads, config.num_layers
        self.hidden_size, self.vocab_size = config.hidden_size, config.vocab_size
        self.epsilon = config.layernorm_epsilon
        self.parameters = dict(model.named_parameters())
        # {name of a matrix: what its input is divided by, [in] float32}
        self.factors = {name: smoothing.factors(found, self.matrix(name)) for name, found in largest.items()}

    def array(self, name):
        """A parameter as an array."""
        return self.parameters[name].numpy()

    def matrix(self, name):
        """The matrix [in, out] of a linear layer or of the head."""
        return self.array(name).T if name == WORDS else self.array(name)

    def smoothed_matrix(self, name):
        """matrix(), for an input that has been divided by its factors."""
        matrix = self.matrix(name)
        return matrix * self.factors[name][:, None] if name in self.factors else matrix

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
        hidden = self.normal(hidden, "glm.transformer.final_layernorm", WORDS)
        logits = graph.product(hidden, WORDS, self.smoothed_matrix(WORDS), named="logits")
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
        normal = self.normal(hidden, f"{name}.post_attention_layernorm", f"{name}.mlp.dense_h_to_4h.weight")
        inner = graph.apply("Gelu", self.linear(normal, f"{name}.mlp.dense_h_to_4h"), approximate="tanh")
        factors = self.factors.get(f"{name}.mlp.dense_4h_to_h.weight")
        if factors is not None:
            # Behind what is not linear, they can go into no weight.
            inner = graph.apply("Mul", inner, graph.weight(f"{name}.mlp.dense_4h_to_h.factors", 1 / factors))
        return graph.apply("Add", hidden, self.linear(inner, f"{name}.mlp.dense_4h_to_h"))

    def projected(self, hidden, name):
        """Query (scaled), key and value of [batch, length, hidden], each [batch, heads, length, head_dim]."""
        graph, head_dim = self.graph, self.hidden_size // self.heads
        normal = self.normal(hidden, f"{name}.input_layernorm", f"{name}.attention.query_key_value.weight")
        # Sums of values are what the next linear layer gets: the last third is divided for it.
        factors = self.factors.get(f"{name}.attention.dense.weight")
        divisor = None if factors is None else np.concatenate([np.ones(2 * self.hidden_size, "float32"), factors])
        mixed = self.linear(normal, f"{name}.attention.query_key_value", divisor)
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

    def linear(self, tokens, name, divisor=None):
        """A linear layer, of tokens that have been divided by its factors; divisor: of its result, [out]."""
        matrix, bias = self.smoothed_matrix(f"{name}.weight"), self.array(f"{name}.bias")
        if divisor is not None:
            matrix, bias = matrix / divisor, bias / divisor
        product = self.graph.product(tokens, f"{name}.weight", matrix)
        return self.graph.apply("Add", product, self.graph.weight(f"{name}.bias", bias))

    def normal(self, tokens, name, reader):
        """Layer normalization, divided by the factors of the matrix that reads it."""
        arrays = {f"{name}.{kind}": self.array(f"{name}.{kind}") for kind in ("weight", "bias")}
        if reader in self.factors:
            arrays = {kind: array / self.factors[reader] for kind, array in arrays.items()}
        weights = (self.graph.weight(*pair) for pair in arrays.items())
        return self.graph.apply("LayerNormalization", tokens, *weights, axis=-1, epsilon=self.epsilon)

    def parameter(self, name):
        """A parameter that is computed with as it is."""
        return self.graph.weight(name, self.array(name))
