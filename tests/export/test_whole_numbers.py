"""ONNX programs of 8 bits: products of whole numbers against NumPy's, and programs against the model they come from."""

import numpy as np
import onnx
import onnxruntime
import paddle
import pytest

from glm.decoding.generation_config import GenerationConfig
from glm.export import onnx_decoder, onnx_graph, onnx_program, program, smoothing, whole_numbers
from glm.export.runners import OnnxRunner
from glm.ops import processor
from tests.export.test_program import Tokenizer
from tests.helpers import models

# Of processors, by what they multiply exactly: the dtype of matrices.
MATRICES = {True: "int8", False: "uint8"}


@pytest.fixture
def exported(tmp_path, monkeypatch):
    """A function from a model, and whether the processor that exports sums in 32 bits, to a runner of its program."""

    def export(model, sums):
        monkeypatch.setattr(onnx_program, "sums_in_32_bits", lambda: sums)
        program.save(model, Tokenizer(), GenerationConfig(), tmp_path, "glm", "int8", "onnx")
        graph = onnx.load(tmp_path / "glm.onnx", load_external_data=False).graph
        (head,) = (tensor for tensor in graph.initializer if tensor.name == onnx_program.WORDS)
        assert head.data_type == getattr(onnx.TensorProto, MATRICES[sums].upper())
        return OnnxRunner(program.describe(tmp_path, "glm"), "cpu", "paddle")

    return export


def product(tokens, matrix, unsigned):
    """tokens [n, k] @ matrix [k, m] by onnxruntime, through onnx_graph's whole numbers."""
    graph = onnx_graph.Graph(None, MATRICES[not unsigned])
    graph.weight = lambda name, array: (
        graph.initializers.setdefault(name, onnx.numpy_helper.from_array(array, name)).name
    )
    graph.input("tokens", ["tokens", "k"])
    graph.output(graph.product("tokens", "matrix", matrix), ["tokens", matrix.shape[1]])
    session = onnxruntime.InferenceSession(graph.finished().SerializeToString(), providers=["CPUExecutionProvider"])
    arrays = {"tokens": tokens}
    if not unsigned:
        largest = 127 if processor.sums_in_32_bits() else 63
        arrays |= {"token_range": np.array([largest], "float32"), "token_zero": np.array([largest + 1], "uint8")}
    return session.run(None, arrays)[0], 127 if unsigned else largest


@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("kind", ["normal", "all the largest", "zeros", "none"])
def test_products_are_those_of_whole_numbers_and_no_sum_is_cut_off(unsigned, kind):
    rng = np.random.default_rng(0)
    count = 0 if kind == "none" else 5
    tokens, matrix = rng.standard_normal([count, 300]), rng.standard_normal([300, 40])
    if kind == "all the largest":
        tokens, matrix = np.ones_like(tokens), np.ones_like(matrix)
    if kind == "zeros":
        tokens[2], matrix[:, 7] = 0, 0
    tokens, matrix = tokens.astype("float32"), matrix.astype("float32")
    found, largest = product(tokens, matrix, unsigned)
    scales = np.maximum(np.abs(tokens).max(axis=1, keepdims=True, initial=0), 1e-30).astype("float64") / largest
    of_columns = np.abs(matrix).max(axis=0).astype("float64") / 127
    whole = np.rint(tokens / scales) @ np.rint(matrix / np.where(of_columns > 0, of_columns, 1))
    # A number between two whole ones may be rounded to either.
    allowed = 1.5 * scales * np.abs(matrix).max() + 1e-6
    assert found.shape == whole.shape
    assert (np.abs(found - whole * scales * of_columns) <= allowed).all()


@pytest.mark.parametrize("columns", [1, 48, 70])
def test_matrices_are_half_a_step_off_at_most(columns):
    rng = np.random.default_rng(columns)
    matrix = (rng.standard_normal([columns, 6]) * [1e-6, 1, 1e3, 0, 2, 5]).astype("float32")
    numbers, scales = whole_numbers.quantized(matrix)
    assert (numbers.dtype, scales.dtype) == (np.int8, np.float32)
    assert np.abs(numbers.astype(int)).max() <= 127
    assert (np.abs(numbers.astype("float64") * scales - matrix) <= scales * 0.501).all()


@pytest.mark.parametrize(("rows", "columns"), [(1, 3), (32, 2), (48, 5), (100, 7)])
def test_blocks_of_4_bits_are_half_a_step_off_and_no_worse_than_without_cutting_off(rows, columns):
    rng = np.random.default_rng(rows)
    matrix = rng.standard_normal([rows, columns]).astype("float32")
    matrix[:, 0] *= 100
    matrix[: rows // 2, -1] = 0
    blocks = whole_numbers.blocks_of(matrix)
    numbers, scales, zeros = whole_numbers.quantized_blocks(blocks)
    assert numbers.max() <= 15
    found = (numbers - zeros) * scales
    whole = blocks.clip(min=0).max(axis=2, keepdims=True) - blocks.clip(max=0).min(axis=2, keepdims=True)
    # Steps of the whole range are 1/15 of it: what is off more was cut off, for the good of the others.
    plain = np.square(whole / 15 / 2).clip(1e-20)
    assert (np.square(found - blocks).mean(axis=2, keepdims=True) <= plain).all()
    assert (found[blocks == 0] == 0).all()


def unpacked(numbers):
    return np.stack([numbers & 15, numbers >> 4], axis=-1).reshape([*numbers.shape[:-1], -1])


@pytest.mark.parametrize(("rows", "columns", "tokens"), [(64, 3, 1), (48, 70, 1), (100, 33, 9)])
def test_onnxruntime_reads_blocks_of_4_bits_as_they_are_meant(rows, columns, tokens):
    rng = np.random.default_rng(rows)
    matrix = rng.standard_normal([rows, columns]).astype("float32")
    values = rng.standard_normal([tokens, rows]).astype("float32")
    graph = onnx_graph.Graph(None, "uint8", bits=4)
    graph.weight = lambda name, array: (
        graph.initializers.setdefault(name, onnx.numpy_helper.from_array(array, name)).name
    )
    graph.input("tokens", ["tokens", rows])
    graph.output(graph.small_product("tokens", "matrix", matrix), ["tokens", columns])
    session = onnxruntime.InferenceSession(graph.finished().SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, {"tokens": values})[0]
    numbers, scales, zeros = whole_numbers.four_bits(matrix)
    blocks = numbers.shape[1]
    zeros = unpacked(zeros.reshape([columns, -1]))[:, :blocks, None]
    meant = (unpacked(numbers) - zeros.astype("float32")) * scales.reshape([columns, blocks, 1])
    wanted = values @ meant.reshape([columns, -1])[:, :rows].T
    # Tokens become numbers of 8 bits.
    assert np.abs(found - wanted).max() < 0.02 * np.abs(values).max() * np.abs(matrix).max() * np.sqrt(rows)


def test_a_program_of_4_bits_computes_what_a_model_of_such_weights_does(tmp_path):
    rounded = models.make_model()
    for name, parameter in rounded.named_parameters():
        if parameter.ndim == 2 and "embeddings" not in name:
            numbers, scales, zeros = whole_numbers.quantized_blocks(whole_numbers.blocks_of(parameter.numpy()))
            meant = ((numbers - zeros) * scales).reshape([parameter.shape[1], -1])
            parameter.set_value(np.ascontiguousarray(meant[:, : parameter.shape[0]].T))
    program.save(models.make_model(), Tokenizer(), GenerationConfig(), tmp_path, "glm", "int4", "onnx")
    runner = OnnxRunner(program.describe(tmp_path, "glm"), "cpu", "paddle")
    assert relative_error(runner, rounded) < 0.03 < 0.1 < relative_error(runner, models.make_model())


def logits(runner, ids):
    """Logits of a program for [rows, length] pieces that are read causally."""
    rows, length = ids.shape
    positions = np.tile(np.stack([np.arange(length), np.arange(length) // 7]), [rows, 1, 1])
    visible = np.tile(np.tril(np.ones([length, length], "float32")), [rows, 1, 1])
    return runner.model.run(ids, positions, visible, 0, runner.model.nothing(rows))[0], positions


def relative_error(runner, model):
    """Of a program's logits: their mean distance from the model's over the mean size of those."""
    ids = np.random.default_rng(0).integers(0, models.TEXT, [2, 20])
    found, positions = logits(runner, ids)
    wanted = model(*models.tensors({"ids": ids, "positions": positions}).values()).numpy()
    return np.abs(found - wanted).mean() / np.abs(wanted).mean()


def with_large_channels(model, times=20):
    """A model some of whose channels are so many times larger wherever a linear layer reads them."""
    for name, parameter in model.named_parameters():
        if "layernorm" in name:
            array = parameter.numpy()
            array[::23] *= times
            parameter.set_value(array)
    return model


@pytest.mark.parametrize("sums", [True, False])
def test_a_program_computes_nearly_what_its_model_does(exported, sums):
    # On a processor that cuts sums off, tokens of programs made for another one have 7 bits.
    limit = 0.04 if processor.sums_in_32_bits() or not sums else 0.08
    assert relative_error(exported(models.make_model(), sums), models.make_model()) < limit


def test_channels_that_are_twenty_times_larger_cost_little(exported, monkeypatch):
    model = with_large_channels(models.make_model())
    smoothed = relative_error(exported(model, False), model)
    monkeypatch.setattr(smoothing, "factors", lambda largest, matrix: np.ones(len(matrix), "float32"))
    plain = relative_error(exported(model, False), model)
    assert smoothed < 0.8 * plain


@pytest.mark.parametrize("sums", [True, False])
def test_the_scales_of_a_prompt_are_its_own(exported, sums):
    runner = exported(models.make_model(), sums)
    ids = np.random.default_rng(0).integers(0, models.TEXT, [3, 20])
    together, _ = logits(runner, ids)
    for row in range(3):
        alone, _ = logits(runner, ids[row : row + 1])
        # What is summed up in another order may be rounded to another whole number, here and there.
        assert np.abs(alone[0] - together[row]).mean() < 2e-3 * np.abs(alone).mean()


def test_what_is_large_is_measured_where_linear_layers_read_and_the_model_stays_as_it_was():
    model = models.make_model()
    before = {name: type(layer) for name, layer in model.named_sublayers()}
    largest = smoothing.largest_inputs(model)
    assert {name: type(layer) for name, layer in model.named_sublayers()} == before
    assert len(largest) == 4 * len(model.glm.transformer.layers) + 1
    rows = smoothing.random_rows(model.config)
    with paddle.no_grad():
        hidden = model.embed(rows["input_ids"], rows["position_ids"])
        wanted = model.glm.transformer.layers[0].input_layernorm(hidden).numpy()
        head = model.glm.word_embeddings.weight.numpy()
        found = model(**rows).numpy()
    name = "glm.transformer.layers.0.attention.query_key_value.weight"
    np.testing.assert_allclose(largest[name], np.abs(wanted).max(axis=(0, 1)), rtol=1e-5)
    # Logits cannot be larger than what is read allows.
    assert np.abs(found).max() <= (np.abs(head) @ largest["glm.word_embeddings.weight"]).max()


def test_factors_even_channels_out_and_change_no_product():
    rng = np.random.default_rng(1)
    tokens, matrix = rng.standard_normal([7, 30]), rng.standard_normal([30, 11])
    tokens[:, 3] *= 100
    tokens[:, 5] = 0
    found = smoothing.factors(np.abs(tokens).max(axis=0).astype("float32"), matrix)
    np.testing.assert_allclose((tokens / found) @ (matrix * found[:, None]), tokens @ matrix, rtol=1e-6, atol=1e-6)
    assert np.log(found).mean() == pytest.approx(0, abs=1e-5)
    spread = np.delete(np.abs(tokens / found).max(axis=0), 5)
    assert spread.max() / np.median(spread) < 0.2 * np.abs(tokens).max() / np.median(np.abs(tokens).max(axis=0))


@pytest.mark.parametrize(
    ("machine", "cpuinfo", "sums"),
    [
        ("x86_64", "flags : fpu avx2 avx512f avx512_vnni", True),
        ("x86_64", "flags : avx2 avx_vnni", True),
        ("AMD64", "flags : avx2 avx512f", False),
        ("x86_64", "", False),
        ("aarch64", "", True),
        ("arm64", "Features : asimddp", True),
    ],
)
def test_processors_that_sum_in_32_bits(machine, cpuinfo, sums):
    assert processor.sums_in_32_bits(machine, cpuinfo) == sums
    assert onnx_decoder.sums_in_32_bits is processor.sums_in_32_bits


def test_embeddings_are_read_row_by_row_and_are_those_of_the_model_within_half_a_step(exported):
    model = models.make_model()
    runner, matrix = exported(model, True), model.glm.word_embeddings.weight.numpy()
    ids = np.array([[3, 159, 3], [0, 77, 1]])
    rows = runner.model.embeddings(ids)
    assert rows.dtype == np.float32
    steps = np.abs(matrix).max(axis=1, keepdims=True) / 127
    expected = np.rint(matrix / steps) * steps
    np.testing.assert_allclose(rows, expected[ids], rtol=1e-5, atol=1e-7)
    assert (np.abs(rows - matrix[ids]) <= 0.501 * steps[ids]).all()
    np.testing.assert_array_equal(rows[0, 0], rows[0, 2])
