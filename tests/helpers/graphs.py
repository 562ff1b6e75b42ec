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
