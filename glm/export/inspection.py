"""A program's files, looked through before anything runs them: a graph is code, and a stranger's may do anything.

A graph may have the operators that export_generation_model.py writes and no others: Paddle's `save` or `py_func`, among
others, touch more than numbers. Its weights lie in the one file beside it, all of them, of the graph's shapes and
dtypes; for Paddle's C++ library believes what it is told of them.
"""

import json
import math
import struct

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from glm.export.description import ProgramError

# All that exports of every structure and dtype are made of; tests hold the list against them.
PADDLE_OPERATORS = """
    arg_max argsort assign assign_value bitwise_and bitwise_or cast clip concat conditional_block cumsum
    elementwise_add elementwise_div elementwise_floordiv elementwise_max elementwise_min elementwise_mod
    elementwise_mul elementwise_pow elementwise_sub equal expand_v2 eye fc feed fetch fill_any_like fill_constant
    flatten_contiguous_range gather gelu greater_equal greater_than index_select layer_norm less_equal less_than log
    logical_not lookup_table_v2 matmul_v2 not_equal range reduce_max reduce_min reduce_sum reshape2 scale scatter
    scatter_nd_add select_input shape slice softmax split squeeze2 take_along_axis tile top_k_v2 transpose2 tril_triu
    unsqueeze2 where while
"""
# The numbers before them are Paddle's dialects: its own operators, those of control flow, and what every program has.
PIR_OPERATORS = """
    0.combine 0.split 1.add 1.arange 1.argmax 1.argsort 1.assign_value_ 1.bitwise_and 1.bitwise_or 1.cast
    1.clip 1.concat 1.cumsum 1.data 1.divide 1.elementwise_pow 1.embedding 1.equal 1.expand 1.eye 1.fetch
    1.flatten 1.floor_divide 1.full 1.full_int_array 1.full_like 1.full_with_tensor 1.gather 1.gelu
    1.greater_equal 1.greater_than 1.if 1.index_select 1.layer_norm 1.less_equal 1.less_than 1.log
    1.logical_not 1.matmul 1.max 1.maximum 1.min 1.minimum 1.multiply 1.not_equal 1.remainder 1.reshape
    1.scale 1.scatter 1.scatter_nd_add 1.shape64 1.slice 1.softmax 1.split 1.split_with_num 1.squeeze 1.stack
    1.subtract 1.sum 1.take_along_axis 1.tile 1.topk 1.transpose 1.tril 1.unsqueeze 1.where 1.while 2.yield p
"""
ONNX_OPERATORS = """
    :Abs :Add :Cast :Concat :Div :Expand :Gather :Gelu :LayerNormalization :MatMul :Max :Mul :QuantizeLinear :ReduceMax
    :Reshape :Shape :Slice :Softmax :Split :Squeeze :Sub :Transpose :Unsqueeze com.microsoft:FastGelu
    com.microsoft:MatMulIntegerToFloat com.microsoft:MatMulNBits
"""
# Numbers of dtypes in Paddle's programs → bytes.
ITEM_SIZES = {0: 1, 1: 2, 2: 4, 3: 8, 4: 2, 5: 4, 6: 8, 20: 1, 21: 1, 22: 2}
# Of a variable: what feeds a program, and what it gives, are not in the file of weights.
FEED, FETCH, DENSE = 9, 10, 7
LARGEST_GRAPH = 2**28
# Of a program of PIR: a weight, and its dtypes → their numbers above.
PIR_PARAMETER = "p"
PIR_DTYPES = {"0.t_bool": 0, "0.t_i32": 2, "0.t_i64": 3, "0.t_f16": 4, "0.t_f32": 5, "0.t_ui8": 20, "0.t_bf16": 22}

# The part of Paddle's framework.proto that is looked at: message → (field, number, type), [] for repeated ones.
SCHEMA = {
    "Operator": [("type", 3, "string")],
    "Tensor": [("data_type", 1, "int32"), ("dims", 2, "[int64]")],
    "Dense": [("tensor", 1, "Tensor")],
    "Kind": [("type", 1, "int32"), ("dense", 3, "Dense")],
    "Variable": [("name", 1, "string"), ("type", 2, "Kind"), ("persistable", 3, "bool")],
    "Block": [("vars", 3, "[Variable]"), ("ops", 4, "[Operator]")],
    "Program": [("blocks", 1, "[Block]")],
}


def messages():
    """{name: protobuf class} of SCHEMA."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="glm_program.proto", package="glm", syntax="proto2")
    for name, fields in SCHEMA.items():
        message = file.message_type.add(name=name)
        for field, number, kind in fields:
            label = kinds.LABEL_REPEATED if kind.startswith("[") else kinds.LABEL_OPTIONAL
            kind = kind.strip("[]")
            described = message.field.add(name=field, number=number, label=label)
            if kind in SCHEMA:
                described.type, described.type_name = kinds.TYPE_MESSAGE, f".glm.{kind}"
            else:
                described.type = getattr(kinds, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"glm.{name}")) for name in SCHEMA}


MESSAGES = messages()


def check(program):
    """Raise ProgramError unless the files of a program.Program have what an export has: known operators, and weights
    of the graph's shapes in the one file beside it, to its last byte."""
    size = program.model_file.stat().st_size
    if size > LARGEST_GRAPH:
        raise ProgramError(
            f"{program.model_file}: {size} bytes, more than any export has ({LARGEST_GRAPH}); export it again"
        )
    try:
        {"paddle": check_paddle, "pir": check_pir, "onnx": check_onnx}[program.format](program)
    except (DecodeError, struct.error, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ProgramError(f"{program.model_file}: not a program ({error}); export it again") from None


def check_operators(file, found, known):
    """Raise ProgramError if a graph has no operators, or others than the known ones, a text of names."""
    if not found:
        raise ProgramError(f"{file}: has no operators; export it again")
    if strange := sorted(set(found) - set(known.split())):
        raise ProgramError(
            f"{file}: has the operator {strange[0]!r:.60}, which no export of these scripts has; it is not run: "
            "export it again"
        )


def check_paddle(program):
    """check(), of a program of Paddle's."""
    graph = MESSAGES["Program"].FromString(program.model_file.read_bytes())
    operators = [operator.type for block in graph.blocks for operator in block.ops]
    check_operators(program.model_file, operators, PADDLE_OPERATORS)
    stored = {}
    for variable in (variable for block in graph.blocks for variable in block.vars):
        if variable.persistable and variable.type.type not in (FEED, FETCH):
            tensor = variable.type.dense.tensor
            dtype = tensor.data_type if variable.type.type == DENSE else None
            stored[variable.name] = dtype, list(tensor.dims)
    check_weights(program, stored)


def check_pir(program):
    """check(), of a program of Paddle 3's intermediate representation: JSON, in which "#" names what something is,
    "A" has attributes and "O" results. Raises KeyError and the like for what is not so."""
    operators, stored = [], {}
    for operator in pir_operators(json.loads(program.model_file.read_bytes())["program"]):
        operators.append(operator["#"])
        if operator["#"] == PIR_PARAMETER:
            (*_, name), (kind, shape, *_) = operator["A"], operator["O"]["TT"]["D"]
            stored[name] = PIR_DTYPES.get(kind["#"]), shape
    check_operators(program.model_file, operators, PIR_OPERATORS)
    check_weights(program, stored)


def pir_operators(owner):
    """Every operator in a program or in an operator, those of loops and branches among them."""
    for region in owner.get("regions", []):
        for block in region["blocks"]:
            for operator in block["ops"]:
                yield operator
                yield from pir_operators(operator)


def check_weights(program, stored):
    """Raise ProgramError unless a .pdiparams file has the weights {name: (number of its dtype, shape)} of its graph, in
    the order of their names, and nothing else."""
    with open(program.params_file, "rb") as file:
        for name in sorted(stored):
            check_stored(file, name, *stored[name])
        if file.read(1):
            raise ProgramError(
                f"{program.params_file}: has more than the weights of {program.model_file.name}; export it again"
            )


def check_stored(file, name, dtype, wanted):
    """Raise ProgramError unless the next weight in a .pdiparams file has this dtype and shape.

    Each is a version, the number of its levels (0), a version, the size of a Tensor message, that, and the numbers.
    """
    version, levels, inner, size = struct.unpack("<IQIi", file.read(20))
    if version or levels or inner or not 0 <= size < 1024:
        raise ProgramError(f"{file.name}: {name} is not stored as weights are; export it again")
    tensor = MESSAGES["Tensor"].FromString(file.read(size))
    shape = list(tensor.dims)
    if dtype is None or (tensor.data_type, shape) != (dtype, wanted):
        raise ProgramError(f"{file.name}: {name} is {shape}, not what its program says; export it again")
    item = ITEM_SIZES.get(tensor.data_type)
    if item is None or min(shape, default=1) < 0:
        raise ProgramError(f"{file.name}: {name} has no dtype or shape of weights; export it again")
    end = file.tell() + math.prod(shape) * item
    if end > file.seek(0, 2):
        raise ProgramError(f"{file.name}: ends in the middle of {name}; export it again")
    file.seek(end)


def check_onnx(program):
    """check(), of an ONNX program."""
    import onnx

    model = onnx.ModelProto.FromString(program.model_file.read_bytes())
    if model.functions or model.training_info or model.graph.sparse_initializer:
        raise ProgramError(f"{program.model_file}: has more than a graph; export it again")
    nodes = model.graph.node
    check_operators(program.model_file, [f"{node.domain}:{node.op_type}" for node in nodes], ONNX_OPERATORS)
    attributes = [attribute for node in nodes for attribute in node.attribute]
    if any(attribute.HasField("g") or attribute.graphs or attribute.HasField("t") for attribute in attributes):
        raise ProgramError(
            f"{program.model_file}: has an operator with a graph in it, which no export has; export it again"
        )
    size = program.params_file.stat().st_size
    for tensor in model.graph.initializer:
        check_external(program, tensor, size)


def check_external(program, tensor, size):
    """Raise ProgramError unless a weight of an ONNX graph lies in the graph, or in the file of `size` bytes beside it
    with the bytes that its shape and dtype take."""
    import onnx

    item = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize if tensor.data_type in range(1, 17) else 0
    numbers = math.prod(tensor.dims) if all(length >= 0 for length in tensor.dims) else -1
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        if tensor.external_data or len(tensor.raw_data) != numbers * item:
            raise ProgramError(
                f"{program.model_file}: {tensor.name:.80} has not the bytes of its shape; export it again"
            )
        return
    place = {entry.key: entry.value for entry in tensor.external_data}
    if place.get("location") != program.params_file.name:
        where, alone = place.get("location", "nowhere"), program.params_file.name
        raise ProgramError(
            f"{program.model_file}: {tensor.name:.80} lies in {where!r:.80}, not in {alone}; export it again"
        )
    offset, length = (int(place[key]) if place.get(key, "").isdecimal() else -1 for key in ("offset", "length"))
    if offset < 0 or length != numbers * item or offset + length > size:
        raise ProgramError(
            f"{program.params_file}: has not the bytes of {tensor.name:.80} where its program says; export both again"
        )
