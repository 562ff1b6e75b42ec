"""Loops and branches on tensors: Python's own eagerly, one operator each when a program is exported."""

import paddle


def while_loop(condition, body, variables):
    """Repeat body while condition holds and return the variables, a list of tensors.

    condition(*variables) → bool tensor [1]; body(*variables) → the next variables. Each variable has to be a tensor of
    its own: an exported loop whose variables share one loses its results.
    """
    if paddle.in_dynamic_mode():
        while bool(condition(*variables)):
            variables = body(*variables)
        return variables
    return paddle.static.nn.while_loop(condition, body, variables)


def branch(condition, then, otherwise):
    """then() if the bool tensor [1] holds, else otherwise(). Both give a tensor of the same dtype and rank."""
    if paddle.in_dynamic_mode():
        return then() if bool(condition) else otherwise()
    return paddle.static.nn.cond(condition, then, otherwise)
