"""Programs of Paddle's, of either format, that are changed as a stranger might."""

import json

import paddle

from glm import stacks
from glm.export import inspection, program

FORMAT = stacks.current().program_format
# Suffix of the graph's file, and how an operator is called in it.
SUFFIX = program.FILES[FORMAT][0]
PREFIX = {"paddle": "", "pir": "1."}[FORMAT]


def with_operator(kind, in_loop=False, **attributes):
    """A function from the bytes of a graph to those of one with another operator in it: behind the inputs, on the first
    of which it works, or at the beginning of the loop's body."""

    def described(block):
        feeds = [number for number, operator in enumerate(block.ops) if operator.type == "feed"]
        body = block.program.block(1) if in_loop else block
        added = body.desc._insert_op(0 if in_loop else feeds[-1] + 1)
        added.set_type(kind)
        if not in_loop:
            added.set_input("X", [block.ops[feeds[0]].output_arg_names[0]])
        for name, value in attributes.items():
            added._set_attr(name, value)

    def in_pir(operators):
        loop = next(operator for operator in operators if operator["#"] == "1.while")
        body = loop["regions"][0]["blocks"][0]["ops"] if in_loop else operators
        first = max([number for number, operator in enumerate(body) if operator["#"] == "1.data"], default=-1)
        inputs = [] if in_loop else [{"%": body[first]["O"][0]["%"]}]
        kinds = {bool: "0.a_bool", str: "0.a_str"}
        given = [{"AT": {"#": kinds[type(value)], "D": value}, "N": name} for name, value in attributes.items()]
        body.insert(first + 1, {"#": f"1.{kind}", "A": given, "I": inputs, "O": [], "OA": []})

    return changed(described, in_pir)


def without_input(kind):
    """A function from the bytes of a graph to those of one whose operators of a kind have lost their first input."""

    def described(block):
        for number in range(block.program.num_blocks):
            for operator in block.program.block(number).ops:
                if operator.type == kind:
                    operator.desc.set_input("X", ["none"])

    def in_pir(operators):
        for operator in inspection.pir_operators({"regions": [{"blocks": [{"ops": operators}]}]}):
            if operator["#"] == f"1.{kind}":
                operator["I"][0] = {"%": 0}

    return changed(described, in_pir)


def changed(described, in_pir):
    """A function that changes a graph's bytes: by a function of the global block of a program, or of the list of a
    program's operators in PIR."""

    def of_pir(content):
        graph = json.loads(content)
        in_pir(graph["program"]["regions"][0]["blocks"][0]["ops"])
        return json.dumps(graph).encode()

    def of_program(content):
        paddle.enable_static()
        try:
            graph = paddle.base.framework.Program.parse_from_string(content)
            described(graph.global_block())
            return graph.desc.serialize_to_string()
        finally:
            paddle.disable_static()

    return {"paddle": of_program, "pir": of_pir}[FORMAT]


def operators(model_file):
    """[(kind, dtypes that it reads, dtypes that it gives)] of all operators of a program, dtypes as tuples of names;
    those that hold other operators are left out, and so is what a program is fed and gives."""
    content = model_file.read_bytes()
    if model_file.suffix == ".json":
        return list(of_pir(json.loads(content)["program"], {}))
    return list(of_description(paddle.base.core.ProgramDesc(content)))


# Names of dtypes in PIR → those of paddle.
PIR_NAMES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "i32": "int32", "i64": "int64"}


def of_pir(owner, known):
    """operators(), of a program or an operator in PIR. known: {number of a value: its dtype}."""

    def dtype(kind):
        return PIR_NAMES.get(kind["D"][0]["#"].removeprefix("0.t_"), "other") if kind["#"] == "0.t_dtensor" else "other"

    for region in owner.get("regions", []):
        for block in region["blocks"]:
            known.update({value["#"]: dtype(value["TT"]) for value in block["args"]})
            for operator in block["ops"]:
                results = operator["O"] if isinstance(operator["O"], list) else [operator["O"]]
                known.update({value["%"]: dtype(value["TT"]) for value in results})
                yield from of_pir(operator, known)
                kind = operator["#"].partition(".")[2]
                if "regions" not in operator and kind not in ("", "fetch", "data", "yield"):
                    yield (
                        kind,
                        tuple(known[value["%"]] for value in operator.get("I", [])),
                        tuple(known[value["%"]] for value in results),
                    )


def of_description(program):
    """operators(), of a core.ProgramDesc."""

    def dtype(block, name):
        variable = block.find_var(name.encode())
        if variable is None:
            return dtype(program.block(block.parent), name)
        return str(variable.dtype()).rpartition(".")[2]

    for number in range(program.num_blocks()):
        block = program.block(number)
        for operator in (block.op(place) for place in range(block.op_size())):
            if operator.type() not in ("feed", "fetch", "while", "conditional_block", "select_input"):
                names = operator.input_arg_names(), operator.output_arg_names()
                yield operator.type(), *(tuple(dtype(block, name) for name in side) for side in names)
