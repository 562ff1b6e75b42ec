"""A decoder as a static program of Paddle's, its loop included: PREFIX.pdmodel, PREFIX.pdiparams."""

import warnings
from contextlib import contextmanager

import paddle
from paddle.base.framework import EagerParamBase

from glm import stacks
from glm.decoding import generation_config
from glm.decoding.decoder import Decoder
from glm.errors import UserError
from glm.files.native_paths import native_path
from glm.ops import device

INPUTS = {
    "input_ids": ([-1, -1], "int64"),
    "source_mask": ([-1, -1], "float32"),
    "mask_index": ([-1], "int64"),
    "max_new_tokens": ([1], "int64"),
    "min_new_tokens": ([1], "int64"),
    "length_penalty": ([1], "float32"),
    "temperature": ([1], "float32"),
    **dict.fromkeys(generation_config.PENALTIES, ([1], "float32")),
    "top_k": ([1], "int64"),
    "top_p": ([1], "float32"),
    "noise": ([-1, -1, -1], "float32"),
    "edges": ([-1, -1, 4], "int64"),
}


# What paddle warns of while it makes a program.
NO_NEWS = "The Attr.force_cpu. of Op.fill_constant.|In dy2static mode|Tensor do not have 'place' interface"
# What stands for 0 in matrices of 8 bits.
ZERO = 128


def write(model, special_ids, config, path, dtype="float32", compute="float32"):
    """Write a model with its search loop as a program: path.pdmodel and path.pdiparams.

    model: modeling.GLMForConditionalGeneration, float32 or of the dtype `compute`. config: GenerationConfig; its
    structure is fixed in the program, the rest becomes the defaults of the program's inputs. dtype: of the stored
    weights. float16 and bfloat16 halve the file, int8 (matrices alone) quarters it; the program computes in float32,
    for CPU has no kernels for them. compute: float16 or bfloat16 makes a program for GPUs, which computes in it from
    embeddings to logits. Raises UserError where this paddle cannot make it. The model is used up: it holds the stored
    weights afterwards.
    """
    if compute == "float16" and stacks.current().needs_kernels and not device.is_built_for_gpus():
        raise UserError(
            "--compute float16: paddle 3 for CPU cannot make such a program; export it where paddlepaddle-gpu is "
            "installed, or on the reference stack (make setup STACK=reference), or give --compute bfloat16"
        )
    # Names decide on the order of weights in the file: fresh ones, so that the same model always gives the same bytes.
    with paddle.utils.unique_name.guard("program_"):
        for_cpu = compute == "float32"
        decoder = Decoder(model if for_cpu else model.to(dtype=compute), config, special_ids, for_cpu=for_cpu)
        # The decoder's head is the transposed word embeddings: the program looks words up in it and stores it alone.
        if for_cpu:
            model.glm.word_embeddings = embedding_of_columns(decoder.head)
        if for_cpu and dtype != "float32":
            decoder = with_stored_dtype(decoder, dtype)
        decoder.eval()
        specs = {}
        for name in generation_config.input_names(config):
            shape, input_dtype = INPUTS[name]
            specs[name] = paddle.static.InputSpec(shape, input_dtype, name=name)
        if "noise" in specs:
            specs["noise"].shape = (-1, generation_config.draws(config), -1)
        static = paddle.jit.to_static(decoder, input_spec=[specs], full_graph=True)
        with warnings.catch_warnings():
            # Of attributes that paddle sets itself or looks for, and of texts that grow, as they should.
            warnings.filterwarnings("ignore", NO_NEWS, UserWarning)
            with native_path(path) as name:
                paddle.jit.save(static, str(name))


def embedding_of_columns(table):
    """A layer from ids [prompts, n] int64 to the columns of a parameter [hidden, vocab] that they number: [prompts, n,
    hidden]."""

    class EmbeddingOfColumns(paddle.nn.Layer):
        """Columns of a parameter that belongs to another layer."""

        def __init__(self):
            super().__init__()
            self.add_parameter("weight", table)

        def forward(self, ids):
            """[prompts, n, hidden] of ids [prompts, n]."""
            columns = paddle.index_select(self.weight, ids.flatten(), axis=1)
            return columns.t().reshape([paddle.shape(ids)[0], ids.shape[1], table.shape[0]])

    return EmbeddingOfColumns()


def with_stored_dtype(decoder, dtype):
    """A layer that does what a Decoder does and stores its weights in another dtype; its program begins with casting
    them to float32."""

    def frozen(tensor):
        return EagerParamBase.from_tensor(tensor, trainable=False)

    stored, scales = {}, {}
    for _, parameter in parameter_slots(decoder):
        if dtype != "int8":
            stored[parameter.name] = frozen(parameter.astype(dtype))
        elif parameter.ndim == 2:
            stored[parameter.name], scales[parameter.name] = map(frozen, quantized(parameter))
    for (layer, name), parameter in parameter_slots(decoder):
        layer._parameters[name] = stored.get(parameter.name, parameter)

    class CastingDecoder(paddle.nn.Layer):
        """A Decoder that computes with float32 copies of its weights."""

        def __init__(self):
            super().__init__()
            self.decoder = decoder
            for number, scale in enumerate(scales.values()):
                self.add_parameter(f"scale{number}", scale)

        def forward(self, inputs):
            """As Decoder.forward."""
            return self.cast_and_decode(inputs)

        @paddle.jit.not_to_static
        def cast_and_decode(self, inputs):
            """decode() while every parameter is shadowed by its float32 copy."""
            slots = parameter_slots(self.decoder)
            copies = {parameter.name: paddle.cast(parameter, "float32") for parameter in stored.values()}
            for name, scale in scales.items():
                whole = copies[stored[name].name] - float(ZERO)
                copies[stored[name].name] = paddle.multiply(whole, scale)
            with shadowed({slot: copies[parameter.name] for slot, parameter in slots if parameter.name in copies}):
                return self.decoder.decode(inputs)

    return CastingDecoder()


def quantized(matrix):
    """(uint8 [rows, columns], float32 [columns]) of a matrix [rows, columns], which is nearly (the first - 128) * the
    second: whole numbers from -127 to 127, and for each column a scale, its largest number over 127. (paddle's programs
    cast uint8 and not int8.)"""
    scale = matrix.abs().max(axis=0) / 127
    # Not by ==, to which paddle has numbers below 1e-8 be zero.
    scale = paddle.where(scale > 0, scale, paddle.ones_like(scale))
    return ((matrix / scale).round() + ZERO).astype("uint8"), scale


def parameter_slots(layer):
    """[((layer, attribute name), parameter)] of all parameters of a layer and those below it."""
    return [
        ((owner, name), parameter)
        for owner in layer.sublayers(include_self=True)
        for name, parameter in owner._parameters.items()
        if parameter is not None
    ]


@contextmanager
def shadowed(values):
    """While this lasts, attributes of layers, given as {(layer, name): value}, have other values."""
    for (layer, name), value in values.items():
        layer.__dict__[name] = value
    try:
        yield
    finally:
        for layer, name in values:
            del layer.__dict__[name]
