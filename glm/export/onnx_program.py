"""GLM's forward pass with a key/value cache as an ONNX graph: one graph reads sources and, step by step, targets.

    PREFIX.onnx, PREFIX.onnx.data

Inputs:
    input_ids [batch, length] int64; with 8 or 4 bits also words [batch, length, hidden] float32, their embeddings, see
        Graph.rows(). position_ids [batch or 1, 2, length] int64, source positions and block positions.
    visible [batch, length or 1, entries] float32, 1 where a token sees an entry of the cache, 0 elsewhere; entries are
        the settled ones and the tokens' own.
    answer_from [1] int64: the first token whose logits are wanted.
    adapters [batch] int64, and factors of adapters, where the graph takes them: see adapter_bank.py.
    settled.N float32: what came before, keys of layer 0, 1 … [batch, heads, head_dim, entries], as a step multiplies by
        them, then values [batch, heads, entries, head_dim].
Outputs:
    logits [batch, length - answer_from, vocab] float32.
    grown.N, likewise: the tokens' own.

Weights are float32; or, of matrices, whole numbers of 8 or 4 bits, see onnx_graph.py.
"""

import math

import numpy as np
import onnx
from onnx import TensorProto

from glm.export import smoothing
from glm.export.adapter_bank import ADAPTERS, factor_names
from glm.export.onnx_graph import MICROSOFT, Graph, Weights
from glm.model.attention import MASKED_SCORE
from glm.ops.processor import sums_in_32_bits

WORDS = "glm.word_embeddings.weight"


def write(model, path, dtype="float32", adapted=False):
    """Write a model as an ONNX graph, PREFIX.onnx, and its weights beside it.

    adapted: whether the graph takes LoRA adapters as inputs, see adapter_bank.py; float32 alone.

    model: modeling.GLMForConditionalGeneration, float32. dtype: "float32", "int8" or "int4" (of linear layers, with 8
    bits for the embeddings); with 8 bits, the graph suits this processor best, and gives the same numbers, within their
    precision, on any.
    """
    with open(f"{path}.data", "wb") as file:
        matrices = "float32" if dtype == "float32" else "int8" if sums_in_32_bits() else "uint8"
        graph = Graph(Weights(file, path.name + ".data"), matrices, bits=4 if dtype == "int4" else 8)
        GLM(graph, model, smoothing.largest_inputs(model) if dtype == "int8" else {}, adapted).build()
    onnx.save(graph.finished(), path)


class GLM:
    """The graph of a model. largest: what smoothing.largest_inputs() gives; empty where nothing is to be smoothed.
    adapted: see write()."""

    def __init__(self, graph, model, largest, adapted=False):
        config = model.config
        self.graph, self.adapted = graph, adapted
        self.heads, self.layers = config.num_attention_heads, config.num_layers
        self.hidden_size, self.vocab_size = config.hidden_size, config.vocab_size
        self.epsilon = config.layernorm_epsilon
        self.parameters, self.sublayers = dict(model.named_parameters()), dict(model.named_sublayers())
        # {name of a matrix: what its input is divided by, [in] float32}
        self.factors = {name: smoothing.factors(found, self.matrix(name)) for name, found in largest.items()}

    def array(self, name):
        """A parameter as an array."""
        return self.parameters[name].numpy()

    def matrix(self, name):
        """The matrix [in, out] of a linear layer, with what LoRA adds to it, or of the head."""
        if name == WORDS:
            return self.array(name).T
        factors = [f"{name.removesuffix('.weight')}.{factor}" for factor in ("lora_A", "lora_B")]
        if factors[0] not in self.parameters:
            return self.array(name)
        scaling = self.sublayers[name.removesuffix(".weight")].scaling
        return self.array(name) + scaling * (self.array(factors[0]) @ self.array(factors[1]))

    def smoothed_matrix(self, name):
        """matrix(), for an input that has been divided by its factors."""
        matrix = self.matrix(name)
        return matrix * self.factors[name][:, None] if name in self.factors else matrix

    def build(self):
        """Put the whole model into the graph. Hidden states are [tokens, hidden], those of all prompts one by one."""
        graph = self.graph
        graph.input("input_ids", ["batch", "length"], TensorProto.INT64)
        graph.input("position_ids", ["positions", 2, "length"], TensorProto.INT64)
        graph.input("visible", ["batch", "queries", "entries"])
        graph.input("answer_from", [1], TensorProto.INT64)
        for number in range(2 * self.layers):
            graph.input(f"settled.{number}", self.shape_of_entries(number, "settled"))
        if self.adapted:
            graph.input(ADAPTERS, ["batch"], TensorProto.INT64)
        bias = self.bias()
        hidden = self.embedded()
        normal = self.normal(hidden, self.norm_before(0))
        for layer in range(self.layers):
            hidden, normal = self.block(layer, hidden, normal, bias)
        logits = graph.product(normal, WORDS, self.smoothed_matrix(WORDS))
        graph.output(self.by_prompts(logits, self.vocab_size, named="logits"), ["batch", "answers", self.vocab_size])

    def bias(self):
        """What is added to scores, [batch, 1, length or 1, entries]."""
        graph = self.graph
        hidden = graph.apply("Sub", graph.constant(1.0), graph.apply("Unsqueeze", "visible", graph.shape(1)))
        return graph.apply("Mul", hidden, graph.constant(MASKED_SCORE))

    def embedded(self):
        """The sum of the embeddings, [tokens, hidden]."""
        graph, places = self.graph, []
        kinds = graph.apply("Split", "position_ids", results=2, axis=1, num_outputs=2)
        for kind, name in zip(kinds, ("position_embeddings", "block_position_embeddings"), strict=True):
            name = f"glm.transformer.{name}.weight"
            ids = graph.apply("Squeeze", kind, graph.shape(1))
            places.append(graph.apply("Gather", graph.weight(name, self.array(name)), ids, axis=0))
        words = graph.rows(WORDS, self.array(WORDS), "input_ids")
        return self.by_tokens(graph.apply("Add", words, graph.apply("Add", *places)))

    def by_tokens(self, value):
        """[batch, length, hidden] as [tokens, hidden]."""
        return self.graph.apply("Reshape", value, self.graph.shape(-1, self.hidden_size))

    def by_prompts(self, value, *sizes, named=None):
        """[tokens, n] as [batch, length, *sizes]."""
        graph = self.graph
        batch = graph.apply("Shape", "input_ids", start=0, end=1)
        shape = graph.apply("Concat", batch, graph.shape(-1, *sizes), axis=0)
        return graph.apply("Reshape", value, shape, named=named)

    def block(self, layer, hidden, normal, bias):
        """A transformer layer: (hidden states; the same, normalized for the next layer), of those before it. The last
        one gives those tokens alone whose logits are wanted."""
        graph, name = self.graph, f"glm.transformer.layers.{layer}"
        query, *new = self.projected(normal, name, [f"grown.{layer}", f"grown.{layer + self.layers}"])
        keys, values = ([entry.replace("grown", "settled"), entry] for entry in new)
        if layer + 1 == self.layers:
            query, bias = self.wanted(query, 2), self.wanted(bias, 2)
            hidden = self.by_tokens(self.wanted(self.by_prompts(hidden, self.hidden_size), 1))
        context = self.attended(query, keys, values, bias)
        hidden, normal = self.added(hidden, context, f"{name}.attention.dense", f"{name}.post_attention_layernorm")
        product = self.product(normal, f"{name}.mlp.dense_h_to_4h")
        of_inner = graph.weight(f"{name}.mlp.dense_h_to_4h.bias", self.array(f"{name}.mlp.dense_h_to_4h.bias"))
        inner = graph.apply("FastGelu", product, of_inner, domain=MICROSOFT)
        factors = self.factors.get(f"{name}.mlp.dense_4h_to_h.weight")
        if factors is not None:
            # Behind what is not linear, they can go into no weight.
            inner = graph.apply("Mul", inner, graph.weight(f"{name}.mlp.dense_4h_to_h.factors", 1 / factors))
        return self.added(hidden, inner, f"{name}.mlp.dense_4h_to_h", self.norm_before(layer + 1))

    def added(self, hidden, tokens, linear, norm):
        """(hidden states with a linear layer of tokens added; the same, normalized)."""
        hidden = self.graph.apply("Add", hidden, self.linear(tokens, linear))
        return hidden, self.normal(hidden, norm)

    def projected(self, normal, name, outputs):
        """Query [batch, heads, length, head_dim], of which scores are made as it is, key and value of [tokens, hidden];
        the latter two are outputs, called so."""
        graph, layer = self.graph, f"{name}.attention.query_key_value"
        # Scores are divided by the root of head_dim. Sums of values are what the next linear layer gets, divided for
        # it.
        kinds = np.ones([3, self.hidden_size], "float32")
        kinds[0] = math.sqrt(self.hidden_size // self.heads)
        kinds[2] = self.factors.get(f"{name}.attention.dense.weight", 1.0)
        divisor = kinds.reshape(-1)
        mixed = self.linear(normal, layer, divisor)
        by_heads = self.by_prompts(mixed, 3 * self.heads, self.hidden_size // self.heads)
        by_heads = graph.apply("Transpose", by_heads, perm=[0, 2, 1, 3])
        named = [f"{name}.query", f"{name}.key", outputs[1]]
        query, key, value = graph.apply("Split", by_heads, results=3, axis=1, num_outputs=3, named=named)
        key = graph.apply("Transpose", key, perm=[0, 1, 3, 2], named=outputs[0])
        for number, entries in ((0, key), (self.layers, value)):
            graph.output(entries, self.shape_of_entries(number, "length"))
        return query, key, value

    def shape_of_entries(self, number, length):
        """Shape of the keys or values of a number; length: what that of entries is called."""
        head_dim = self.hidden_size // self.heads
        return ["batch", self.heads, *((head_dim, length) if number < self.layers else (length, head_dim))]

    def wanted(self, value, axis):
        """What a value has along an axis of tokens from answer_from on."""
        graph = self.graph
        return graph.apply("Slice", value, "answer_from", graph.constant([2**62], "int64"), graph.shape(axis))

    def attended(self, query, keys, values, bias):
        """Context [tokens, hidden] of a query and two parts of keys and values."""
        graph = self.graph
        scores = [graph.apply("MatMul", query, part) for part in keys]
        lengths = [graph.apply("Shape", part, start=2, end=3) for part in values]
        probabilities = graph.apply("Softmax", graph.apply("Add", graph.apply("Concat", *scores, axis=3), bias))
        parts = graph.apply("Split", probabilities, graph.apply("Concat", *lengths, axis=0), results=2, axis=3)
        contexts = [graph.apply("MatMul", *pair) for pair in zip(parts, values, strict=True)]
        return self.by_tokens(graph.apply("Transpose", graph.apply("Add", *contexts), perm=[0, 2, 1, 3]))

    def product(self, tokens, name, divisor=None):
        """The product of a linear layer, without its bias, of tokens that have been divided by its factors; divisor: of
        its result, [out]."""
        matrix = self.smoothed_matrix(f"{name}.weight")
        product = self.graph.small_product(tokens, f"{name}.weight", matrix if divisor is None else matrix / divisor)
        return self.graph.apply("Add", product, self.update(tokens, name, divisor)) if self.adapted else product

    def update(self, tokens, name, divisor):
        """What each prompt's adapter adds to a linear layer's product, [tokens, out]."""
        graph = self.graph
        layer, kind = name.removeprefix("glm.transformer.layers.").split(".", 1)
        sizes = self.matrix(f"{name}.weight").shape
        low = self.by_prompts(tokens, sizes[0])
        for factor, shape in zip(factor_names(layer, kind), ([sizes[0], "rank"], ["rank", sizes[1]]), strict=True):
            graph.input(factor, ["adapters", *(f"{factor}.rank" if size == "rank" else size for size in shape)])
            low = graph.apply("MatMul", low, graph.apply("Gather", factor, ADAPTERS, axis=0))
        update = graph.apply("Reshape", low, graph.shape(-1, sizes[1]))
        return update if divisor is None else graph.apply("Mul", update, graph.weight(f"{name}.scale", 1 / divisor))

    def linear(self, tokens, name, divisor=None):
        """product() with the bias."""
        bias = self.array(f"{name}.bias")
        bias = self.graph.weight(f"{name}.bias", bias if divisor is None else bias / divisor)
        return self.graph.apply("Add", self.product(tokens, name, divisor), bias)

    def norm_before(self, layer):
        """Name of the layer normalization before a layer's attention, or behind the last layer."""
        transformer = "glm.transformer"
        return (
            f"{transformer}.layers.{layer}.input_layernorm" if layer < self.layers else f"{transformer}.final_layernorm"
        )

    def normal(self, hidden, name):
        """Layer normalization, divided by the factors of the matrix that reads it."""
        prefix, _, kind = name.rpartition(".")
        readers = {
            "input_layernorm": f"{prefix}.attention.query_key_value.weight",
            "post_attention_layernorm": f"{prefix}.mlp.dense_h_to_4h.weight",
            "final_layernorm": WORDS,
        }
        factors = self.factors.get(readers[kind])
        arrays = {f"{name}.{part}": self.array(f"{name}.{part}") for part in ("weight", "bias")}
        if factors is not None:
            arrays = {part: array / factors for part, array in arrays.items()}
        weights = (self.graph.weight(*pair) for pair in arrays.items())
        return self.graph.apply("LayerNormalization", hidden, *weights, axis=-1, epsilon=self.epsilon)
